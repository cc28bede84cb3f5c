"""The report as text: markdown files and the terminal's stage table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.formatting import percent, points, printable
from pipeline.reports.class_tables import per_class
from pipeline.reports.entries import read_run
from pipeline.reports.paired_entries import PairedTest, RecallTest
from pipeline.reports.summary import NO_LONGER, Clip, EntrySummary, Summary, summarise, unusable_rows
from pipeline.reports.table import Table, align_columns, cell, markdown_table
from pipeline.run_dir import BASE

NOTES = (
    "Greedy decoding is the headline. Temperature 1 shows what the policy does when it samples, where format training acts.",
    "Accuracy is over all rows: an answer that cannot be read is wrong. Macro recall (balanced accuracy) and macro-F1 weigh "
    "every class alike.",
    "Intervals are 95 %: Wilson for rates, percentile bootstrap for macro averages and differences; where rows share a picture, "
    "bootstrap over pictures for all of them. They cover the rows drawn for evaluation, not the seed trained with.",
    "p is McNemar's exact test on the rows both models answered; “p, Holm” is corrected for the tests its table names.",
    "A stage has helped where p, so corrected, is below .05. Of its rows the sentence names those whose accuracy changed most: "
    "of a group's value or class (p corrected over all of them), or of neighbouring numbers that each changed so.",
    "“Thinking ends on the answer” is the share of parsed rows whose last label named in the thinking is the answer. “Attributes "
    "named” is the share of annotated attribute values found in the thinking; naming more is not punished.",
    "“Exact trace” is the share of rows whose reasoning is the true steps, word for word; only tasks that know them have it.",
    "ClipLow (ε_high below ε_low) is our reading of CLGRPO, arXiv 2506.18048, which publishes neither code nor ε.",
)


_PER_CLASS = ("recall", "recall_changes", "f1")
_WIDTH = 100
"""Most columns of the terminal's table."""


def summary_table(run_root: Path, phases: Sequence[str], doubted: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the stage table in plain text, at most 100 columns wide, from the reports the phases have written.

    Above it stands which stage helped; below it of which classes recall changed, which phases no longer hold, and how many rows
    could not be used.
    """
    entries = read_run(run_root, phases, None, doubted, stored=True)
    summary = summarise("", entries, (), None)
    lines = [line for one in summary.findings for line in _wrapped(f"{one.entry}: {one.text}")]
    lines += [""] * bool(lines)
    rows = [_HEADS, *map(_stage, summary.entries)]
    # Most tasks do not know the true steps, a benchmark has no classes, and a run may neither sample nor clip.
    idle = {head for place, head in enumerate(_HEADS) if head in _RARE and not any(row[place] for row in rows[1:])}
    if summary.balanced:
        idle.add("recall")
    rows = [tuple(text for head, text in zip(_HEADS, row, strict=True) if head not in idle) for row in rows]
    lines.append(_narrow(rows))
    sampled = "; T=1: format when sampling" if "T=1" in rows[0] else ""
    lines.append(f"in %{sampled}; none: rows whose answer could not be read")
    lines.append("vs parent: accuracy points, McNemar * p<.05 ** p<.01 *** p<.001")
    if "recall" in rows[0]:
        lines.append("recall: macro")
    if "exact" in rows[0]:
        lines.append("exact: the reasoning is the true steps, word for word")
    lines += [line for row in summary.entries for line in _wrapped(_recall(row, summary.recall))]
    lines += [f"† {entry.name} {NO_LONGER}: {'; '.join(entry.doubts)}" for entry in entries if entry.doubts]
    lines += [f"{warning.entry}: {warning.text}" for warning in unusable_rows(entries)]
    return "\n".join(lines)


_HEADS = (
    "stage",
    "format",
    "T=1",
    "accuracy [95 %]",
    "exact",
    "recall",
    "F1",
    "none",
    "vs parent",
    "clip lo/hi",
    "train",
)
_RARE = ("T=1", "exact", "recall", "clip lo/hi")
_LEFT = ("stage", "accuracy [95 %]")


def _recall(row: EntrySummary, tests: Sequence[RecallTest]) -> str:
    """Of which classes recall is another than the parent's, beyond chance, in a line; empty where of none.

    The base's is not a comparison: it mostly knows no class. All differences are on the page.
    """
    parent = row.versus_parent.name if row.versus_parent else None
    found = next((test.per_class for test in tests if (test.entry, test.name) == (row.name, parent)), {})
    said = [f"{name} {points(one.gain.value)}" for name, one in found.items() if one.gain.beyond_chance]
    if not said or row.init_from == BASE:
        return ""
    return f"recall, {row.name} over {parent} (p < .05, corrected over the classes): {', '.join(said)}"


def _narrow(rows: Sequence[tuple[str, ...]]) -> str:
    """The table as wide as it may be: with less between the columns, then with shorter names."""
    left = [place for place, head in enumerate(rows[0]) if head in _LEFT]
    for gap, most in (("  ", 22), (" ", 22), (" ", 18), (" ", 14)):
        text = align_columns([(_short(row[0], most), *row[1:]) for row in rows], left, gap)
        if max(map(len, text.splitlines())) <= _WIDTH:
            break
    return text


def _short(name: str, most: int) -> str:
    plain = name.removesuffix(" †")
    return name if len(plain) <= most else f"{plain[: most - 1]}…{' †' * (plain != name)}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _stage(row: EntrySummary) -> tuple[str, ...]:
    """A line of the terminal's table."""
    name = f"{row.name} †" if row.doubts else row.name
    found = row.scores
    if not found:
        return (name, "", "", row.status, *[""] * 6, _seconds(row.seconds))
    return (
        name,
        percent(found.format.value),
        percent(found.format_sampled.value) if found.format_sampled else "",
        str(found.accuracy),
        percent(found.exact_trace.value) if found.exact_trace else "",
        percent(found.macro_recall.value) if found.macro_recall else "",
        percent(found.macro_f1.value) if found.macro_f1 else "",
        str(found.unparsable.n),
        _gained(row.versus_parent),
        _clipped(row.clip),
        _seconds(row.seconds),
    )


def markdown(summary: Summary, tables: Mapping[str, Table], full: bool = False) -> str:
    """Return the report as markdown: which stage helped, warnings, results, groups, recall and F1 per class; `full` adds each
    entry's per-class table.
    """
    parts = [f"# {cell(summary.title)}\n"]
    if summary.findings:
        sentences = [f"- **{cell(one.entry)}**: {cell(one.text)}" for one in summary.findings]
        parts += ["## Which stage helped\n", *sentences, ""]
    for warning in summary.warnings:
        parts.append(f"- **{warning.level}** {cell(': '.join(filter(None, (warning.entry, warning.text))))}")
    shown = [tables[name] for name in ("results", "tests") if name in tables]
    parts += ["", *map(markdown_table, shown)]
    if handed := [(row.name, row.hand_over) for row in summary.entries if row.hand_over]:
        parts += ["## Hand-over\n", *(f"- {cell(name)}: {cell(line)}" for name, line in handed), ""]
    shown = [table for name, table in tables.items() if name in _PER_CLASS or name.startswith("group_")]
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
