"""Checkpoint folders of a stage: which are whole, which a crash tore, and how one becomes whole. No torch here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

COMPLETE = "complete"
"""The file that marks a checkpoint folder as whole, written when every rank's part is on disk."""


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint of a stage, or None. Torn ones are left aside."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(whole, key=lambda path: step_of(str(path)))) if whole else None


def step_of(checkpoint: str | None) -> int:
    """Return the optimizer steps a checkpoint has behind it; 0 for None."""
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def remove_torn(folder: Path) -> list[str]:
    """Delete the checkpoints that are not whole, and return their names: they take room, and would count as newest when
    the oldest is deleted."""
    torn = [path for path in folder.glob("checkpoint-*") if path.is_dir() and not (path / COMPLETE).exists()]
    for path in torn:
        shutil.rmtree(path)
    return sorted(path.name for path in torn)


def make_durable(folder: Path) -> None:
    """Wait until every file below a folder is on disk, with its name."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
