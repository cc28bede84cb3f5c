"""A sweep as one self-contained page that helps to choose: accuracy against memory, a table to sort, who differs from whom.

Its script only hides and sorts; without it everything is there, task below task. Nothing is fetched, every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from pipeline.formatting import percent, printable
from pipeline.reports.charts import OTHERS, Dot, against
from pipeline.reports.page import render
from pipeline.reports.table import Column, Table
from pipeline.sweeps.rows import CellRow, GroupRow, SweepResults
from pipeline.sweeps.table import best_first, by_cell, cells_table, differences, official_scores, rotated, seeing, steps

_MARKERS = ("o", "s", "D", "^", "X", "o")
"""Of precisions, as matplotlib calls them, and as _SHAPES shows them in the legend."""
_SHAPES = ("●", "■", "◆", "▲", "✖", "●")
_LOG_FROM = 4
"""Largest memory over the smallest from which the axis is logarithmic."""


def page(found: SweepResults) -> str:
    """Return the whole HTML page of what `results.results` gave."""
    models = list(dict.fromkeys(row.model for row in found.cells))
    precisions = list(dict.fromkeys(row.precision for row in found.cells))
    return render(
        "sweep.html.jinja",
        style="_sweep.css.jinja",
        script="_sweep.js.jinja",
        title=f"{found.name} – sweep",
        found=found,
        tasks=[_task(found, task, number, models, precisions) for number, task in enumerate(found.pairs)],
        models=models,
        precisions=precisions,
        shapes=dict(zip(precisions, _SHAPES, strict=False)),
        hue=lambda model: _colour(models.index(model)),
    )


def _task(
    found: SweepResults, task: str, number: int, models: Sequence[str], precisions: Sequence[str]
) -> dict[str, Any]:
    rows = sorted((row for row in found.cells if row.task == task), key=best_first)
    front = found.pareto[task]
    return {
        "name": task,
        "id": f"task-{number}",
        "cells": _cells(task, number, rows, front),
        "chart": _chart(rows, front, models, precisions),
        "differences": differences(rows, found.pairs[task]),
        "official": official_scores(found.official, rows),
        "rotated": rotated(found.rotations, rows),
        "steps": steps(found.steps, rows),
        "seeing": seeing(found.seeing, rows),
        "groups": _groups(found.groups, rows),
    }


def _cells(task: str, number: int, rows: Sequence[CellRow], front: Sequence[str]) -> Table:
    rows = [replace(row, model=row.model + " ◆" * (row.cell in front)) for row in rows]
    made = cells_table(f"Cells of {task}", rows)
    shown = [
        {**one, "#id": f"cell-{number}-{place}", "#dim": row.status != "complete"}
        for place, (row, one) in enumerate(zip(rows, made.rows, strict=True))
    ]
    return replace(made, rows=tuple(shown), sorted_by="accuracy").less("seconds")


def _chart(
    rows: Sequence[CellRow], front: Sequence[str], models: Sequence[str], precisions: Sequence[str]
) -> Markup | None:
    """Accuracy against memory of every complete cell of a task; None when there is no cell."""
    dots = tuple(
        Dot(
            row.memory,
            row.accuracy,
            row.accuracy_low,
            row.accuracy_high,
            colour=_colour(models.index(row.model)),
            marker=_MARKERS[precisions.index(row.precision) % len(_MARKERS)],
            hollow=row.mode == "direct",
            name=row.model,
            says=_says(row, row.memory),
            front=row.cell in front,
        )
        for row in rows
        if row.mode != "blind"
        and row.accuracy is not None
        and row.accuracy_low is not None
        and row.accuracy_high is not None
        and row.memory is not None
    )
    chances = [row.chance for row in rows if None not in (row.accuracy, row.memory) and row.chance is not None]
    sizes = [dot.x for dot in dots]
    return _drawn(dots, max(chances, default=None), bool(sizes) and max(sizes) / max(min(sizes), 1e-9) >= _LOG_FROM)


@lru_cache(64)
def _drawn(dots: tuple[Dot, ...], chance: float | None, log: bool) -> Markup | None:
    """A page is written anew whenever a cell ends, and its other tasks have not changed."""
    drawn = against(dots, chance, log)
    return drawn.svg(tips=True) if drawn else None


def _says(row: CellRow, memory: float) -> str:
    """What a mark says of its cell, in two lines."""
    interval = f"[{percent(row.accuracy_low)}, {percent(row.accuracy_high)}]"
    measured = "measured" if row.memory_measured_mb is not None else "estimated"
    pace = "" if row.latency_p50_s is None else f", {row.latency_p50_s:.2f} s a row (median)"
    return printable(
        f"{row.title}: {percent(row.accuracy)} % {interval}\n"
        f"{memory:.0f} MB {measured}{pace}, {row.unparsable} of {row.n} unparsable"
    )


def _colour(place: int) -> int:
    return OTHERS[place % len(OTHERS)]


def _groups(groups: Sequence[GroupRow], rows: Sequence[CellRow]) -> list[Table]:
    """Per grouping a table: its values as columns, the cells as rows."""
    tables = []
    for group in dict.fromkeys(line.group for line in groups):
        values, told = by_cell(
            [line for line in groups if line.group == group], rows, lambda line: line.value, lambda line: line.rate
        )
        columns = (
            Column("cell", "cell"),
            *(Column(key, name, "percent", heat=True) for key, name in values.items()),
        )
        if told:
            tables.append(Table("groups", group, columns, told))
    return tables
