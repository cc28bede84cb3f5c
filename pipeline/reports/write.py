"""Reports: per-class numbers and their reading, for one phase, for a whole run, for any folders, and for runs side by side.

`pipeline.metrics` computes, `entries` and `summary` gather, `report_tables` says what the tables hold, `report_charts` what is
drawn, `page` and `markdown` lay out; this file writes. The same input gives the same bytes. No torch; nothing heavy is
imported before the first call.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.shared_pictures import read_shared
from pipeline.errors import UserError
from pipeline.files import write_atomic, write_json
from pipeline.formatting import printable
from pipeline.metrics.stored import to_json
from pipeline.reports.charts import OTHERS
from pipeline.reports.compare import NO_TESTS, SPREAD, Comparison, Doubted, compare, gather
from pipeline.reports.completions_page import write_completions_page
from pipeline.reports.entries import Entry, read_folders, read_phase, read_run
from pipeline.reports.markdown import NOTES, markdown
from pipeline.reports.model_card import model_card
from pipeline.reports.page import page, render
from pipeline.reports.prediction_browser import browser
from pipeline.reports.report_charts import accuracy, report_charts
from pipeline.reports.report_tables import tables
from pipeline.reports.summary import Remark, Summary, read_cot, summarise
from pipeline.reports.table import files
from pipeline.scoring.labels import LabelSet

PNG = ("accuracy", "per_class", "confusion", "curves", "clip", "cot")
"""Charts of a run that are files too, for slides."""


def write_stage_report(phase_dir: Path, labels: LabelSet | None) -> Path:
    """Write `phase_dir`/report/ from its predictions.jsonl: index.html, metrics.json, report.md, tables/, two png, model card.

    Args:
        phase_dir: a phase's folder, with predictions.jsonl and usually stage.json and metrics.jsonl.
        labels: the task's closed list of answers; None where rows have answers of their own.

    Returns:
        The path of index.html.

    Raises:
        UserError: when there is no prediction to report.
    """
    write_completions_page(phase_dir)
    entries = read_phase(phase_dir, labels)
    if not any(entry.scores for entry in entries):
        raise UserError(
            f"{phase_dir / 'predictions.jsonl'} holds no greedy prediction whose gold answer is known; run python -m "
            "stages.evaluate for it, on a split whose answers are published"
        )
    summary = summarise(printable(phase_dir.name), entries, labels.names if labels is not None else (), None)
    scores = {entry.name: entry.scores for entry in entries}
    found = {"phase": phase_dir.name, "entries": scores, "warnings": summary.warnings}
    write_json(phase_dir / "report" / "metrics.json", to_json(found))
    return _write(phase_dir / "report", "report.md", summary, entries, ("per_class", "confusion"), phase_dir.parent)


def write_run_report(
    run_root: Path,
    phases: Sequence[str],
    labels: LabelSet | None,
    title: str | None = None,
    doubted: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write `run_root`/report/: index.html, summary.md, summary.json, tables/, every chart as png, and a model card.

    Args:
        run_root: the run's folder.
        phases: phase names in the order of the tables; those without predictions are shown as not run.
        labels: the task's closed list of answers; None where rows have answers of their own.
        title: the heading; the run folder's name when None.
        doubted: why phases no longer hold, beside what their records say (`standing.doubts`).

    Returns:
        The path of index.html.
    """
    for phase in phases:
        write_completions_page(run_root / phase)
    entries = read_run(run_root, phases, labels, doubted)
    cot = read_cot(run_root)
    summary = summarise(
        printable(title or run_root.name),
        entries,
        labels.names if labels is not None else (),
        cot,
        read_shared(run_root),
    )
    write_json(run_root / "report" / "summary.json", to_json(summary))
    return _write(run_root / "report", "summary.md", summary, entries, PNG, run_root)


