"""The command line the stage files share: load, check, refuse early, then run the work in processes of its own.

Light on purpose: nothing here imports torch, so ``--help``, ``--dry-run`` and every refusal answer at once. The work itself
runs in ``--worker`` processes, which stages/_workers.py starts.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline import checks, command_line
from pipeline.config import load
from pipeline.errors import UserError
from pipeline.run import RunDir
from pipeline.schema import RunConfig, StageConfig


@dataclass(frozen=True)
class Work:
    """What a worker needs to know: the run, the phase, and where its files go."""

    config: RunConfig
    name: str
    run: RunDir
    look: Callable[[Any], None] | None = None
    """Given the trainer before its first step, in every process; the preflight looks at it there."""

    @property
    def folder(self) -> Path:
        return self.run.phase(self.name)

    @property
    def stage(self) -> StageConfig:
        return self.config.stage(self.name)


def parser(module: str, purpose: str) -> argparse.ArgumentParser:
    """The arguments every stage file takes."""
    arguments = argparse.ArgumentParser(prog=f"python -m stages.{module}", description=purpose)
    arguments.add_argument(
        "--config", default="demo", help="YAML of the run, or the name of one in configs/ (default: demo)"
    )
    arguments.add_argument("--dry-run", action="store_true", help="resolve, check and print; start nothing")
    arguments.add_argument("--clean", action="store_true", help="delete what this phase wrote before and start it anew")
    arguments.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
    return arguments


def load_checked(arguments: argparse.Namespace) -> tuple[RunConfig, RunDir]:
    """The run's configuration, with every rule tested."""
    config = load(arguments.config, arguments.overrides)
    checks.check(config)
    return config, RunDir(config.output_dir, config.name)


def guarded(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run an entry point and exit with its status; what a user can mend, and Ctrl-C, is told without a traceback."""
    sys.exit(command_line.status(lambda: main(argv)))


@contextlib.contextmanager
def only_one(folder: Path, wait: float = 20.0) -> Iterator[None]:
    """Hold a phase's folder alone: a second start waits `wait` seconds for the first to end, then is refused.

    The kernel drops the lock with the process, however it dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"{folder} is in use by another process; wait for it or stop it") from None
                time.sleep(0.2)
        yield


MARK = "\x1e"
"""Starts the lines of a worker that belong on the terminal; the rest goes to the log alone."""


_terminal = 1
"""Where the launcher listens: this process's output, also when that has been turned to a log."""


def write_to(log: Path) -> None:
    """Turn all further output of this process, C libraries' too, to a log; `say` reaches the launcher as before."""
    global _terminal
    sys.stdout.flush()
    sys.stderr.flush()
    _terminal = os.dup(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def say(line: str) -> None:
    """Show one line of a worker to the person at the terminal (rank 0 only; the launcher passes it on)."""
    if os.environ.get("RANK", "0") == "0":
        if _terminal != 1:
            print(line, flush=True)  # In this rank's log too.
        os.write(
            _terminal, f"{MARK}{line}\n".encode()
        )  # One write: the line's end cannot come after another rank's line.


def say_here(line: str) -> None:
    """Show one line of an entry point itself."""
    print(line, file=sys.stderr, flush=True)


def clean(folder: Path) -> None:
    """Delete what a phase wrote, keeping the folder's lock."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name == ".lock":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
