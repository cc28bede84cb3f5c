"""Child processes that do not outlive the one that started them, and that end in their own time after Ctrl-C."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.files import ROOT
from pipeline.system.library_patches import SAYING_NOTHING

told = logging.getLogger(__name__)
STARTED_BY = "CLGRPO_STARTED_BY"
"""Environment variable: the process that started a launcher, for the launcher's own children to look for."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to save and end: Ctrl-C, a batch system or `kill`, and a terminal that closes."""
STOP_SECONDS = 20
"""What a server that is asked to end gets for it before it is killed."""
LONGEST_TMPDIR = 70
"""Bytes of a TMPDIR in which sockets can have their names: a path of theirs has at most 107, and vLLM adds 37 of them."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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


def adopt_orphans() -> None:
    """Become the parent of what this process's descendants leave behind, so that it can be found and ended. Only on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def how_ended(code: int) -> str:
    """Return an exit code of subprocess in words; below 0 it is the signal that ended the process."""
    if code >= 0:
        return f"exit status {code}"
    if -code not in set(signal.Signals):
        return f"ended by signal {-code}"
    killed = " (the kernel does that when memory is full; see dmesg)" if code == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{killed}"


def start_apart(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    dies_by: signal.Signals = signal.SIGTERM,
    deaf: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, with its output in a log: a terminal's Ctrl-C reaches this process alone.

    Args:
        command: what to run.
        log: the file; written anew.
        environment: the child's; see `child_environment`.
        dies_by: what it is sent when this process dies.
        deaf: whether it hears neither Ctrl-C nor SIGTERM. torchrun would pass them on and kill its workers 30 s later, in the
            middle of a save.
    """
    told.debug("starting %s, with its output in %s", shlex.join(command), log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(_before_it_runs, dies_by, os.getpid(), (signal.SIGINT, signal.SIGTERM) if deaf else ()),
        )


def _before_it_runs(dies_by: signal.Signals, parent: int, ignored: Sequence[signal.Signals]) -> None:
    # A worker of a stage blocks what asks it to stop; a server that inherited that would not hear it, and outlive the worker.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(dies_by, parent)


def kill_session(child: subprocess.Popen[bytes]) -> None:
    """Kill a child of `start_apart`, if it lives, and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def on_signals(handler: Callable[[int, Any], Any] | signal.Handlers) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP call `handler` within the block; SIGHUP stays ignored where it is (under nohup)."""
    numbers = [number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def as_ctrl_c() -> contextlib.AbstractContextManager[None]:
    """Let SIGTERM (a batch system's end of time) and SIGHUP stop a block as Ctrl-C does, from a background shell too."""
    return on_signals(signal.default_int_handler)


class Children:
    """Children that run at once, of a `children` block."""

    def __init__(self) -> None:
        self.pressed: list[int] = []
        """The signals that came."""
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        dies_by: signal.Signals = signal.SIGTERM,
        environment: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> subprocess.Popen[bytes]:
        """Start one more.

        Args:
            command: what to run.
            dies_by: what it is sent when this process dies.
            environment: what is added to this process's.
            kwargs: more arguments of Popen.
        """
        told.debug("starting %s", shlex.join(command))
        # Out of a terminal's foreground, it may still write there (SIGTTOU).
        child = subprocess.Popen(
            command,
            env=child_environment(**environment or {}),
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=partial(_before_it_runs, dies_by, os.getpid(), (signal.SIGTTOU,)),
            **kwargs,
        )
        self._started.append(child)
        # What came while it was started.
        for number in self.pressed[:1]:
            child.send_signal(number)
        return child

    def press(self, number: int, frame: object = None) -> None:
        """Pass a signal on to all."""
        self.pressed.append(number)
        for child in self._started:
            child.send_signal(number)

    def kill(self) -> None:
        """Kill those that live."""
        for child in self._started:
            if child.poll() is None:
                child.kill()
                child.wait()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """Give what starts children, none of which outlives the block.

    Ctrl-C, SIGTERM and SIGHUP are passed on, and they end themselves: they may have replies in flight that are paid for, or a
    checkpoint to write. Each is a process group of its own, so that a signal reaches it once, whether a terminal sent it to all
    its foreground or somebody to this process alone. Only for the main thread, whose death they would die of.
    """
    ours = Children()
    with on_signals(ours.press):
        try:
            yield ours
        finally:
            ours.kill()


def run_child(
    command: Sequence[str], *, meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None, **how: Any
) -> int:
    """Run a child to its end, as `children` has it; its exit status.

    Args:
        command: what to run.
        meanwhile: called again and again while it runs; None waits.
        how: more arguments of `Children.start`.

    Raises:
        KeyboardInterrupt: after it has ended, when a signal was passed on to it.
    """
    with children() as ours:
        child = ours.start(command, **how)
        while meanwhile is not None and child.poll() is None:
            meanwhile(child)
        code = child.wait()
    if ours.pressed:
        raise KeyboardInterrupt
    return code


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment of a child: ours, with this project importable from whatever folder the user stands in.

    The interpreter's own programs come first on the PATH: ninja, which DeepSpeed and vLLM compile with, is found there even
    when the virtual environment is not activated. It reports to nobody that it runs. A TMPDIR that is too long for sockets, of
    vLLM's engine and of processes that read pictures ahead, is /tmp.
    """
    folder = socket_folder()
    return {
        **SAYING_NOTHING,
        **os.environ,
        **({"TMPDIR": folder} if folder else {}),
        "PYTHONPATH": _before("PYTHONPATH", ROOT),
        "PATH": _before("PATH", Path(sys.executable).parent),
        **more,
    }


def socket_folder() -> str | None:
    """Return the folder for temporary sockets where TMPDIR, as a batch system may make it, is too long; else None."""
    return "/tmp" if len(os.fsencode(os.environ.get("TMPDIR", ""))) > LONGEST_TMPDIR else None


def _before(variable: str, folder: Path) -> str:
    # Once, however many processes have handed it on.
    others = [one for one in os.environ.get(variable, "").split(os.pathsep) if one and one != str(folder)]
    return os.pathsep.join([str(folder), *others])
