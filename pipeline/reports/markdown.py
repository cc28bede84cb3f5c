"""The report as text: markdown files and the terminal's stage table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.formatting import duration, p_value, percent, points
from pipeline.metrics.scores import Scores
from pipeline.reports.entries import read_run
from pipeline.reports.summary import NO_LONGER, summarise, unusable_rows
from pipeline.reports.table import cell, table

NOTES = (
    "Greedy decoding is the headline. Temperature 1 shows what the policy does when it samples, where format training acts.",
    "Accuracy is over all rows: an answer that cannot be read is wrong. Macro-F1 weighs every class alike.",
    "Intervals are 95 %: Wilson for rates, percentile bootstrap for F1 and differences; where rows share a picture, bootstrap "
    "over pictures for all of them. They cover the rows drawn for evaluation, not the seed trained with.",
    "p is McNemar's exact test on the rows both models answered; “p, Holm” is corrected for all tests of its table.",
    "“Thinking ends on the answer” is the share of parsed rows whose last label named in the thinking is the answer. “Attributes "
    "named” is the share of annotated attribute values found in the thinking; naming more is not punished.",
    "ClipLow (ε_high below ε_low) is our reading of CLGRPO, arXiv 2506.18048, which publishes neither code nor ε.",
)

_STAGE_COLUMNS = (
    *("stage", "format, %", "format T=1, %", "accuracy, % [95 %]", "macro-F1, % [95 %]", "no label"),
    *("vs parent (p)", "vs baseline (p)", "clip low / high, %", "training"),
)


def summary_table(run_root: Path, phases: Sequence[str], doubted: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the stage table in plain text, at most 100 columns wide, from the reports the phases have written.

    Below it stands which phases no longer hold, and how many rows could not be used.
    """
    entries = read_run(run_root, phases, None, doubted)
    rows = [("stage", "format", "T=1", "accuracy [95 %]", "F1", "no label", "vs parent", "clip lo/hi", "train")]
    for entry, row in zip(entries, summarise("", entries, (), None)["entries"], strict=True):
        scores, versus, clip = row["scores"], row["versus_parent"], row["clip"]
        name = entry.name if len(entry.name) <= 22 else f"{entry.name[:21]}…"
        name = f"{name} †" if entry.doubts else name
        if not scores:
            rows.append((name, "", "", row["status"], "", "", "", "", _seconds(row["seconds"])))
            continue
        found = Scores.of(scores)
        fractions = f"{100 * clip['low']:.2f}/{100 * clip['high']:.2f}" if clip else ""
        rows.append(
            (
                name,
                percent(found.format.value),
                percent(found.format_sampled.value) if found.format_sampled else "",
                str(found.accuracy),
                percent(found.macro_f1.value) if found.macro_f1 else "",
                str(found.unparsable),
                f"{100 * versus['difference']:+.1f}{_stars(versus['p'])}" if versus and versus["n"] else "",
                "VOID" if clip and clip["void"] else fractions,
                _seconds(row["seconds"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    gap = "  " if sum(widths) + 2 * len(widths) <= 102 else " "
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append(gap.join(f"{cell:<{width}}" if i in (0, 3) else f"{cell:>{width}}" for i, (cell, width) in cells))
    lines.insert(1, "-" * len(lines[0]))
    lines.append("in %; T=1: format when sampling; vs parent: accuracy points, McNemar * p<.05 ** p<.01 *** p<.001")
    lines += [f"† {entry.name} {NO_LONGER}: {'; '.join(entry.doubts)}" for entry in entries if entry.doubts]
    lines += [f"{warning['entry']}: {warning['text']}" for warning in unusable_rows(entries)]
    return "\n".join(line.rstrip() for line in lines)


def markdown(summary: Mapping[str, Any], full: bool = False) -> str:
    """Return the report as markdown: warnings, stage table, F1 per class; `full` adds each entry's per-class table."""
    rows = [row for row in summary["entries"] if row["scores"]]
    parts = [f"# {cell(summary['title'])}\n"]
    for warning in summary["warnings"]:
        parts.append(f"- **{warning['level']}** {cell(': '.join(filter(None, (warning['entry'], warning['text']))))}")
    parts += ["", table(_STAGE_COLUMNS, [_stage_row(row) for row in summary["entries"]])]
    if handed := [(row["name"], row["hand_over"]) for row in summary["entries"] if row["hand_over"]]:
        parts += ["## Hand-over\n", *(f"- {cell(name)}: {cell(line)}" for name, line in handed), ""]
    classed = [row for row in rows if "per_class" in row["scores"]]
    if classed:
        classes = [
            [cell(name), *(percent((row["scores"]["per_class"].get(name) or {}).get("f1-score")) for row in classed)]
            for name in summary["labels"]
        ]
        parts += ["## F1 per class, %\n", table(["class", *(cell(row["name"]) for row in classed)], classes)]
    for row in classed if full else ():
        parts += [
            f"## {cell(row['name'])}\n",
            table(["class", "precision", "recall", "f1-score", "support"], _class_rows(row["scores"])),
        ]
    return "\n".join(parts) + "\n## How to read this\n\n" + "\n".join(f"- {note}" for note in NOTES) + "\n"


def _stage_row(row: Mapping[str, Any]) -> list[str]:
    scores, clip = row["scores"], row["clip"]
    if not scores:
        return [cell(row["name"]), "", "", cell(row["status"]), "", "", "", "", "", duration(row["seconds"])]
    found = Scores.of(scores)
    return [
        cell(row["name"]),
        percent(found.format.value),
        percent(found.format_sampled.value) if found.format_sampled else "–",
        str(found.accuracy),
        str(found.macro_f1 or "–"),
        str(found.unparsable),
        *(
            f"{points(v['difference'])} (p {p_value(v['p'])})" if v and v["n"] else "–"
            for v in (row["versus_parent"], row["versus_baseline"])
        ),
        "–" if not clip else "**VOID**" if clip["void"] else f"{percent(clip['low'], 3)} / {percent(clip['high'], 3)}",
        duration(row["seconds"]),
    ]


def _class_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    rows = {**scores["per_class"], "macro avg": scores["macro avg"], "weighted avg": scores["weighted avg"]}
    return [
        [cell(name), *(percent(row[key]) for key in ("precision", "recall", "f1-score")), str(row["support"])]
        for name, row in rows.items()
    ]


def _stars(p: float) -> str:
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
