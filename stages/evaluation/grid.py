"""The decoupled analysis: every perceiver with every reasoner, and each perceiver alone beside them.

`<lab>/grid/` holds the table as grid.csv, grid.json and grid.md, and the heat maps as grid.png. Rates come with a 95 %
interval, which knows which rows share a picture; rows without a readable answer count as wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.evaluation import TWO_STEPS, Cell, LabConfig, cell_folder, cells, lab_folder
from pipeline.files import read_json, read_jsonl, write_atomic, write_json
from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.paired_tests import cluster, judged, right
from pipeline.metrics.scores import Rate
from pipeline.reports.charts import heat_maps
from pipeline.reports.table import Column, Table, csv_text, markdown_table

GRID_MODES = ("direct", "think", *TWO_STEPS)
_COLUMNS = (
    "task",
    "precision",
    "perceiver",
    "mode",
    "reasoner",
    "accuracy",
    "low",
    "high",
    "correct",
    "n",
    "parsed",
    "truncated",
    "chance",
)


def write_grid(config: LabConfig) -> list[Path]:
    """Write the table and the heat maps of a lab's complete cells; the files, in order of interest."""
    rows = [row for cell in cells(config) if (row := _row(config, cell)) is not None]
    folder = lab_folder(config) / "grid"
    files = [folder / f"grid.{ending}" for ending in ("md", "png", "csv", "json")]
    write_atomic(files[0], as_markdown(rows))
    pictures = heat_maps(_panels(config, rows))
    if pictures is not None:
        write_atomic(files[1], pictures.png())
    write_atomic(files[2], as_csv(rows))
    write_json(files[3], rows)
    return [file for file in files if file.exists()]


def _row(config: LabConfig, cell: Cell) -> dict[str, Any] | None:
    folder = cell_folder(config, cell)
    record = read_json(folder / "evaluation.json")
    if record.get("status") != "complete":
        return None
    answers = judged(read_jsonl(folder / "predictions.jsonl"))
    accuracy = clustered_rate([right(row) for row in answers], [cluster(row) for row in answers])
    return {
        "task": cell.task,
        "precision": cell.precision,
        "perceiver": cell.model,
        "mode": cell.mode,
        "reasoner": cell.reasoner or (cell.model if cell.mode in TWO_STEPS else None),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "correct": accuracy.count,
        "n": accuracy.n,
        "parsed": record["parsed"],
        "truncated": record["truncated"],
        "chance": record["chance"],
        "official": record["official"],
    }


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return the table, one line per cell."""
    return csv_text(_COLUMNS, ([row[column] for column in _COLUMNS] for row in rows))


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return one table per task and precision: a line per perceiver and reasoner, the modes side by side."""
    note = (
        "Accuracy over all rows in %, with its 95 % interval: Wilson's, or by bootstrap over pictures where rows share any. In "
        "`direct` and `think` the perceiver answers alone."
    )
    parts = ["# Perceivers and reasoners", "", note, ""]
    columns = (
        Column("perceiver", "perceiver"),
        Column("reasoner", "reasoner"),
        *(Column(m, m, "percent") for m in GRID_MODES),
    )
    for task, precision in dict.fromkeys((row["task"], row["precision"]) for row in rows):
        here = [row for row in rows if (row["task"], row["precision"]) == (task, precision)]
        found = {
            (row["perceiver"], row["reasoner"], row["mode"]): Rate(row["accuracy"], row["low"], row["high"])
            for row in here
        }
        pairs = dict.fromkeys((row["perceiver"], row["reasoner"]) for row in here)
        paired = {perceiver for perceiver, reasoner in pairs if reasoner}
        lines = [
            {
                "perceiver": perceiver,
                "reasoner": reasoner,
                **{m: found.get((perceiver, reasoner if m in TWO_STEPS else None, m)) for m in GRID_MODES},
            }
            for perceiver, reasoner in pairs
            if reasoner or perceiver not in paired
        ]
        title = f"{task}, {precision}: {here[0]['n']} rows, chance {100 * here[0]['chance']:.1f} %"
        parts.append(markdown_table(Table("grid", title, columns, tuple(lines))))
    return "\n".join(parts)


def _panels(
    config: LabConfig, rows: list[dict[str, Any]]
) -> list[tuple[str, list[str], list[str], list[list[float | None]]]]:
    """(title, perceivers, reasoners, shares) of every two-step mode, task and precision that has cells."""
    panels = []
    for task, precision, mode in dict.fromkeys(
        (row["task"], row["precision"], row["mode"]) for row in rows if row["reasoner"]
    ):
        found = {
            (row["perceiver"], row["reasoner"]): row["accuracy"]
            for row in rows
            if (row["task"], row["precision"], row["mode"]) == (task, precision, mode)
        }
        perceivers = list(config.models)
        reasoners = list(dict.fromkeys(reasoner for _, reasoner in found))
        values = [[found.get((perceiver, reasoner)) for reasoner in reasoners] for perceiver in perceivers]
        panels.append((f"{mode}, {task}, {precision}", perceivers, reasoners, values))
    return panels
