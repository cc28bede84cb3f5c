"""A sweep as one self-contained page that helps to choose: accuracy against memory, a table to sort, who differs from whom.

Its script only hides and sorts; without it everything is there, task below task. Nothing is fetched, every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from pipeline.formatting import percent, points, printable
from pipeline.metrics.scores import Rate
from pipeline.reports.charts import OTHERS, Chart, Dot, Sized, against, scaling
from pipeline.reports.page import render
from pipeline.reports.table import Column, Table
from pipeline.sweeps.rows import CellKey, CellRow, GroupRow, SweepResults
from pipeline.sweeps.table import best_first, by_cell, cells_table, differences, official_scores, rotated, seeing, steps

_MARKERS = ("o", "s", "D", "^", "X", "o")
"""Of precisions, as matplotlib calls them, and as _SHAPES shows them in the legend."""
_SHAPES = ("●", "■", "◆", "▲", "✖", "●")
_LOG_FROM = 4
"""Largest memory over the smallest from which the axis is logarithmic."""
DOWNSCALING = "downscaling.png"
_PANELS = (
    ("accuracy below the largest model's, points", "what a smaller model loses"),
    ("direct − blind, points", "what seeing is worth"),
    ("single − several steps, points", "the gap of steps"),
)
"""Of a task, side by side: what the axis is of, and the panel's title."""


def downscaling(found: SweepResults, tasks: Sequence[str]) -> Chart | None:
    """Return how accuracy, the worth of seeing and the gap of steps move with the model's size, a line of panels per task.

    None where no model's size is known, or none is asked that is larger than another.
    """
    panels = [
        (f"{task}: {title}" if len(tasks) > 1 else title, what, _sized(found, lines, task))
        for task in tasks
        for (what, title), lines in zip(_PANELS, _moving(found), strict=True)
    ]
    used = [place for place in range(3) if any(panel[2] for panel in panels[place::3])]
    return _scaled(tuple(one for place, one in enumerate(panels) if place % 3 in used), len(used)) if used else None


@lru_cache(16)
def _scaled(panels: tuple[tuple[str, str, tuple[Sized, ...]], ...], columns: int) -> Chart | None:
    """A page is written anew whenever a cell ends, and most of it has not changed."""
    return scaling(panels, columns)


def _moving(found: SweepResults) -> list[list[tuple[CellKey, Rate]]]:
    """(cell, difference) of each panel."""
    return [
        [(line, line.drop) for line in found.scaling],
        [(line, line.gain) for line in found.seeing if not line.group],
        [(line, line.gap) for line in found.steps],
    ]


def _sized(found: SweepResults, lines: Sequence[tuple[CellKey, Rate]], task: str) -> tuple[Sized, ...]:
    """A line per way and precision, where at least two models of known size have a value in the task."""
    sizes = {row.asked: row.parameters_m for row in found.cells}
    here = [(line, rate, size) for line, rate in lines if line.task == task and (size := sizes[line.asked])]
    if len({line.model for line, *_ in here}) < 2:
        return ()
    precisions = list(dict.fromkeys(row.precision for row in found.cells))
    ways = list(dict.fromkeys(row.way for row in found.cells))
    drawn = []
    for way, precision in dict.fromkeys((line.way, line.precision) for line, *_ in here):
        marks = [
            (
                size,
                rate.share,
                rate.low or 0.0,
                rate.high or 0.0,
                f"{line.title}\n{points(rate.share)} [{points(rate.low)}, {points(rate.high)}] points",
            )
            for line, rate, size in here
            if (line.way, line.precision) == (way, precision)
        ]
        colour, marker = _colour(ways.index(way)), _MARKERS[precisions.index(precision) % len(_MARKERS)]
        drawn.append(Sized(f"{way} · {precision}", colour, marker, tuple(marks)))
    return tuple(drawn)


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
        "downscaling": _downscaled(found, task),
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


def _downscaled(found: SweepResults, task: str) -> Markup | None:
    drawn = downscaling(found, [task])
    return drawn.svg(tips=True) if drawn else None


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
