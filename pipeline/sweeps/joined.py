"""Sweeps put together: the cells of several, on one machine or many, as the results of one.

    python -m pipeline compare evaluations/small evaluations/large [--out FOLDER]

Nothing is asked again. Drops in accuracy, gaps and tests are made anew over the cells of all, on the rows that two of them have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import TWO_STEPS, Cell, LabConfig, LabModel, LabTask, cells, precisions_of
from pipeline.config.loader import load_merged, to_plain
from pipeline.errors import UserError
from pipeline.files import differences, read_json, write_atomic
from pipeline.metrics.stored import from_json
from pipeline.sweeps.files import PAGE, as_markdown, write_results
from pipeline.sweeps.page import DOWNSCALING, page
from pipeline.sweeps.results import EVALUATION, Cells, Planned, results
from pipeline.sweeps.rows import CellRow, SweepResults

LAB, RESULTS = "lab.yaml", "results.json"


@dataclass
class Joined(Cells):
    """The cells of several sweeps, each in the folder of its own."""

    folders: Mapping[Cell, Path] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """Return every cell, sweep by sweep."""
        return [*self.folders]

    def folder(self, cell: Cell) -> Path:
        """Return where a cell keeps its predictions and figures."""
        return self.folders[cell]


@dataclass(frozen=True)
class _Sweep:
    """What a sweep's own folder says of it."""

    folder: Path
    config: LabConfig
    rows: Mapping[str, CellRow]
    """By the name of the cell."""

    @property
    def models(self) -> dict[str, LabModel]:
        """With the precisions they are asked in."""
        found = self.config.models
        return {name: replace(one, precisions=precisions_of(self.config, one)) for name, one in found.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """What else its cells are asked by; words of its own for two steps by their digests, wherever they lie."""
        asked = {"rotate_options": self.config.rotate_options}
        two_steps = self.inputs("own_prompts", lambda cell: cell.mode in TWO_STEPS)
        return asked | ({"prompts": two_steps[0] or {}} if two_steps else {})

    def inputs(self, key: str, of: Callable[[Cell], bool]) -> list[Any]:
        """Return one of the inputs of each cell that was begun, as it recorded it; None where it has none."""
        files = (self.folder / "cells" / cell.id / EVALUATION for cell in cells(self.config) if of(cell))
        return [(read_json(file).get("inputs") or {}).get(key) for file in files if file.is_file()]

    @property
    def tasks(self) -> dict[str, LabTask]:
        """Wherever their data lie."""
        return {name: replace(one, task=replace(one.task, path=None)) for name, one in self.config.tasks.items()}


def sweep_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders that are sweeps', each once.

    Raises:
        UserError: when some are, and some are not.
    """
    found = [folder for folder in dict.fromkeys(folders) if (folder / LAB).is_file()]
    others = [folder for folder in folders if folder not in found]
    if found and others:
        raise UserError(
            f"compare takes sweeps ({', '.join(map(str, found))}) or runs and folders with predictions.jsonl "
            f"({', '.join(map(str, others))}), not both; a cell of a sweep is such a folder: cells/<cell>"
        )
    return found


def compare_sweeps(folders: Sequence[Path], out: Path | None) -> str:
    """Put sweeps together; return what there is to read: the tables, or where they were written.

    Args:
        folders: of sweeps.
        out: a folder for everything that a sweep writes of itself, or a file: .html for the page, .md for the tables.

    Raises:
        UserError: as `join`; when `out` is one of the sweeps.
    """
    if out is not None and out.resolve() in [folder.resolve() for folder in folders]:
        raise UserError(
            f"--out: {out} is a sweep that is compared, whose own results would be lost; name another folder"
        )
    known, told = join(folders)
    found = results(known)
    if out is None:
        return "\n".join([as_markdown(found), *told])
    if out.suffix in (".md", ".html"):
        write_atomic(out, as_markdown(found) if out.suffix == ".md" else page(found))
        return "\n".join([*told, str(out)])
    write_results(found, out)
    drawn = out / DOWNSCALING
    return "\n".join([*told, *([str(drawn)] if drawn.exists() else []), str(out / PAGE)])


def join(folders: Sequence[Path]) -> tuple[Joined, list[str]]:
    """Return the cells of sweeps, and what a reader must know of them.

    A cell that several have is taken where it is complete first.

    Raises:
        UserError: naming every folder that cannot be read, and every name that means another thing in one sweep than in another.
    """
    problems: list[str] = []
    sweeps = [sweep for folder in folders if (sweep := _read(folder, problems)) is not None]
    if problems or not sweeps:
        raise UserError(problems)
    problems += [
        *_unlike("models", [(one, one.models) for one in sweeps]),
        *_unlike("reasoners", [(one, one.config.reasoners) for one in sweeps]),
        *_unlike("tasks", [(one, one.tasks) for one in sweeps]),
        *_unlike("settings", [(one, one.settings) for one in sweeps]),
    ]
    if problems:
        raise UserError(problems)
    taken: dict[Cell, _Sweep] = {}
    told = []
    for sweep in sweeps:
        again = [cell for cell in cells(sweep.config) if cell in taken]
        better = [cell for cell in again if not _complete(taken[cell], cell) and _complete(sweep, cell)]
        taken |= {cell: sweep for cell in cells(sweep.config) if cell not in again or cell in better}
        if again:
            told.append(
                f"{len(again)} cells of {sweep.folder} are in a sweep before it, too; {len(better)} are taken from it"
            )
    told += _other_rows(sweeps)
    planned = {cell.id: _planned(sweep.rows.get(cell.id)) for cell, sweep in taken.items()}
    config = replace(
        sweeps[0].config,
        name=" + ".join(dict.fromkeys(one.config.name for one in sweeps)),
        models=_all([one.models for one in sweeps]),
        reasoners=_all([one.config.reasoners for one in sweeps]),
        tasks=_all([one.config.tasks for one in sweeps]),
    )
    where = {cell: sweep.folder / "cells" / cell.id for cell, sweep in taken.items()}
    return Joined(config, planned, folders=where), told


def _read(folder: Path, problems: list[str]) -> _Sweep | None:
    if not (folder / RESULTS).is_file():
        problems.append(
            f"{folder}: has no {RESULTS}, which the command of a sweep writes; the cells of another lab are compared one by one: "
            f"{folder}/cells/<cell>"
        )
        return None
    try:
        config = load_merged(LabConfig, folder / LAB)
        stored = from_json(SweepResults, read_json(folder / RESULTS))
    except UserError as error:
        problems += error.problems
    except ValueError as error:
        problems.append(f"{folder / RESULTS}: not of this version ({error}); the sweep's own command writes it anew")
    else:
        return _Sweep(folder, config, {row.cell: row for row in stored.cells})
    return None


def _unlike(what: str, named: Sequence[tuple[_Sweep, Mapping[str, Any]]]) -> Iterator[str]:
    """Names that mean one thing in one sweep and another in a later one."""
    first: dict[str, tuple[_Sweep, Any]] = {}
    for sweep, found in named:
        for name, one in found.items():
            other, known = first.setdefault(name, (sweep, one))
            if known != one:
                how = "; ".join(differences(_plain(known), _plain(one), f"{what}.{name}"))
                yield (
                    f"{what}: {name} is not the same in {other.folder} and {sweep.folder} ({how}); only what is asked alike "
                    "can be put together: give it another name in one of the sweeps"
                )


def _other_rows(sweeps: Sequence[_Sweep]) -> Iterator[str]:
    """Tasks whose rows are others in one sweep than in a sweep before it, though their settings are the same."""
    first: dict[str, tuple[_Sweep, Any]] = {}
    for sweep in sweeps:
        for name in sweep.config.tasks:
            for rows in filter(None, sweep.inputs("rows", lambda cell, name=name: cell.task == name)):  # type: ignore[misc]
                other, known = first.setdefault(name, (sweep, rows))
                if known != rows:
                    yield (
                        f"{name}: {other.folder} and {sweep.folder} were not asked the same rows and pictures, whatever their "
                        "ids; look whether their data are of one version"
                    )
                    break


def _plain(value: Any) -> Any:
    return to_plain(value) if is_dataclass(value) else value


def _complete(sweep: _Sweep, cell: Cell) -> bool:
    row = sweep.rows.get(cell.id)
    return row is not None and row.status == "complete"


def _planned(row: CellRow | None) -> Planned:
    """What a sweep knew of a cell before it was asked, as its results tell it."""
    if row is None:
        return Planned()
    needed, size = (None if one is None else round(1e6 * one) for one in (row.memory_estimated_mb, row.parameters_m))
    return Planned(needed, row.reason if row.status == "refused" else None, size)


def _all(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of all, in order, the first of equals."""
    names = dict.fromkeys(name for of_sweep in found for name in of_sweep)
    return {name: next(of_sweep[name] for of_sweep in found if name in of_sweep) for name in names}
