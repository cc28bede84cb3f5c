"""Runs side by side: what differs in their configurations, their accuracy and macro-F1, and paired tests on the same rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.metrics import paired
from pipeline.paired import holm, macro_f1_difference
from pipeline.phases import differences
from pipeline.report_data import Entry, p_value, read_run
from pipeline.report_html import percent, points
from pipeline.report_text import cell, table

OWN = ("name", "output_dir")
"""Keys in which any two runs differ."""


def compare(run_roots: Sequence[Path]) -> str:
    """Runs side by side as markdown, from their report/summary.json, config.yaml and predictions.

    Runs whose config.yaml differs in nothing but name and seed are one group, whose mean ± sd has a column of its own. Every
    other run is tested against the first, on the rows both answered.

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
    configs = {root: _config(root) for root in run_roots}
    summaries = {root: json.loads((root / "report" / "summary.json").read_text()) for root in run_roots}
    names = list(dict.fromkeys(row["name"] for summary in summaries.values() for row in summary["entries"]))
    parts = ["# Runs side by side\n", *_differences(configs), *_numbers(configs, summaries, names)]
    parts.append(
        "[95 % interval of one run]; mean ± sample standard deviation [n] of runs that differ only in their seed.\n"
    )
    return "\n".join([*parts, *_tests(run_roots, names)])


def _differences(configs: Mapping[Path, Any]) -> list[str]:
    """The settings in which each run differs from the first."""
    first, *others = configs
    lines = []
    for root in others:
        if configs[root] is None or configs[first] is None:
            lines.append(f"- **{cell(root.name)}**: a config.yaml is missing or unreadable")
            continue
        plain = [{key: value for key, value in configs[r].items() if key not in OWN} for r in (first, root)]
        changed = differences(plain[0], plain[1])
        lines.append(f"- **{cell(root.name)}**: " + ("; ".join(map(cell, changed)) or "the same settings"))
    return [f"## Settings, {cell(first.name)} -> the other\n", *lines, ""] if lines else []


def _numbers(configs: Mapping[Path, Any], summaries: Mapping[Path, Any], names: Sequence[str]) -> list[str]:
    """A table per metric: a row per stage, a column per run and per group of seeds."""
    groups: dict[str, list[Path]] = {}
    for root, config in configs.items():
        groups.setdefault(_without_seed(root, config), []).append(root)
    several = [group for group in groups.values() if len(group) > 1]
    columns = [*(root.name for root in configs), *("mean of " + ", ".join(r.name for r in g) for g in several)]
    blocks = []
    for header, metric in _COMPARED.items():
        found = {root: {name: metric(_scores_of(summaries[root], name) or {}) for name in names} for root in configs}
        rows = [
            [
                cell(name),
                *(_with_interval(found[root][name]) for root in configs),
                *(_mean_sd([value[0] for root in group if (value := found[root][name])]) for group in several),
            ]
            for name in names
            if any(found[root][name] for root in configs)
        ]
        blocks.append(f"## {header}\n\n" + table(["stage", *map(cell, columns)], rows))
    return blocks


def _tests(run_roots: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Every other run against the first, per entry, on the rows both answered; p corrected over all tests of the table."""
    phases = list(dict.fromkeys(name.split(" ")[0] for name in names))
    entries = {root: {entry.name: entry for entry in read_run(root, phases, None)} for root in run_roots}
    first, *others = run_roots
    tests: list[tuple[Path, str, dict[str, Any], dict[str, Any], str]] = []
    for root in others:
        for name in names:
            ours, theirs = entries[first].get(name), entries[root].get(name)
            if ours is None or theirs is None:
                continue
            right = paired(theirs.predictions, ours.predictions)
            if right["n"]:
                f1 = macro_f1_difference(theirs.predictions, ours.predictions)
                tests.append((root, name, right, f1, _rows(theirs, ours, right["n"])))
    if not tests:
        return ["## Paired tests\n\nThe runs have no answered row in common.\n"] if others else []
    corrected = holm([test["p"] for _, _, *both, _ in tests for test in both])  # accuracy, F1, accuracy, F1, …
    rows = []
    for index, (root, name, right, f1, common) in enumerate(tests):
        cells = [cell(f"{root.name} - {first.name}"), cell(name), common]
        for test, p in ((right, corrected[2 * index]), (f1, corrected[2 * index + 1])):
            cells += [
                f"{points(test['difference'])} [{points(test['low'])}, {points(test['high'])}]",
                p_value(test["p"]),
            ]
            cells.append(p_value(p))
        rows.append(cells)
    header = [
        "runs",
        "stage",
        "rows",
        "accuracy, points [95 %]",
        "p",
        "p, Holm",
        "macro-F1, points [95 %]",
        "p",
        "p, Holm",
    ]
    return [
        "## Paired tests\n",
        table(header, rows),
        "Greedy answers to the same rows. Accuracy: McNemar's exact test, interval by paired bootstrap; macro-F1: paired "
        f"bootstrap. Holm's correction is over all {len(corrected)} tests of the table. They tell two trained models apart on "
        "other rows; what another seed would give, only several seeds tell.\n",
    ]


def _rows(a: Entry, b: Entry, common: int) -> str:
    """How many rows a test is on, and of how many where not all are common."""
    counts = [len({row["id"] for row in entry.predictions if row["decoding"] == "greedy"}) for entry in (a, b)]
    return str(common) if counts == [common, common] else f"**only {common}** of {counts[0]} and {counts[1]}"


def _config(root: Path) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load((root / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def _without_seed(root: Path, config: dict[str, Any] | None) -> str:
    """What runs of one group share: the configuration less name, folder and seed; the path when unreadable."""
    if config is None:
        return str(root)
    return json.dumps(
        {key: value for key, value in config.items() if key not in (*OWN, "seed")}, sort_keys=True, default=str
    )


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
