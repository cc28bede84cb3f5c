"""A sweep as one self-contained page that helps to choose: accuracy against memory, a table to sort, who differs from whom.

Its script only hides and sorts; without it everything is there, task below task. Nothing is fetched, every text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.formatting import duration, p_value, percent, points
from pipeline.reports.page import TEMPLATES, templates
from pipeline.sweeps.results import memory_of

WIDTH, HEIGHT = 760, 420
"""Of a chart, in its own units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 46, 44
_COLOURS = 7
"""Hues of _sweep.css; an eighth model has the first one again and is told apart by its name."""
_SHAPES = ("circle", "square", "diamond", "triangle", "cross", "circle")
_MATRIX = 24
"""Most cells of a task whose pairs are shown; results.json has all."""
_LOG_FROM = 4
"""Largest memory over the smallest from which the axis is logarithmic."""


def page(found: Mapping[str, Any]) -> str:
    """The whole HTML page of what `sweep_results.results` gave."""
    environment = templates()
    environment.filters |= {"pct": percent, "points": points, "duration": duration, "p_value": p_value}
    models = list(dict.fromkeys(row["model"] for row in found["cells"]))
    precisions = list(dict.fromkeys(row["precision"] for row in found["cells"]))
    script = (TEMPLATES / "_sweep.js.jinja").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("sweep.html.jinja").render(
        found=found,
        tasks=[_task(found, task, number, models, precisions) for number, task in enumerate(found["pairs"])],
        models=models,
        precisions=precisions,
        shapes=dict(zip(precisions, _SHAPES, strict=False)),
        hue=lambda model: models.index(model) % _COLOURS,
        script=Markup(script),
        script_digest=digest,
    )
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def _task(
    found: Mapping[str, Any], task: str, number: int, models: Sequence[str], precisions: Sequence[str]
) -> dict[str, Any]:
    rows = sorted((row for row in found["cells"] if row["task"] == task), key=_best_first)
    front = found["pareto"][task]
    return {
        "name": task,
        "id": f"task-{number}",
        "rows": [{**row, "front": row["cell"] in front, "anchor": f"cell-{number}-{i}"} for i, row in enumerate(rows)],
        "chart": _chart(rows, front, models, precisions),
        "matrix": _matrix(rows, found["pairs"][task]),
        "tested": found["pairs"][task],
        "groups": _groups(found["groups"], rows),
    }


def _best_first(row: Mapping[str, Any]) -> tuple[float, str]:
    return -(row["accuracy"] if row["accuracy"] is not None else -1.0), row["cell"]


def _chart(
    rows: Sequence[Mapping[str, Any]], front: Sequence[str], models: Sequence[str], precisions: Sequence[str]
) -> dict[str, Any] | None:
    """Coordinates of every complete cell of a task, the front's steps and the axes' ticks; None when there is no cell."""
    shown = [(row, memory) for row in rows if row["accuracy"] is not None and (memory := memory_of(row)) is not None]
    if not shown:
        return None
    lowest, highest = min(memory for _, memory in shown), max(memory for _, memory in shown)
    widen = max(0.0, (0.1 * highest - (highest - lowest)) / 2)  # Else a few MB of noise would fill the chart.
    lowest, highest = lowest - widen, highest + widen
    log = highest / max(lowest, 1e-9) >= _LOG_FROM
    x_ticks = _log_ticks(lowest, highest) if log else _ticks(lowest, highest)
    scale = math.log if log else float
    x_from, x_to = scale(min(lowest, x_ticks[0])), scale(max(highest, x_ticks[-1]))
    margin = 0.05 * ((x_to - x_from) or 1)
    y_ticks = _ticks(
        100 * min(min(row["accuracy_low"], row["chance"] or 1) for row, _ in shown),
        100 * max(row["accuracy_high"] for row, _ in shown),
    )

    def x(memory: float) -> float:
        return round(
            _LEFT + (scale(memory) - x_from + margin) / (x_to - x_from + 2 * margin) * (WIDTH - _LEFT - _RIGHT), 1
        )

    def y(value: float) -> float:
        share = (100 * value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    marks = [
        {
            "row": row,
            "x": x(memory),
            "y": y(row["accuracy"]),
            "low": y(row["accuracy_low"]),
            "high": y(row["accuracy_high"]),
            "hue": models.index(row["model"]) % _COLOURS,
            "shape": _SHAPES[precisions.index(row["precision"]) % len(_SHAPES)],
            "hollow": row["mode"] == "direct",
            "front": row["cell"] in front,
            "memory": memory,
            "measured": row["memory_measured_mb"] is not None,
        }
        for row, memory in shown
    ]
    by_cell = {mark["row"]["cell"]: mark for mark in marks}
    steps = [by_cell[cell] for cell in front]
    path = "".join(f"{'H' if i else 'M'}{mark['x']}{'V' if i else ' '}{mark['y']}" for i, mark in enumerate(steps))
    chances = [row["chance"] for row, _ in shown if row["chance"] is not None]
    return {
        "marks": sorted(marks, key=lambda mark: mark["front"]),
        "front": path + f"H{WIDTH - _RIGHT}" if path else "",
        "chance": {"y": y(max(chances)), "value": max(chances)} if chances else None,
        "x_ticks": [
            {"x": x(tick), "text": _megabytes(tick)}
            for tick in x_ticks
            if x_from - margin <= scale(tick) <= x_to + margin
        ],
        "y_ticks": [{"y": y(tick / 100), "text": f"{tick:g}"} for tick in y_ticks],
        "box": {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM},
        "width": WIDTH,
        "height": HEIGHT,
        "log": log,
    }


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from below `low` to above `high`."""
    raw = max(high - low, 1e-9, abs(high) * 1e-3) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around the range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    below = max((tick for tick in every if tick <= low), default=low)
    above = min((tick for tick in every if tick >= high), default=high)
    return [tick for tick in every if below <= tick <= above]


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


def _groups(groups: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per grouping a table: its values as columns, the cells as lines."""
    tables = []
    for group in dict.fromkeys(line["group"] for line in groups):
        found = {(_cell_of(line), line["value"]): line for line in groups if line["group"] == group}
        values = list(dict.fromkeys(value for _, value in found))
        lines = [(row, [found.get((_cell_of(row), value)) for value in values]) for row in rows]
        lines = [(row, shares) for row, shares in lines if any(shares)]
        used = [i for i in range(len(values)) if any(shares[i] for _, shares in lines)]
        if lines:
            table = {
                "values": [values[i] for i in used],
                "lines": [(row, [shares[i] for i in used]) for row, shares in lines],
            }
            tables.append({"name": group, **table})
    return tables


def _cell_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[key] for key in ("model", "task", "precision", "mode", "reasoner"))


def _megabytes(number: float) -> str:
    return f"{number / 1000:g} GB" if number >= 1000 else f"{number:g} MB"
