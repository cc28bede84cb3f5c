"""A sweep's results as files: one .csv per kind of row, results.json, results.md and index.html, each written whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic, write_json
from pipeline.metrics.stored import to_json
from pipeline.reports.table import Column, Table, cell, csv_text, flat, markdown_table, rows_of
from pipeline.sweeps.rows import (
    COLUMNS,
    GROUP_COLUMNS,
    OFFICIAL_COLUMNS,
    ROTATION_COLUMNS,
    SCALING_COLUMNS,
    SEEING_COLUMNS,
    STEPS_COLUMNS,
    CellKey,
    SweepResults,
)
from pipeline.sweeps.table import best_first, cells_table, differences, official_scores, rotated, seeing, steps

PAGE = "index.html"


def write_results(found: SweepResults, folder: Path) -> None:
    """Write all of a sweep's files anew.

    Args:
        found: what `results.results` gave.
        folder: the sweep's own.
    """
    from pipeline.sweeps.page import DOWNSCALING, downscaling, page

    write_atomic(folder / "results.csv", as_csv(found.cells, COLUMNS))
    write_atomic(folder / "groups.csv", as_csv(found.groups, GROUP_COLUMNS))
    write_atomic(folder / "official.csv", as_csv(found.official, OFFICIAL_COLUMNS))
    write_atomic(folder / "rotations.csv", as_csv(found.rotations, ROTATION_COLUMNS))
    write_atomic(folder / "seeing.csv", as_csv(found.seeing, SEEING_COLUMNS))
    write_atomic(folder / "steps.csv", as_csv(found.steps, STEPS_COLUMNS))
    write_atomic(folder / "scaling.csv", as_csv(found.scaling, SCALING_COLUMNS))
    write_json(folder / "results.json", to_json(found))
    write_atomic(folder / "results.md", as_markdown(found))
    if drawn := downscaling(found, list(found.pairs)):
        write_atomic(folder / DOWNSCALING, drawn.png())
    else:
        (folder / DOWNSCALING).unlink(missing_ok=True)
    write_atomic(folder / PAGE, page(found))


def as_csv(rows: Iterable[CellKey], columns: Sequence[str]) -> str:
    """Return comma-separated lines, a rate as a column and two more for its interval.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    shown = tuple(Column(column, column) for column in columns)
    header, lines = flat(Table("", "", shown, rows_of(shown, rows)))
    return csv_text(header, ([_inert(value) for value in line] for line in lines))


def as_markdown(found: SweepResults) -> str:
    """Return per task its cells, the most accurate first, and who differs from whom."""
    parts = [f"# {cell(found.name)}", ""]
    for task, tested in found.pairs.items():
        rows = sorted((row for row in found.cells if row.task == task), key=best_first)
        parts += [markdown_table(cells_table(task, rows)), ""]
        further = (
            differences(rows, tested),
            official_scores(found.official, rows),
            rotated(found.rotations, rows),
            steps(found.steps, rows),
            *seeing(found.seeing, rows),
        )
        for one in filter(None, further):
            parts += [markdown_table(replace(one, title=f"{task}: {one.title}")), ""]
    counts = ", ".join(f"{count} {status}" for status, count in found.counts.items())
    return "\n".join([*parts, f"Cells: {counts}.", ""])


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        value = " ".join(value.split())
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return json.dumps(value) if isinstance(value, dict | list) else value
