"""A sweep's results as files: results.csv, groups.csv, results.json, results.md and index.html, each written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic, write_json
from pipeline.formatting import percent
from pipeline.metrics.scores import Rate
from pipeline.reports.table import Column, Table, cell, csv_text, markdown_table
from pipeline.sweeps.results import COLUMNS, GROUP_COLUMNS

PAGE = "index.html"


def write_results(found: Mapping[str, Any], folder: Path) -> None:
    """Write all of a sweep's files anew.

    Args:
        found: what `results.results` gave.
        folder: the sweep's own.
    """
    from pipeline.sweeps.page import page

    write_atomic(folder / "results.csv", as_csv(found["cells"], COLUMNS))
    write_atomic(folder / "groups.csv", as_csv(found["groups"], GROUP_COLUMNS))
    write_json(folder / "results.json", found)
    write_atomic(folder / "results.md", as_markdown(found))
    write_atomic(folder / PAGE, page(found))


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return comma-separated lines. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return csv_text(columns, ([_inert(row[column]) for column in columns] for row in rows))


def as_markdown(found: Mapping[str, Any]) -> str:
    """Return one table per task, the most accurate cells first."""
    parts = [f"# {cell(found['name'])}", ""]
    for task, tested in found["pairs"].items():
        rows = sorted((row for row in found["cells"] if row["task"] == task), key=_best_first)
        least = tested["detectable"]["difference"]
        note = f"On {tested['n']} rows a true difference of {percent(least)} points is found in 4 of 5 sweeps."
        shown = Table("cells", task, SHOWN, tuple(map(_shown, rows)), note=note if least is not None else "")
        parts += [markdown_table(shown), ""]
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items())
    return "\n".join([*parts, f"Cells: {counts}.", ""])


SHOWN = (
    *(Column("model", "model"), Column("precision", "precision"), Column("mode", "mode"), Column("n", "n", "count")),
    *(Column("accuracy", "accuracy, %", "percent"), Column("chance", "chance, %", "percent")),
    *(
        Column("official", "official"),
        Column("unparsable", "unparsable", "count"),
        Column("truncated", "truncated", "count"),
    ),
    *(
        Column("memory", "memory, MB"),
        Column("estimated", "estimated, MB"),
        Column("latency_p50_s", "p50, s", "number"),
    ),
    *(Column("latency_p95_s", "p95, s", "number"), Column("rows_per_second", "rows/s", "number")),
    *(Column("seconds", "time", "duration"), Column("status", "status")),
)
"""The columns of a sweep that a person reads."""


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"memory": row["memory_measured_mb"], "estimated": row["memory_estimated_mb"]}
    return {
        **row,
        **{key: None if size is None else f"{size:.0f}" for key, size in sizes.items()},
        "accuracy": Rate(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
        "mode": row["mode"] + (f" + {row['reasoner']}" if row["reasoner"] else ""),
        "official": f"{row['official_score']} {row['official_value']:.2f}" if row["official_score"] else None,
        "status": row["status"] + (f": {row['reason']}" if row["reason"] else ""),
    }


def _best_first(row: Mapping[str, Any]) -> tuple[float, str]:
    return -(row["accuracy"] if row["accuracy"] is not None else -1.0), row["cell"]


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        value = " ".join(value.split())
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return json.dumps(value) if isinstance(value, dict | list) else value
