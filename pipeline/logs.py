"""What is told along the way, as log records: on stderr for a person, in files with time, rank and level.

What a command exists to print (a plan, a table, JSON) goes to stdout by `print`; everything else is logged. A worker writes its
rank's log and, on rank 0, its records to a file of events, one JSON object a line; the process that started it follows that file
(`Events`) and shows them. Steps are records with a ``progress``: one bar that moves at a terminal, a line each elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

ROOMS = ("pipeline", "stages", "cot_builder", "rewards")
LEVEL = "CLGRPO_LOG_LEVEL"
"""Environment variable: the least level that is shown, which processes inherit: DEBUG (--verbose), INFO, or WARNING (--quiet)."""
PHASE = "CLGRPO_PHASE"
"""Environment variable: the phase that a process works on, where others may be worked on beside it: its lines name it, and no
bar moves, for two would write over each other."""
EVENTS = "events.jsonl"
_BAR = "  {desc} {bar:24} {n_fmt}/{total_fmt} {remaining} to go{postfix}"


def log_to_terminal() -> None:
    """Show this process's records on stderr. Calling it again takes up a changed level."""
    _set_handlers(Terminal())


def log_to_files(events: Path | None) -> None:
    """Write this process's records to its stderr, which a worker has turned to its log, with time, rank and level.

    Args:
        events: where rank 0 tells the process that started it; None for none.
    """
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_FileFormatter())
    _set_handlers(log, *([_EventWriter(events)] if events is not None and _rank() == "0" else []))


def show_step(log: logging.Logger, what: str, done: int, total: int, rest: str = "", unit: str = "step") -> None:
    """Tell that `done` of `total` are done, with the figures in `rest`."""
    text = f"  {what} {f'{unit} ' if unit else ''}{done}/{total}{f' {rest}' if rest else ''}"
    log.info(text, extra={"progress": {"what": what, "done": done, "total": total, "rest": rest}})


def moves_bars(stream: TextIO) -> bool:
    """Check whether a bar may move on a stream: it is a terminal, and no other phase writes there."""
    return stream.isatty() and PHASE not in os.environ


def columns(terminal: TextIO) -> int:
    """Return how many columns a line may take: one less than there are, for some terminals go on to the next at the last one."""
    try:
        found = os.get_terminal_size(terminal.fileno()).columns
    except (OSError, ValueError):
        # A stream that is no file.
        found = shutil.get_terminal_size().columns
    return (found or 80) - 1


def bars() -> type[tqdm[Any]]:
    """Return tqdm, which is imported where a bar is drawn: what is told needs no package."""
    from tqdm import tqdm

    # No thread: bars are drawn when something is told.
    tqdm.monitor_interval = 0
    # Its own lock is of several processes, and would need a semaphore.
    tqdm.set_lock(threading.RLock())
    return tqdm


class Terminal(logging.Handler):
    """Shows records on stderr. A terminal that is gone (SIGHUP) loses them and stops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_FileFormatter() if _level() <= logging.DEBUG else _PlainFormatter())
        self._bar: tqdm[Any] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Move the bar, or write a line above it."""
        step = getattr(record, "progress", None)
        with contextlib.suppress(OSError):
            if step is not None and moves_bars(sys.stderr):
                self._move(**step)
            elif self._bar is not None:
                self._bar.write(self.format(record), file=sys.stderr)
                sys.stderr.flush()
            else:
                print(self.format(record), file=sys.stderr, flush=True)

    def _move(self, what: str, done: int, total: int, rest: str) -> None:
        if self._bar is None or (self._bar.desc, self._bar.total) != (what, total):
            self.end_bar()
            # The pace is that since the first step seen here: those before a resume took no time.
            # Nothing is drawn before it has its words (delay), and a terminal without a size has room for it (nrows).
            size: dict[str, Any] = {"ncols": columns(sys.stderr), "nrows": 24}
            self._bar = bars()(initial=done, total=total, bar_format=_BAR, file=sys.stderr, delay=1e-9, **size)
            self._bar.set_description_str(what, refresh=False)
        self._bar.n, self._bar.ncols = done, columns(sys.stderr)
        self._bar.set_postfix_str(rest, refresh=False)
        self._bar.refresh()
        if done == total:
            self.end_bar()

    def end_bar(self) -> None:
        """Let the bar stand as it is."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
        self._bar = None


class Events:
    """Shows what a worker writes to its file of events.

    Args:
        path: the file, which the worker makes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def show(self) -> None:
        """Show the events that are new, whole lines only."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError):
                    _show(json.loads(line))

    def end(self) -> None:
        """Show the last ones, and let a bar that moved stand where it is."""
        self.show()
        for handler in logging.getLogger(ROOMS[0]).handlers:
            if isinstance(handler, Terminal):
                handler.end_bar()


def _show(event: dict[str, Any]) -> None:
    number = logging.getLevelNamesMapping().get(str(event.get("level")), logging.INFO)
    record = {"name": str(event.get("name")), "levelno": number, "levelname": event.get("level"), "args": None}
    record |= {"msg": str(event.get("text")), "created": event.get("time"), "progress": event.get("progress")}
    logging.getLogger(ROOMS[0]).handle(logging.makeLogRecord(record))


class _EventWriter(logging.Handler):
    """Appends records to a file of events, each in one write."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        event = {"time": record.created, "level": record.levelname, "name": record.name, "text": record.getMessage()}
        if (step := getattr(record, "progress", None)) is not None:
            event["progress"] = step
        # A full disk fails at what matters.
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(event).encode() + b"\n")


class _PlainFormatter(logging.Formatter):
    """The message; ``error: `` before one that ends a command, and the phase before a line that does not name it (`PHASE`)."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"error: {record.getMessage()}" if record.levelno >= logging.ERROR else record.getMessage()
        phase = os.environ.get(PHASE, "")
        return "\n".join(line if phase in line else f"{phase}: {line}" for line in text.split("\n"))


class _FileFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 rank 0 INFO stages.training.setup: message``."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{when} rank {_rank()} {record.levelname} {record.name}: {record.getMessage().lstrip()}"


def _set_handlers(*handlers: logging.Handler) -> None:
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.handlers[:] = handlers
        logger.setLevel(_level())


def _level() -> int:
    return logging.getLevelNamesMapping().get(os.environ.get(LEVEL, "INFO"), logging.INFO)


def _rank() -> str:
    return os.environ.get("RANK", "0")
