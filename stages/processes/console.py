"""Lines of a worker that reach the terminal, while all its other output goes to a log."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
