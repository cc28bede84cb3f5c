"""What a sweep says of size, precision and steps: how accuracy, and the gap of one and several steps, move from cell to cell.

`complete` are the cells that are told about and compared with: those with results, none of them blind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipeline.config.evaluation import Cell, LabConfig, precisions_of
from pipeline.metrics.paired_tests import Paired
from pipeline.metrics.scores import Rate
from pipeline.metrics.steps import Gap, Grouping, Side, gap_change, step_gap
from pipeline.sweeps.rows import ScalingRow, StepsRow, names

GROUPINGS = Path(__file__).with_name("steps.yaml")


class Known(Protocol):
    """What is read of a sweep's cells, see `pipeline.sweeps.results.Cells`."""

    @property
    def config(self) -> LabConfig: ...

    def size(self, cell: Cell) -> float | None: ...

    def paired(self, a: Cell, b: Cell) -> Paired: ...

    def once(self, what: str, make: Callable[..., Any], *of: Cell) -> Any: ...


@cache
def groupings() -> dict[str, tuple[Grouping, str]]:
    """Return, by the name of a task's file, what is a single step and what are several, and that in words."""
    read = yaml.safe_load(GROUPINGS.read_text(encoding="utf-8"))
    return {task: (Grouping(_side(one["single"]), _side(one["multi"])), one["says"]) for task, one in read.items()}


def _side(read: dict[str, object]) -> Side:
    values = read["values"]
    assert isinstance(values, list)
    return Side(str(read["group"]), tuple(map(str, values)), bool(read.get("pairs", False)))


def scaling(known: Known, complete: Sequence[Cell]) -> Iterator[ScalingRow]:
    """Yield, per cell of a model of known size, how far its accuracy is below that of the largest model asked so."""
    for cell in complete:
        largest, size = _largest(known, complete, cell), known.size(cell)
        if largest is None or size is None:
            continue
        test = known.paired(largest, cell)
        if test.difference is None or test.low is None or test.high is None:
            continue
        drop = Rate(round(test.difference, 6), round(test.low, 6), round(test.high, 6))
        yield ScalingRow(**names(cell), parameters_m=size, reference=largest.id, n=test.n, drop=drop)


def steps(known: Known, complete: Sequence[Cell]) -> Iterator[StepsRow]:
    """Yield, per cell whose task has rows of one step and of several, the gap and how it moves with size and precision."""
    for cell in complete:
        name = known.config.tasks[cell.task].task.name
        if name not in groupings():
            continue
        grouping, says = groupings()[name]
        gap: Gap | None = known.once("gap", lambda rows, of=grouping: step_gap(rows, of), cell)
        if gap is None:
            continue
        largest, first = _largest(known, complete, cell), _first_precision(known, complete, cell)
        by_size, by_precision = (
            known.once("gap_change", lambda a, b, of=grouping: gap_change(a, b, of), cell, other)
            if other is not None and other != cell
            else None
            for other in (largest, first)
        )
        yield StepsRow(
            **names(cell),
            says=says,
            parameters_m=known.size(cell),
            single=gap.single,
            multi=gap.multi,
            gap=gap.gap,
            outside=gap.outside,
            by_size=by_size,
            size_reference=largest.id if largest and by_size else None,
            by_precision=by_precision,
            precision_reference=first.id if first and by_precision else None,
        )


def _alike(cell: Cell, other: Cell) -> bool:
    """Whether two cells are asked the same in the same way."""
    return (cell.task, cell.mode, cell.reasoner) == (other.task, other.mode, other.reasoner)


def _first_precision(known: Known, complete: Sequence[Cell], cell: Cell) -> Cell | None:
    """The same cell in the first precision its model is asked in."""
    first = precisions_of(known.config, known.config.models[cell.model])[0]
    alike = [one for one in complete if _alike(one, cell) and one.model == cell.model]
    return next((one for one in alike if one.precision == first), None)


def _largest(known: Known, complete: Sequence[Cell], cell: Cell) -> Cell | None:
    """The cell of the largest model asked so: in the same precision where it has one, else in its first."""
    sized = [one for one in complete if _alike(one, cell) and known.size(one) is not None]
    if cell not in sized or len({one.model for one in sized}) < 2:
        return None
    largest = max(sized, key=lambda one: known.size(one) or 0.0).model
    of_largest = [one for one in sized if one.model == largest]
    same = next((one for one in of_largest if one.precision == cell.precision), None)
    return same or _first_precision(known, complete, of_largest[0])
