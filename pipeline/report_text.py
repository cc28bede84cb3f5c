"""The report as text: markdown files, the terminal's stage table, and runs side by side."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.report_data import p_value, read_run, summarise
from pipeline.report_html import duration, percent, points, printable

NOTES = (
    "Greedy decoding is the headline. Temperature 1 shows what the policy does when it samples, where format training acts.",
    "Accuracy is over all rows: an answer without a label is wrong. Macro-F1 weighs every class alike.",
    "Intervals are 95 %: Wilson for rates, percentile bootstrap over rows for F1 and differences. They cover the rows "
    "drawn for evaluation, not the seed trained with.",
    "p is McNemar's exact test on the rows both models answered, not corrected for the number of comparisons.",
    "ClipLow (ε_high below ε_low) is our reading of CLGRPO, arXiv 2506.18048, which publishes neither code nor ε.",
)

_STAGE_COLUMNS = (
    *("stage", "format, %", "format T=1, %", "accuracy, % [95 %]", "macro-F1, % [95 %]", "no label"),
    *("vs parent (p)", "vs baseline (p)", "clip low / high, %", "training"),
)


def summary_table(run_root: Path, phases: Sequence[str]) -> str:
    """The stage table in plain text, at most 100 columns wide, from the reports the phases have written."""
    entries = read_run(run_root, phases, None)
    rows = [("stage", "format", "T=1", "accuracy [95 %]", "F1", "no label", "vs parent", "clip lo/hi", "train")]
    for entry, row in zip(entries, summarise("", entries, (), None)["entries"], strict=True):
        scores, versus, clip = row["scores"], row["versus_parent"], row["clip"]
        name = entry.name if len(entry.name) <= 22 else f"{entry.name[:21]}…"
        if not scores:
            rows.append((name, "", "", row["status"], "", "", "", "", _seconds(row["seconds"])))
            continue
        accuracy = scores["accuracy"]
        fractions = f"{100 * clip['low']:.2f}/{100 * clip['high']:.2f}" if clip else ""
        rows.append(
            (
                name,
                percent(scores["format"]["value"]),
                percent(scores["sample"]["format"]["value"]) if scores["sample"] else "",
                f"{percent(accuracy['value'])} [{percent(accuracy['low'])}, {percent(accuracy['high'])}]",
                percent(scores["macro avg"]["f1-score"]),
                str(scores["unparsable"]["n"]),
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
    return "\n".join(line.rstrip() for line in lines)


def compare(run_roots: Sequence[Path]) -> str:
    """Runs side by side as markdown, from their report/summary.json: accuracy, macro-F1 and sampled format rate.

    Runs whose config.yaml differs in nothing but name and seed are one group, whose mean ± sd has a column of its own.

    Raises:
        UserError: naming every run that has no report yet.
    """
    missing = [
        f"{root}: has no report/summary.json; write it with: python -m pipeline report"
        for root in run_roots
        if not (root / "report" / "summary.json").is_file()
    ]
    if missing or not run_roots:
        raise UserError(missing or "compare needs at least one run folder")
    groups: dict[str, list[Path]] = {}
    for root in run_roots:
        groups.setdefault(_config_without_seed(root), []).append(root)
    summaries = {root: json.loads((root / "report" / "summary.json").read_text()) for root in run_roots}
    names = list(dict.fromkeys(row["name"] for summary in summaries.values() for row in summary["entries"]))
    several = [group for group in groups.values() if len(group) > 1]
    columns = [*(root.name for root in run_roots), *("mean of " + ", ".join(r.name for r in g) for g in several)]
    blocks = []
    for header, metric in _COMPARED.items():
        found = {root: {name: metric(_scores_of(summaries[root], name) or {}) for name in names} for root in run_roots}
        rows = [
            [
                _cell(name),
                *(_with_interval(found[root][name]) for root in run_roots),
                *(_mean_sd([value[0] for root in group if (value := found[root][name])]) for group in several),
            ]
            for name in names
            if any(found[root][name] for root in run_roots)
        ]
        blocks.append(f"## {header}\n\n" + _table(["stage", *map(_cell, columns)], rows))
    return (
        "# Runs side by side\n\n"
        + "\n".join(blocks)
        + "\n[95 % interval of one run]; mean ± sample standard deviation [n] of runs that differ only in their seed.\n"
    )


def markdown(summary: Mapping[str, Any], full: bool = False) -> str:
    """The report as markdown: warnings, stage table, F1 per class; `full` adds each entry's per-class table."""
    rows = [row for row in summary["entries"] if row["scores"]]
    parts = [f"# {_cell(summary['title'])}\n"]
    for warning in summary["warnings"]:
        parts.append(f"- **{warning['level']}** {_cell(': '.join(filter(None, (warning['entry'], warning['text']))))}")
    parts += ["", _table(_STAGE_COLUMNS, [_stage_row(row) for row in summary["entries"]])]
    if handed := [(row["name"], row["hand_over"]) for row in summary["entries"] if row["hand_over"]]:
        parts += ["## Hand-over\n", *(f"- {_cell(name)}: {_cell(line)}" for name, line in handed), ""]
    if rows:
        classes = [
            [_cell(name), *(percent(row["scores"]["per_class"][name]["f1-score"]) for row in rows)]
            for name in summary["labels"]
        ]
        parts += ["## F1 per class, %\n", _table(["class", *(_cell(row["name"]) for row in rows)], classes)]
    for row in rows if full else ():
        parts += [
            f"## {_cell(row['name'])}\n",
            _table(["class", "precision", "recall", "f1-score", "support"], _class_rows(row["scores"])),
        ]
    return "\n".join(parts) + "\n## How to read this\n\n" + "\n".join(f"- {note}" for note in NOTES) + "\n"


