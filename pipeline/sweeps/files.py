"""A sweep's results as files: results.csv, groups.csv, results.json, results.md and index.html, each written whole."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_atomic, write_json
from pipeline.formatting import duration, percent
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
    """Comma-separated lines. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_inert(row[column]) for column in columns] for row in rows)
    return buffer.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    """One table per task, the most accurate cells first."""
    parts = [f"# {found['name']}", ""]
    for task, tested in found["pairs"].items():
        rows = [row for row in found["cells"] if row["task"] == task]
        parts += [f"## {task}", "", _HEAD, _RULE, *(_line(row) for row in sorted(rows, key=_best_first)), ""]
        least = tested["detectable"]["difference"]
        if least is not None:
            parts += [
                f"On {tested['n']} rows a true difference of {percent(least)} points is found in 4 of 5 sweeps.",
                "",
            ]
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items())
    return "\n".join([*parts, f"Cells: {counts}.", ""])


_HEAD = (
    "| model | precision | mode | n | accuracy, % | chance, % | official | unparsable | truncated | memory, MB "
    "(estimated) | p50, s | p95, s | rows/s | time | status |"
)
_RULE = "| --- | --- | --- |" + " ---: |" * 11 + " --- |"


def _line(row: Mapping[str, Any]) -> str:
    mode = row["mode"] + (f" + {row['reasoner']}" if row["reasoner"] else "")
    accuracy = percent(row["accuracy"])
    if row["accuracy"] is not None:
        accuracy += f" [{percent(row['accuracy_low'])}, {percent(row['accuracy_high'])}]"
    official = f"{row['official_score']} {row['official_value']:.2f}" if row["official_score"] else "–"
    memory = f"{_number(row['memory_measured_mb'], 0)} ({_number(row['memory_estimated_mb'], 0)})"
    status = row["status"] + (f": {row['reason']}" if row["reason"] else "")
    cells = [
        *(row["model"], row["precision"], mode, _number(row["n"], 0), accuracy, percent(row["chance"]), official),
        *(_number(row["unparsable"], 0), _number(row["truncated"], 0), memory, _number(row["latency_p50_s"], 2)),
        *(_number(row["latency_p95_s"], 2), _number(row["rows_per_second"], 2), duration(row["seconds"]), status),
    ]
    return (
        "| " + " | ".join(" ".join(html.escape(cell, quote=False).replace("|", r"\|").split()) for cell in cells) + " |"
    )


def _best_first(row: Mapping[str, Any]) -> tuple[float, str]:
    return -(row["accuracy"] if row["accuracy"] is not None else -1.0), row["cell"]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _inert(value: Any) -> Any:
    if isinstance(value, str):
        value = " ".join(value.split())
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return json.dumps(value) if isinstance(value, dict | list) else value
