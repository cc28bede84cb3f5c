"""Locks of the kernel on files: held by one process at a time, and gone with it, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Seconds between two tries.
_POLL = 0.2


def acquire(path: Path, wait: float = 0.0) -> IO[str]:
    """Lock a file, which is made with its folder where it is missing.

    Args:
        path: the file; what is in it stays.
        wait: seconds to wait for another process that holds it; `math.inf` waits until it ends.

    Returns:
        The open file. Closing it gives the lock back.

    Raises:
        BlockingIOError: when another process still holds it.
        OSError: when the file cannot be opened, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    deadline = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait == math.inf else fcntl.LOCK_NB))
                return file
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL)
    except BaseException:
        file.close()
        raise


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a file; the file is not made."""
    if not path.exists():
        return False
    try:
        acquire(path).close()
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`, so that the ranks of one job do a piece of work once and the others find it done."""
    with contextlib.ExitStack() as held:
        # A file system without locks costs repeated work, not wrong results.
        with contextlib.suppress(OSError):
            held.enter_context(acquire(path.with_name(f".{path.name}.lock"), wait=math.inf))
        yield
