"""Reports: per-class numbers and their reading, for one phase, for a whole run, and for runs side by side.

`pipeline.metrics` computes, `pipeline.report_data` gathers, `pipeline.charts` draws, `pipeline.report_html` and
`pipeline.report_text` lay out; this file writes. The same input gives the same bytes. No torch; nothing heavy is imported
before the first call.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import charts
from pipeline.compare import compare
from pipeline.completions import write_completions_page
from pipeline.errors import UserError
from pipeline.labels import LabelSet
from pipeline.report_data import Entry, read_cot, read_phase, read_run, summarise
from pipeline.report_html import page, printable
from pipeline.report_text import NOTES, markdown, summary_table
from pipeline.run import write_atomic, write_json

__all__ = ["compare", "summary_table", "write_run_report", "write_stage_report"]


def write_stage_report(phase_dir: Path, labels: LabelSet, title: str | None = None, examples: int = 6) -> Path:
    """Write `phase_dir`/report/ from its predictions.jsonl: metrics.json, report.md, two csv, two png, index.html.

    Args:
        phase_dir: a phase's folder, with predictions.jsonl and usually stage.json and metrics.jsonl.
        labels: the task's closed list of answers.
        title: the heading; the folder's name when None.
        examples: pictures shown per kind (right, wrong, without a label).

    Returns:
        The path of index.html.

    Raises:
        UserError: when there is no prediction to report.
    """
    write_completions_page(phase_dir)
    entries = read_phase(phase_dir, labels)
    if not any(entry.scores for entry in entries):
        raise UserError(
            f"{phase_dir / 'predictions.jsonl'} holds no greedy prediction; run python -m stages.evaluate for it"
        )
    summary = summarise(printable(title or phase_dir.name), entries, labels.names, None)
    scores = {entry.name: entry.scores for entry in entries}
    folder = phase_dir / "report"
    write_json(folder / "metrics.json", {"phase": phase_dir.name, "entries": scores, "warnings": summary["warnings"]})
    write_atomic(folder / "report.md", markdown(summary, full=True))
    drawn = {"per_class": charts.per_class(entries, labels.names), "confusion": charts.confusion(entries)}
    more = {"curves": charts.curves(entries), "clip": charts.clip(entries)}
    return _write(folder, summary, entries, drawn, more, phase_dir.parent, examples)


def write_run_report(
    run_root: Path, phases: Sequence[str], labels: LabelSet, title: str | None = None, examples: int = 2
) -> Path:
    """Write `run_root`/report/: index.html, summary.md, summary.json, two csv and every chart as png.

    Args:
        run_root: the run's folder.
        phases: phase names in the order of the tables; those without predictions are shown as not run.
        labels: the task's closed list of answers.
        title: the heading; the run folder's name when None.
        examples: pictures shown per entry and kind.

    Returns:
        The path of index.html.
    """
    for phase in phases:
        write_completions_page(run_root / phase)
    entries = read_run(run_root, phases, labels)
    cot = read_cot(run_root)
    summary = summarise(printable(title or run_root.name), entries, labels.names, cot)
    folder = run_root / "report"
    write_json(folder / "summary.json", summary)
    write_atomic(folder / "summary.md", markdown(summary))
    drawn = {
        "accuracy": charts.accuracy(entries),
        "per_class": charts.per_class(entries, labels.names),
        "confusion": charts.confusion(entries),
        "curves": charts.curves(entries),
        "clip": charts.clip(entries),
        "cot": charts.cot(cot),
    }
    return _write(folder, summary, entries, drawn, {}, run_root, examples)


def _write(
    folder: Path,
    summary: Mapping[str, Any],
    entries: list[Entry],
    drawn: Mapping[str, bytes | None],
    more: Mapping[str, bytes | None],
    root: Path,
    examples: int,
) -> Path:
    """What both reports share: csv, png and the page."""
    write_atomic(folder / "per_class.csv", _csv(_per_class_rows(entries)))
    write_atomic(folder / "confusion.csv", _csv(_confusion_rows(entries)))
    pictures = {name: png for name, png in {**drawn, **more}.items() if png}
    for name, png in pictures.items():
        if name in drawn:
            write_atomic(folder / f"{name}.png", png)
    write_atomic(folder / "index.html", page({**summary, "notes": NOTES}, entries, pictures, root, examples))
    return folder / "index.html"


def _per_class_rows(entries: Sequence[Entry]) -> list[list[Any]]:
    keys = ["precision", "recall", "recall_low", "recall_high", "f1-score", "support", "predicted"]
    rows: list[list[Any]] = [["entry", "class", *keys]]
    for entry in entries:
        if entry.scores:
            table = {
                **entry.scores["per_class"],
                **{kind: entry.scores[kind] for kind in ("macro avg", "weighted avg")},
            }
            rows += [[entry.name, name, *(values.get(key) for key in keys)] for name, values in table.items()]
    return rows


def _confusion_rows(entries: Sequence[Entry]) -> list[list[Any]]:
    tables = [(entry.name, entry.scores["confusion"]) for entry in entries if entry.scores]
    rows: list[list[Any]] = [["entry", "gold", *tables[0][1]["columns"]]] if tables else [["entry", "gold"]]
    return rows + [
        [name, gold, *counts]
        for name, table in tables
        for gold, counts in zip(table["rows"], table["counts"], strict=True)
    ]


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
