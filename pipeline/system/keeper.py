"""Keep a server no longer than its starter: ``python -m pipeline.system.keeper COMMAND …``, the leader of a session.

A server may not hear that it is to end: vLLM 0.31 loses a SIGTERM that comes while its engine starts, lives on when the stage
that started it was killed, and holds its GPU. And one that is killed alone leaves its engine. So this process stands between
the two, is sent SIGTERM when the starter dies, passes it on, and kills the whole session when that has not helped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from pipeline.system.processes import STOP_SECONDS, die_with_parent


def main(command: Sequence[str]) -> int:
    """Run a command to its end; once SIGTERM comes it has `STOP_SECONDS`.

    Returns:
        Its exit status, 128 + the signal's number if one ended it, as shells have it.
    """
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.alarm(STOP_SECONDS)
        for child in started:
            child.terminate()

    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGTERM, ask)
    started.append(subprocess.Popen(command, preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid())))
    # What came while it was started.
    if asked:
        started[0].terminate()
    code = started[0].wait()
    if asked:
        # What the server leaves behind, and this process.
        os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
