"""The report as text: markdown files and the terminal's stage table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.formatting import percent
from pipeline.reports.entries import read_run
from pipeline.reports.report_tables import per_class
from pipeline.reports.summary import NO_LONGER, Clip, EntrySummary, PairedTest, Summary, summarise, unusable_rows
from pipeline.reports.table import Table, align_columns, cell, markdown_table

NOTES = (
    "Greedy decoding is the headline. Temperature 1 shows what the policy does when it samples, where format training acts.",
    "Accuracy is over all rows: an answer that cannot be read is wrong. Macro-F1 weighs every class alike.",
    "Intervals are 95 %: Wilson for rates, percentile bootstrap for F1 and differences; where rows share a picture, bootstrap "
    "over pictures for all of them. They cover the rows drawn for evaluation, not the seed trained with.",
    "p is McNemar's exact test on the rows both models answered; “p, Holm” is corrected for all tests of its table.",
    "“Thinking ends on the answer” is the share of parsed rows whose last label named in the thinking is the answer. “Attributes "
    "named” is the share of annotated attribute values found in the thinking; naming more is not punished.",
    "“Exact trace” is the share of rows whose reasoning is the true steps, word for word; only tasks that know them have it.",
    "ClipLow (ε_high below ε_low) is our reading of CLGRPO, arXiv 2506.18048, which publishes neither code nor ε.",
)


def summary_table(run_root: Path, phases: Sequence[str], doubted: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the stage table in plain text, at most 100 columns wide, from the reports the phases have written.

    Below it stands which phases no longer hold, and how many rows could not be used.
    """
    entries = read_run(run_root, phases, None, doubted)
    rows: list[tuple[str, ...]] = [
        ("stage", "format", "T=1", "accuracy [95 %]", "exact", "F1", "no label", "vs parent", "clip lo/hi", "train")
    ]
    rows += map(_stage, summarise("", entries, (), None).entries)
    if not any(row[4] for row in rows[1:]):
        # Most tasks do not know the true steps.
        rows = [(*row[:4], *row[5:]) for row in rows]
    wide = align_columns(rows, (0, 3))
    lines = [wide if max(map(len, wide.splitlines())) <= 100 else align_columns(rows, (0, 3), " ")]
    lines.append("in %; T=1: format when sampling; vs parent: accuracy points, McNemar * p<.05 ** p<.01 *** p<.001")
    if "exact" in rows[0]:
        lines.append("exact: the reasoning is the true steps, word for word")
    lines += [f"† {entry.name} {NO_LONGER}: {'; '.join(entry.doubts)}" for entry in entries if entry.doubts]
    lines += [f"{warning.entry}: {warning.text}" for warning in unusable_rows(entries)]
    return "\n".join(lines)


def _stage(row: EntrySummary) -> tuple[str, ...]:
    """A line of the terminal's table."""
    name = row.name if len(row.name) <= 22 else f"{row.name[:21]}…"
    name = f"{name} †" if row.doubts else name
    found = row.scores
    if not found:
        return (name, "", "", row.status, "", "", "", "", "", _seconds(row.seconds))
    return (
        name,
        percent(found.format.value),
        percent(found.format_sampled.value) if found.format_sampled else "",
        str(found.accuracy),
        percent(found.exact_trace.value) if found.exact_trace else "",
        percent(found.macro_f1.value) if found.macro_f1 else "",
        str(found.unparsable.n),
        _gained(row.versus_parent),
        _clipped(row.clip),
        _seconds(row.seconds),
    )


def markdown(summary: Summary, tables: Mapping[str, Table], full: bool = False) -> str:
    """Return the report as markdown: warnings, results, groups, F1 per class; `full` adds each entry's per-class table."""
    parts = [f"# {cell(summary.title)}\n"]
    for warning in summary.warnings:
        parts.append(f"- **{warning.level}** {cell(': '.join(filter(None, (warning.entry, warning.text))))}")
    shown = [tables[name] for name in ("results", "tests") if name in tables]
    parts += ["", *map(markdown_table, shown)]
    if handed := [(row.name, row.hand_over) for row in summary.entries if row.hand_over]:
        parts += ["## Hand-over\n", *(f"- {cell(name)}: {cell(line)}" for name, line in handed), ""]
    shown = [table for name, table in tables.items() if name == "f1" or name.startswith("group_")]
    if full:
        shown += [per_class(row.name, scores.classes) for row, scores in summary.evaluated if scores.classes]
    parts += map(markdown_table, shown)
    return "\n".join(parts) + "\n## How to read this\n\n" + "\n".join(f"- {note}" for note in NOTES) + "\n"


def _gained(test: PairedTest | None) -> str:
    if not test or test.result.p is None:
        return ""
    gain, p = test.result.gain, test.result.p
    return f"{100 * gain.share:+.1f}{'***' if p < 0.001 else '**' if p < 0.01 else '*' if p < 0.05 else ''}"


def _clipped(clip: Clip | None) -> str:
    return "" if not clip else "VOID" if clip.void else f"{100 * clip.low:.2f}/{100 * clip.high:.2f}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
