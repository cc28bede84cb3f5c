"""A sweep as one self-contained page that helps to choose: accuracy against memory, a table to sort, who differs from whom.

Its script only hides and sorts; without it everything is there, task below task. Nothing is fetched, every text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from pipeline.formatting import duration, p_value, percent, points, printable
from pipeline.metrics.scores import Rate
from pipeline.reports.charts import OTHERS, Dot, against
from pipeline.reports.page import render
from pipeline.reports.table import Column, Table, rows_of
from pipeline.sweeps.results import memory_of
from pipeline.sweeps.table import SHOWN, best_first, way

_MARKERS = ("o", "s", "D", "^", "X", "o")
"""Of precisions, as matplotlib calls them, and as _SHAPES shows them in the legend."""
_SHAPES = ("●", "■", "◆", "▲", "✖", "●")
_MATRIX = 24
"""Most cells of a task whose pairs are shown; results.json has all."""
_LOG_FROM = 4
"""Largest memory over the smallest from which the axis is logarithmic."""


def page(found: Mapping[str, Any]) -> str:
    """Return the whole HTML page of what `results.results` gave."""
    models = list(dict.fromkeys(row["model"] for row in found["cells"]))
    precisions = list(dict.fromkeys(row["precision"] for row in found["cells"]))
    return render(
        "sweep.html.jinja",
        style="_sweep.css.jinja",
        script="_sweep.js.jinja",
        more_filters={"points": points, "duration": duration, "p_value": p_value},
        title=f"{found['name']} – sweep",
        found=found,
        tasks=[_task(found, task, number, models, precisions) for number, task in enumerate(found["pairs"])],
        models=models,
        precisions=precisions,
        shapes=dict(zip(precisions, _SHAPES, strict=False)),
        hue=lambda model: _colour(models.index(model)),
    )


def _task(
    found: Mapping[str, Any], task: str, number: int, models: Sequence[str], precisions: Sequence[str]
) -> dict[str, Any]:
    rows = sorted((row for row in found["cells"] if row["task"] == task), key=best_first)
    front = found["pareto"][task]
    return {
        "name": task,
        "id": f"task-{number}",
        "cells": _cells(task, number, [{**row, "front": row["cell"] in front} for row in rows]),
        "chart": _chart(rows, front, models, precisions),
        "matrix": _matrix(rows, found["pairs"][task]),
        "tested": found["pairs"][task],
        "groups": _groups(found["groups"], rows),
    }


def _cells(task: str, number: int, rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = [
        {**one, "#id": f"cell-{number}-{place}", "#dim": row["status"] != "complete"}
        for place, (row, one) in enumerate(zip(rows, rows_of(SHOWN, rows), strict=True))
    ]
    return Table("cells", f"Cells of {task}", SHOWN, tuple(shown), sorted_by="accuracy").less("seconds")


def _chart(
    rows: Sequence[Mapping[str, Any]], front: Sequence[str], models: Sequence[str], precisions: Sequence[str]
) -> Markup | None:
    """Accuracy against memory of every complete cell of a task; None when there is no cell."""
    shown = [(row, memory) for row in rows if row["accuracy"] is not None and (memory := memory_of(row)) is not None]
    dots = tuple(
        Dot(
            memory,
            row["accuracy"],
            row["accuracy_low"],
            row["accuracy_high"],
            colour=_colour(models.index(row["model"])),
            marker=_MARKERS[precisions.index(row["precision"]) % len(_MARKERS)],
            hollow=row["mode"] == "direct",
            name=row["model"],
            says=_says(row, memory),
            front=row["cell"] in front,
        )
        for row, memory in shown
    )
    chances = [row["chance"] for row, _ in shown if row["chance"] is not None]
    sizes = [memory for _, memory in shown]
    return _drawn(dots, max(chances, default=None), bool(sizes) and max(sizes) / max(min(sizes), 1e-9) >= _LOG_FROM)


@lru_cache(64)
def _drawn(dots: tuple[Dot, ...], chance: float | None, log: bool) -> Markup | None:
    """A page is written anew whenever a cell ends, and its other tasks have not changed."""
    drawn = against(dots, chance, log)
    return drawn.svg(tips=True) if drawn else None


def _says(row: Mapping[str, Any], memory: float) -> str:
    """What a mark says of its cell, in two lines."""
    interval = f"[{percent(row['accuracy_low'])}, {percent(row['accuracy_high'])}]"
    measured = "measured" if row["memory_measured_mb"] is not None else "estimated"
    pace = "" if row["latency_p50_s"] is None else f", {row['latency_p50_s']:.2f} s a row (median)"
    return printable(
        f"{row['model']} · {row['precision']} · {way(row)}: {percent(row['accuracy'])} % {interval}\n"
        f"{memory:.0f} MB {measured}{pace}, {row['unparsable']} of {row['n']} unparsable"
    )


def _colour(place: int) -> int:
    return OTHERS[place % len(OTHERS)]


def _matrix(rows: Sequence[Mapping[str, Any]], tested: Mapping[str, Any]) -> dict[str, Any] | None:
    """Differences of accuracy, row minus column, the best first; None when fewer than two cells are complete."""
    named = [row for row in rows if row["cell"] in tested["cells"]]
    if len(named) < 2:
        return None
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in tested["pairs"]:
        pairs[pair["a"], pair["b"]] = pair
        if pair["difference"] is not None:
            turned = {"difference": 0 - pair["difference"], "low": 0 - pair["high"], "high": 0 - pair["low"]}
            pairs[pair["b"], pair["a"]] = {**pair, **turned, "only_a": pair["only_b"], "only_b": pair["only_a"]}
    shown = named[:_MATRIX]
    lines = [{"row": row, "cells": [pairs.get((row["cell"], other["cell"])) for other in shown]} for row in shown]
    return {"lines": lines, "left_out": len(named) - len(shown)}


def _groups(groups: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Per grouping a table: its values as columns, the cells as rows."""
    tables = []
    for group in dict.fromkeys(line["group"] for line in groups):
        found: dict[Any, dict[str, Any]] = {
            _cell_of(row): {"cell": f"{row['model']} · {row['precision']} · {way(row)}"} for row in rows
        }
        values = {}
        for line in groups:
            if line["group"] == group and _cell_of(line) in found:
                values[f"value:{line['value']}"] = line["value"]
                rate = Rate(line["accuracy"], line["accuracy_low"], line["accuracy_high"])
                found[_cell_of(line)][f"value:{line['value']}"] = rate
        columns = (
            Column("cell", "cell"),
            *(Column(key, str(name), "percent", heat=True) for key, name in values.items()),
        )
        told = tuple(one for one in found.values() if len(one) > 1)
        if told:
            tables.append(Table("groups", str(group), columns, told))
    return tables


def _cell_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[key] for key in ("model", "task", "precision", "mode", "reasoner"))
