"""Keep a server no longer than its starter: ``python -m pipeline.system.keeper COMMAND …``, the leader of a session.

A server may not hear that it is to end: vLLM 0.31 loses a SIGTERM that comes while its engine starts, lives on when the stage
that started it was killed, and holds its GPU. And one that is killed alone leaves its engine, which may be in a process group of
its own (its replicas are). So this process stands between the two, is sent SIGTERM when the starter dies, passes it on, kills
what does not end, and what a server leaves behind however it ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import psutil

from pipeline.system.processes import STOP_SECONDS, adopt_orphans, die_with_parent, on_signals


def main(command: Sequence[str]) -> int:
    """Run a command to its end; once Ctrl-C, SIGTERM or SIGHUP comes it has `STOP_SECONDS`. Nothing that it started is left.

    Returns:
        Its exit status, 128 + the signal's number if one ended it, as shells have it.
    """
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        # Who asks again does not put the end off.
        if not asked:
            signal.alarm(STOP_SECONDS)
        asked.append(number)
        for child in started:
            child.terminate()

    adopt_orphans()
    signal.signal(signal.SIGALRM, lambda *_: _kill_descendants())
    with on_signals(ask):
        started.append(subprocess.Popen(command, preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid())))
        # What came while it was started.
        if asked:
            started[0].terminate()
        code = started[0].wait()
        signal.alarm(0)
        # A process that the driver of a GPU holds up dies when that lets go of it, whoever waits.
        for _ in range(STOP_SECONDS):
            if not (left := _kill_descendants()):
                break
            psutil.wait_procs(left, timeout=1)
        for one in _descendants():
            _kill(one)
    return code if code >= 0 else 128 - code


def _kill_descendants() -> list[psutil.Process]:
    """Kill what descends from this process, and return it; nobody is waited for, since that would take a child's status.

    Python's resource trackers are spared. They end by themselves once those they serve are dead, and first take away the
    shared memory that those left: were they killed, too, the hundreds of MB of an engine would stay in /dev/shm.
    """
    found = _descendants()
    for one in found:
        if not _tracks_resources(one):
            _kill(one)
    return found


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _tracks_resources(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
