"""Evaluate models × tasks × precisions × modes, each cell in a process of its own, and write one table and one page.

    python -m stages.sweep --config configs/sweeps/demo.yaml [a.b=c …] [--dry-run] [--smoke] [--workers N]
    python -m stages.sweep --config configs/sweeps/demo.yaml --budget 8GB [--task TASK]

A cell that fails is recorded and the others go on. After a crash, a `kill -9` or Ctrl-C the same command goes on: complete cells
are skipped, begun ones ask only the rows that are missing. The exit status is 1 when a cell is not complete at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline import command_line
from pipeline.checks.evaluation import load_lab
from pipeline.config.evaluation import Cell, LabConfig, cell_folder, cells, lab_folder
from pipeline.config.loader import to_plain
from pipeline.errors import UserError, did_you_mean
from pipeline.files import read_json, write_atomic, write_json
from pipeline.formatting import duration, percent
from pipeline.sweeps.budget import advise, parse_budget
from pipeline.sweeps.files import PAGE, write_results
from pipeline.sweeps.plan import describe, key, make_plan, smoke_lab
from pipeline.sweeps.results import FAILURE, Cells, results
from pipeline.system.hardware import gpu_names
from pipeline.system.processes import as_ctrl_c
from stages.processes.cells import Ended, run_cells
from stages.processes.command import run_cli
from stages.processes.work import folder_lock

log = logging.getLogger("stages.sweep")

DONE = "complete.json"
"""Cell: the key under which it was seen complete, so that a process need not be started to find that nothing changed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of a sweep."""
    arguments = command_line.parse(_parser(), argv)
    config = load_lab(arguments.config, arguments.overrides)
    if arguments.smoke:
        config = smoke_lab(config)
    if arguments.task and not arguments.budget:
        raise UserError(
            "--task: chooses the tasks that --budget tells about; tasks that are asked are those of the file"
        )
    budget = parse_budget(arguments.budget) if arguments.budget else 0
    folder = lab_folder(config)
    slots = _slots(arguments.workers)
    plan = make_plan(config, arguments.ignore_memory, [gpu for gpu in slots if gpu is not None])
    known = Cells(config, plan.planned)
    if arguments.dry_run:
        print(describe(config, plan, known, folder))
        return 0
    if arguments.budget:
        print(advise(results(known), _tasks(config, arguments.task), budget))
        return 0
    with folder_lock(folder, wait=2.0):
        if arguments.clean:
            _clean(config, arguments.clean)
        file = folder / "lab.yaml"
        write_atomic(file, yaml.safe_dump(to_plain(config), sort_keys=False))
        return Sweep(config, known, file, arguments.cell_module).run(slots)


class Sweep:
    """One attempt at a lab's cells."""

    def __init__(self, config: LabConfig, known: Cells, file: Path, module: str) -> None:
        self.config, self.known, self.file, self.module = config, known, file, module
        self.folder = lab_folder(config)
        self.began = time.monotonic()
        self.done: dict[str, str] = read_json(self.folder / DONE)

    def run(self, slots: Sequence[str | None]) -> int:
        """Run what is to be run; the exit status."""
        waiting = []
        for cell in cells(self.config):
            if self.known.planned[cell.id].refused and not self._is_complete(cell):
                self._say(f"{cell.id}: not started: it {self.known.planned[cell.id].refused}")
            elif not (self._is_complete(cell) and self.done.get(cell.id) == key(self.config, cell)):
                waiting.append(cell)
        self._say(f"{len(waiting)} of {len(cells(self.config))} cells to run, {len(slots)} at a time")
        write_results(results(self.known), self.folder)
        with as_ctrl_c():
            running = run_cells(waiting, slots, self._command, self._folder, self._started)
            with contextlib.closing(running):
                for ended in running:
                    self._ended(ended)
                    write_results(results(self.known), self.folder)
        rows = results(self.known).cells
        missing = [row for row in rows if row.status != "complete"]
        for row in missing:
            print(f"{row.status}: {row.cell}: {row.reason or ''}")
        print(f"{len(rows) - len(missing)} of {len(rows)} cells are complete; {self.folder / PAGE}")
        return 1 if missing else 0

    def _is_complete(self, cell: Cell) -> bool:
        return self.known.row(cell).status == "complete"

    def _command(self, cell: Cell) -> list[str]:
        return [sys.executable, "-m", self.module, "--config", str(self.file), "--cell", cell.id]

    def _folder(self, cell: Cell) -> Path:
        return cell_folder(self.config, cell)

    def _started(self, cell: Cell) -> None:
        (self._folder(cell) / FAILURE).unlink(missing_ok=True)
        self._say(f"{cell.id}: started")

    def _ended(self, ended: Ended) -> None:
        """Note how a cell ended: its key when it is complete, or why it is not."""
        cell = ended.cell
        if ended.code == 0 and self._is_complete(cell):
            self.done[cell.id] = key(self.config, cell)
            write_json(self.folder / DONE, dict(sorted(self.done.items())))
            row = self.known.row(cell)
            told = f"{percent(row.accuracy)} % of {row.n} right (chance {percent(row.chance)} %)"
            self._say(f"{cell.id}: {told}, {duration(ended.seconds)}")
            return
        lines = ended.last_lines()
        how = ended.how if ended.code else "ended without a complete evaluation.json"
        reason = how + (f": {lines[-1].strip()}" if lines else "")
        failure = {"status": "failed", "exit_status": ended.code, "reason": reason, "last_lines": lines}
        write_json(self._folder(cell) / FAILURE, {**failure, "log": ended.log.name})
        self._say("\n  ".join([f"{cell.id}: FAILED: {how}; {ended.log}", *lines[-3:]]))

    def _say(self, line: str) -> None:
        seconds = int(time.monotonic() - self.began)
        log.info("[%02d:%02d] %s", seconds // 60, seconds % 60, line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="YAML of the lab, or the name of one in configs/sweeps/")
    parser.add_argument("--dry-run", action="store_true", help="print memory and cells; start nothing")
    parser.add_argument("--smoke", action="store_true", help="ask every cell its first rows alone, and say who fails")
    parser.add_argument(
        "--budget",
        metavar="8GB",
        help="start nothing; tell the most accurate model within this memory, of the cells that are complete",
    )
    parser.add_argument("--task", action="append", metavar="TASK", help="with --budget: of this task alone")
    parser.add_argument("--workers", type=int, metavar="N", help="cells at a time (default: one per GPU; 1 on a CPU)")
    parser.add_argument("--ignore-memory", action="store_true", help="start cells that by the estimate cannot fit")
    parser.add_argument(
        "--clean", metavar="CELL", help="forget what these cells have; a name or a pattern such as '*--4bit--*'"
    )
    parser.add_argument("--cell-module", default="stages.cell", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
    return parser


def _slots(workers: int | None) -> list[str | None]:
    """What may run at a time: one cell per GPU, or `workers` of them."""
    gpus = gpu_names()
    if workers is not None and (workers < 1 or (gpus and workers > len(gpus))):
        raise UserError(
            f"--workers: {workers} must be at least 1{f' and at most {len(gpus)}, the visible GPUs' * bool(gpus)}"
        )
    if len(gpus) > 1:
        return [*gpus[: workers or len(gpus)]]
    return [None] * (workers or 1)


def _tasks(config: LabConfig, named: Sequence[str] | None) -> list[str]:
    if wrong := [name for name in named or () if name not in config.tasks]:
        raise UserError(
            [f"--task: {name!r} is no task of this lab; {did_you_mean(name, config.tasks)}" for name in wrong]
        )
    return [*(named or config.tasks)]


def _clean(config: LabConfig, pattern: str) -> None:
    doomed = [cell for cell in cells(config) if fnmatch.fnmatchcase(cell.id, "*" if pattern == "all" else pattern)]
    if not doomed:
        raise UserError(f"--clean: {pattern!r} is no cell of this lab; --dry-run lists them")
    for cell in doomed:
        shutil.rmtree(cell_folder(config, cell), ignore_errors=True)


if __name__ == "__main__":
    run_cli(main)
