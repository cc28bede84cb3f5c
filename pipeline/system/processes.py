"""Child processes that do not outlive the one that started them, and that end in their own time after Ctrl-C."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.files import ROOT

STARTED_BY = "CLGRPO_STARTED_BY"
"""Environment variable: the process that started a launcher, for the launcher's own children to look for."""
_PR_SET_PDEATHSIG = 1


def die_with_parent(by: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask the kernel to end this process when its parent dies, so that nothing trains on after `kill -9`.

    Only Linux has the call; elsewhere this does nothing.

    Args:
        by: the signal it ends this process with.
        parent: the parent's id, where it is known: one that died before the call is noticed then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), by)


def how_ended(code: int) -> str:
    """An exit code of subprocess in words; below 0 it is the signal that ended the process."""
    if code >= 0:
        return f"exit status {code}"
    if -code not in set(signal.Signals):
        return f"ended by signal {-code}"
    killed = " (the kernel does that when memory is full; see dmesg)" if code == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{killed}"


def ignore_signals(parent: int) -> None:
    """In a launcher, before it starts: end with `parent`, and hear neither Ctrl-C nor SIGTERM.

    torchrun would pass them on and kill its workers 30 s later, in the middle of a save.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, parent)


def run_child(
    command: Sequence[str],
    *,
    dies_by: signal.Signals = signal.SIGTERM,
    meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None,
    **how: Any,
) -> int:
    """Run a child to its end; its exit status.

    Ctrl-C reaches a child as well, and SIGTERM is passed on; it may have replies in flight that are paid for, or a checkpoint
    to write. It ends itself, then this raises KeyboardInterrupt.

    Args:
        command: what to run.
        dies_by: what it is sent when this process dies.
        meanwhile: called again and again while it runs; None waits.
        how: more arguments of Popen.
    """
    pressed: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        if child is not None and number == signal.SIGTERM:
            child.send_signal(number)

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = subprocess.Popen(
            command, env=child_environment(), preexec_fn=partial(die_with_parent, dies_by, os.getpid()), **how
        )
        try:
            while meanwhile is not None and child.poll() is None:
                meanwhile(child)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pressed:
        raise KeyboardInterrupt
    return code


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a child: ours, with this project importable from whatever folder the user stands in.

    The interpreter's own programs come first on the PATH: ninja, which DeepSpeed and vLLM compile with, is found there even
    when the virtual environment is not activated.
    """
    return {
        **os.environ,
        "PYTHONPATH": _before("PYTHONPATH", ROOT),
        "PATH": _before("PATH", Path(sys.executable).parent),
        **more,
    }


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get(variable)])])