def _stage_row(row: Mapping[str, Any]) -> list[str]:
    scores, clip = row["scores"], row["clip"]
    if not scores:
        return [_cell(row["name"]), "", "", _cell(row["status"]), "", "", "", "", "", duration(row["seconds"])]
    accuracy, f1, sample = scores["accuracy"], scores["macro avg"], scores["sample"]
    return [
        _cell(row["name"]),
        percent(scores["format"]["value"]),
        percent(sample["format"]["value"]) if sample else "–",
        f"{percent(accuracy['value'])} [{percent(accuracy['low'])}, {percent(accuracy['high'])}]",
        f"{percent(f1['f1-score'])} [{percent(f1['f1-score_low'])}, {percent(f1['f1-score_high'])}]",
        str(scores["unparsable"]["n"]),
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
        [_cell(name), *(percent(row[key]) for key in ("precision", "recall", "f1-score")), str(row["support"])]
        for name, row in rows.items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, aligned, *rows]) + "\n"


def _cell(text: str) -> str:
    """Text that cannot break out of a markdown table cell."""
    text = printable(" ".join(text.split()))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _stars(p: float) -> str:
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _scores_of(summary: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((row["scores"] for row in summary["entries"] if row["name"] == name), None)


Number = tuple[float, float, float]


def _rate(rate: Mapping[str, float] | None) -> Number | None:
    return (rate["value"], rate["low"], rate["high"]) if rate else None


def _macro_f1(scores: Mapping[str, Any]) -> Number | None:
    macro = scores.get("macro avg")
    return (macro["f1-score"], macro["f1-score_low"], macro["f1-score_high"]) if macro else None


_COMPARED: dict[str, Callable[[Mapping[str, Any]], Number | None]] = {
    "Accuracy, %": lambda scores: _rate(scores.get("accuracy")),
    "Macro-F1, %": _macro_f1,
    "Format rate at temperature 1, %": lambda scores: _rate((scores.get("sample") or {}).get("format")),
}
"""What `compare` shows, each with how it is found in the scores of an entry."""


def _with_interval(number: Number | None) -> str:
    if number is None:
        return "not run"
    return f"{percent(number[0])} [{percent(number[1])}, {percent(number[2])}]"


def _mean_sd(values: Sequence[float]) -> str:
    if len(values) < 2:
        return percent(values[0]) if values else "not run"
    return f"{percent(statistics.fmean(values))} ± {percent(statistics.stdev(values))} [{len(values)}]"


def _config_without_seed(root: Path) -> str:
    """What runs of one group share: the configuration less name, folder and seed; the path when unreadable."""
    try:
        config = yaml.safe_load((root / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return str(root)
    return json.dumps(
        {key: value for key, value in config.items() if key not in ("name", "output_dir", "seed")},
        sort_keys=True,
        default=str,
    )
