"""Cells in processes of their own: so many at once as there are slots, each with its log, none outliving the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.evaluation import Cell
from pipeline.system.hardware import visible_gpus
from pipeline.system.processes import child_environment, how_ended, kill_session, start_apart
from stages.processes.workers import last_lines

# Seconds between two looks at the running cells.
_POLL = 0.1


@dataclass(frozen=True)
class Ended:
    """A cell whose process is over. `code` below 0 is the signal that ended it."""

    cell: Cell
    code: int
    seconds: float
    log: Path

    @property
    def how(self) -> str:
        """How it ended, in words."""
        return how_ended(self.code)

    def last_lines(self) -> list[str]:
        """Return the last traceback of its log and what follows it, or the log's last lines."""
        return last_lines(self.log)


@dataclass(frozen=True)
class _Running:
    cell: Cell
    child: subprocess.Popen[bytes]
    log: Path
    slot: str | None
    began: float


def run_cells(
    waiting: Sequence[Cell],
    slots: Sequence[str | None],
    command: Callable[[Cell], Sequence[str]],
    folder: Callable[[Cell], Path],
    started: Callable[[Cell], None],
) -> Generator[Ended, None, None]:
    """Run cells in order and give each as it ends, however it ends.

    When this is closed, or Ctrl-C comes, the running ones are killed: each has written down every batch it has.

    Args:
        waiting: the cells.
        slots: one for each that may run at a time: a CUDA_VISIBLE_DEVICES, or None to leave that as it is.
        command: what runs a cell.
        folder: a cell's own; its logs go to ``logs/`` there.
        started: told of each before it starts.
    """
    queue, free, running = deque(waiting), deque(slots), list[_Running]()
    try:
        while queue or running:
            while queue and free:
                started(queue[0])
                running.append(_start(queue.popleft(), free.popleft(), command, folder))
            over = [one for one in running if one.child.poll() is not None]
            for one in over:
                running.remove(one)
                free.append(one.slot)
                # What it started and left behind.
                kill_session(one.child)
                yield Ended(one.cell, one.child.returncode, time.monotonic() - one.began, one.log)
            if not over:
                time.sleep(_POLL)
    finally:
        for one in running:
            kill_session(one.child)
            one.child.wait()


def _start(
    cell: Cell, slot: str | None, command: Callable[[Cell], Sequence[str]], folder: Callable[[Cell], Path]
) -> _Running:
    logs = folder(cell) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"cell-{len(list(logs.glob('cell-*.log'))) + 1:03d}.log"
    shared = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if slot is not None:
        shared["CUDA_VISIBLE_DEVICES"] = slot
    if visible_gpus() == 0:
        shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    child = start_apart(command(cell), log, child_environment(**shared), dies_by=signal.SIGKILL)
    return _Running(cell, child, log, slot, time.monotonic())
