"""The lock that a killed process leaves on a C++ extension of DeepSpeed's, at which every later start would wait for ever."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)


PATIENCE = 120.0
"""Age in seconds at which a lock that no process here holds is stale. The build may run on another node with the same home."""


def clear_stale_locks() -> None:
    """Delete the locks in torch's extension folder that nobody holds: torch makes a file, and knows of no owner."""
    import torch.utils.cpp_extension as extensions

    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(named or extensions.get_default_build_root())
    for lock in root.glob("*/lock" if named else "*/*/lock"):
        clear_when_stale(lock)


def clear_when_stale(lock: Path, patience: float = PATIENCE) -> None:
    """Return when a lock is gone or held by a process of this machine; delete it once it is `patience` seconds old."""
    while (age := _age(lock)) is not None and not _held(lock):
        if age > patience:
            log.info(f"  deleted {lock}, which a killed build left")
            lock.unlink(missing_ok=True)
            return
        time.sleep(0.5)


def _age(path: Path) -> float | None:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None


def _held(path: Path) -> bool:
    """Whether a process of this machine has the file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == str(path.resolve()):
                return True
        except OSError:
            # It ended, or is another user's.
            continue
    return False
