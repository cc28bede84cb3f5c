"""What a worker works on: a run, a phase and its folder, which one process holds at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import RunConfig, StageConfig
from pipeline.errors import UserError
from pipeline.run_dir import RunDir, in_order_of_deletion
from pipeline.system.locks import acquire


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


@contextlib.contextmanager
def folder_lock(folder: Path, wait: float = 20.0) -> Iterator[None]:
    """Hold a phase's folder alone: a second start waits `wait` seconds for the first to end, then is refused.

    The kernel drops the lock with the process, however it dies.
    """
    try:
        lock = acquire(folder / ".lock", wait)
    except BlockingIOError:
        raise UserError(f"{folder} is in use by another process; wait for it or stop it") from None
    with lock:
        yield


def clean(folder: Path) -> None:
    """Delete what a phase wrote, keeping the folder's lock."""
    for path in in_order_of_deletion(folder):
        if path.name == ".lock":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