def write_folder_report(
    folders: Sequence[Path], out: Path | None = None, columns: Mapping[str, str] | None = None
) -> Path:
    """Write a report of any folders with predictions.jsonl (or with cells or phases that have one), without a configuration.

    Labels are taken from the rows, see `entries.labels_of`.

    Args:
        folders: what to report, in the order of the tables.
        out: where to; ``report/`` in the folder, or in what several have in common, when None.
        columns: what another tool calls the columns, see `pipeline.reports.columns`.

    Returns:
        The path of index.html.

    Raises:
        UserError: naming every folder that has nothing to report.
    """
    entries = read_folders(folders, columns)
    root = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    names = list(dict.fromkeys(name for entry in entries for name in (entry.scores and entry.scores.labels) or ()))
    summary = summarise(printable(root.name), entries, names, None)
    folder = out or (folders[0] if len(folders) == 1 else root) / "report"
    write_json(folder / "summary.json", to_json(summary))
    return _write(folder, "summary.md", summary, entries, (), root)


def write_comparison(run_roots: Sequence[Path], out: Path, doubted: Doubted | None = None) -> Path:
    """Compare runs on a page: index.html, compare.md and tables/ in the folder `out`; the page alone where it ends in .html,
    markdown alone where it ends in .md.

    Its browser shows the last entry that all runs have.

    Returns:
        The path of what a person opens.

    Raises:
        UserError: as `compare.gather`.
    """
    if out.suffix == ".md":
        write_atomic(out, compare(run_roots, doubted))
        return out
    found = gather(run_roots, doubted)
    folder, page_path = (out.parent, out) if out.suffix == ".html" else (out, out / "index.html")
    if folder is out:
        write_atomic(folder / "compare.md", compare(run_roots, doubted))
        for table in filter(None, (*found.numbers, found.tests, found.recall)):
            for name, text in files(table).items():
                write_atomic(folder / "tables" / name, text)
    write_atomic(page_path, _comparison_page(found, run_roots, folder))
    return page_path


def _comparison_page(found: Comparison, run_roots: Sequence[Path], folder: Path) -> str:
    common = [name for name in found.entries[found.runs[0]] if all(name in of for of in found.entries.values())]
    shown = [dataclasses.replace(found.entries[run][common[-1]], name=run, task="") for run in found.runs if common]
    turns = {run: OTHERS[place % len(OTHERS)] for place, run in enumerate(found.runs)}
    rows = [
        (f"{run}, {name}" if len(common) > 1 else run, turns[run], entry.scores)
        for name in common
        for run in found.runs
        if (entry := found.entries[run][name]).scores
    ]
    chart = accuracy(rows)
    return render(
        "compare.html.jinja",
        browser(shown, run_roots[0], folder),
        title=" and ".join(found.runs) if len(found.runs) == 2 else f"{len(found.runs)} runs side by side",
        lead=f"{len(found.runs)} runs, each tested against {found.runs[0]}"
        + (f". Predictions: {common[-1]}." if common else "."),
        warnings=_uncommon(found),
        chart=chart.svg() if chart else "",
        settings=[{"name": name, "text": text} for name, text in found.settings],
        numbers=found.numbers,
        tables={table.name: table for table in (found.tests, found.recall) if table},
        spread=SPREAD,
        no_tests=NO_TESTS,
        notes=NOTES,
    )


def _uncommon(found: Comparison) -> list[Remark]:
    """A warning per test on fewer rows than its runs answered."""
    rows = found.tests.rows if found.tests else ()
    partly = [row for row in rows if isinstance(row["rows"], str)]
    return [Remark(f"{row['runs']}, {row['stage']}", "warning", f"tested on {row['rows']} rows.") for row in partly] + [
        Remark(name, "warning", f"left out: {why}.") for name, why in found.left_out
    ]


def _write(
    folder: Path, text: str, summary: Summary, entries: list[Entry], pictures: Sequence[str], root: Path
) -> Path:
    """What all reports share: the markdown called `text`, tables, png, the model card and, last, the page."""
    made = tables(summary, entries)
    write_atomic(folder / text, markdown(summary, made, full=text == "report.md"))
    for table in made.values():
        for name, content in files(table).items():
            write_atomic(folder / "tables" / name, content)
    charts = report_charts(summary, entries)
    for name in pictures:
        if name in charts:
            write_atomic(folder / f"{name}.png", charts[name].png())
    if card := model_card(entries):
        write_atomic(folder / "model_card.md", card)
    examples = [row_id for row in getattr(made.get("confused"), "rows", ()) for row_id in row["examples"]]
    data = browser(entries, root, folder, first=examples)
    write_atomic(folder / "index.html", page(summary, entries, made, charts, data, NOTES))
    return folder / "index.html"
