"""Runs side by side: what differs in their configurations, their accuracy, recall and F1, and paired tests on the same rows.

A run is the folder of a pipeline's run, a cell of the evaluation lab, or any folder with predictions.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.loader import rename_baseline
from pipeline.config.schema import RunConfig
from pipeline.config.validation import without_nulls
from pipeline.errors import UserError
from pipeline.files import differences, read_json
from pipeline.metrics.paired_tests import holm, macro_f1_difference, macro_recall_difference, paired
from pipeline.metrics.scores import Rate, Scores
from pipeline.metrics.stored import from_json
from pipeline.reports.entries import Entry, names_apart, read_folders, read_run
from pipeline.reports.paired_entries import RECALL_NOTE, classed, versus_per_class
from pipeline.reports.standing import PREDICTIONS
from pipeline.reports.summary import Summary
from pipeline.reports.table import Column, Mean, Table, cell, markdown_table
from pipeline.run_dir import COT

OWN = ("name", "output_dir")
"""Keys in which any two runs differ."""
SPREAD = "[95 % interval of one run]; mean ± sample standard deviation [n] of runs that differ only in their seed."
NO_TESTS = "The runs have no answered row in common."


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, as values. `settings` are (run, how it differs from the first); `tests` is None without common rows,
    `recall` (of every class) where answers are no classes too.
    """

    runs: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    numbers: tuple[Table, ...]
    tests: Table | None
    recall: Table | None
    entries: Mapping[str, Mapping[str, Entry]]
    left_out: tuple[tuple[str, str], ...] = ()
    """(run and stage, why it no longer holds) of what is in no number."""


Doubted = Mapping[Path, Mapping[str, Sequence[str]]]
"""Run: phase: why it no longer holds, beside what its records say."""


def compare(run_roots: Sequence[Path], doubted: Doubted | None = None) -> str:
    """Return runs side by side as markdown; see `gather` for what is compared and when it is refused."""
    found = gather(run_roots, doubted)
    parts = ["# Runs side by side\n"]
    if found.left_out:
        parts += ["## Left out\n", *(f"- **{cell(name)}**: {cell(why)}" for name, why in found.left_out), ""]
    if found.settings:
        lines = [f"- **{cell(name)}**: {cell(text)}" for name, text in found.settings]
        parts += [f"## Settings, {cell(found.runs[0])} -> the other\n", *lines, ""]
    parts += [*map(markdown_table, found.numbers), f"{SPREAD}\n"]
    if found.tests:
        parts += map(markdown_table, filter(None, (found.tests, found.recall)))
    elif len(found.runs) > 1:
        parts.append(f"## Paired tests\n\n{NO_TESTS}\n")
    return "\n".join(parts)


def gather(run_roots: Sequence[Path], doubted: Doubted | None = None) -> Comparison:
    """Compare runs, from their report/summary.json, config.yaml and predictions; other folders from their predictions alone.

    Stages that no longer hold (deleted, stale, or made from what is) are left out, and said to be.

    Runs whose config.yaml differs in nothing but name and seed are one group, whose mean ± sd has a column of its own; where some
    took the CoT rows of another (`cot.from`), the rows must be the same, not how a run came by them. Every other run is
    tested against the first, entry by entry, on the rows both answered.

    Raises:
        UserError: naming every run that has no report yet.
    """
    roots = list(dict.fromkeys(run_roots))
    missing = [f"{root}: {why}" for root in roots if (why := _incomparable(root))]
    if missing or not roots:
        raise UserError(missing or "compare needs at least one run folder")
    called = names_apart(roots)
    every = {called[root]: _entries(root, (doubted or {}).get(root, {})) for root in roots}
    entries = {run: {name: one for name, one in found.items() if not one.doubts} for run, found in every.items()}
    left_out = {(run, name): one.doubts for run, found in every.items() for name, one in found.items() if one.doubts}
    names = list(dict.fromkeys(name for of_run in every.values() for name in of_run))
    configs = {called[root]: _config(root) for root in roots if not (root / PREDICTIONS).is_file()}
    rows = {called[root]: read_json(root / COT / "manifest.json").get("data_digest") for root in roots}
    return Comparison(
        runs=tuple(called.values()),
        settings=tuple(_differences(configs)) if len(configs) == len(roots) else (),
        numbers=tuple(_numbers(entries, _by_rows(configs, rows), names, left_out)),
        tests=_tests(entries, names),
        recall=_recall(entries, names),
        entries=entries,
        left_out=tuple((f"{run}, {name}", "; ".join(why)) for (run, name), why in left_out.items()),
    )


def _incomparable(root: Path) -> str | None:
    """Why a folder cannot be put beside others; None where it can."""
    if (root / PREDICTIONS).is_file():
        return None
    if cells := sorted(root.glob(f"cells/*/{PREDICTIONS}")):
        # A report of them all is no run's: its entries are not phases.
        return f"holds cells of the evaluation lab, which are compared one by one, such as {cells[0].parent}"
    if not root.is_dir():
        return "there is no such folder"
    if not (root / "report" / "summary.json").is_file():
        return "has no report/summary.json; write it with: python -m pipeline report"
    return None


def _entries(root: Path, doubted: Mapping[str, Sequence[str]]) -> dict[str, Entry]:
    """A run's entries by name. Those of a plain folder are named by their prompt style alone, or they could not be paired."""
    if (root / PREDICTIONS).is_file():
        return {_plain(entry): entry for entry in read_folders([root])}
    path = root / "report" / "summary.json"
    try:
        summary = from_json(Summary, read_json(path))
    except ValueError as error:
        raise UserError(
            f"{path}: not of this version ({error}); write it anew with: python -m pipeline report"
        ) from error
    phases = list(dict.fromkeys(row.phase for row in summary.entries))
    scores = {row.name: row.scores for row in summary.entries}
    found = {}
    for entry in read_run(root, phases, None, doubted, stored=True):
        if entry.predictions:
            found[entry.name] = dataclasses.replace(entry, scores=entry.scores or scores.get(entry.name))
        elif any(row.phase == entry.phase for row, _ in summary.evaluated):
            gone = (*entry.doubts, "its answers, of which the report still tells, are gone")
            found[entry.name] = dataclasses.replace(entry, doubts=gone)
        else:
            found[entry.name] = entry
    return found


def _plain(entry: Entry) -> str:
    return "answers" + entry.name.removeprefix(entry.phase)


def _differences(configs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings in which each run differs from the first."""
    first, *others = configs
    found = []
    for name in others:
        if configs[name] is None or configs[first] is None:
            found.append((name, "a config.yaml is missing or unreadable"))
            continue
        plain = [{key: value for key, value in configs[one].items() if key not in OWN} for one in (first, name)]
        found.append((name, "; ".join(differences(plain[0], plain[1])) or "the same settings"))
    return found


def _by_rows(configs: Mapping[str, Any], rows: Mapping[str, str | None]) -> dict[str, Any]:
    """The configurations, with the digest of its CoT rows in the place of how a run came by them, where some took another's."""
    if not any((config or {}).get("cot", {}) and config["cot"].get("from") for config in configs.values()):
        return dict(configs)
    return {run: {**config, "cot": rows[run]} if config and rows[run] else config for run, config in configs.items()}


def _numbers(
    entries: Mapping[str, Mapping[str, Entry]],
    configs: Mapping[str, Any],
    names: Sequence[str],
    left_out: Collection[tuple[str, str]],
) -> list[Table]:
    """A table per metric: a row per stage, a column per run and per group of seeds."""

    def missing(run: str, name: str) -> str:
        if (run, name) in left_out:
            return "left out"
        one = entries[run].get(name)
        # Answers that are no classes have no macro averages, and not every model was sampled.
        return "–" if one and one.scores else "not run"

    groups: dict[str, list[str]] = {}
    for run in entries:
        groups.setdefault(_without_seed(run, configs.get(run)), []).append(run)
    several = {f"mean of {', '.join(group)}": group for group in groups.values() if len(group) > 1}
    made = []
    for key, (title, metric) in _COMPARED.items():
        found = {
            run: {name: metric(entry.scores) if entry.scores else None for name, entry in of_run.items()}
            for run, of_run in entries.items()
        }
        rows = [
            {
                "stage": name,
                **{f"run:{run}": found[run].get(name) or missing(run, name) for run in entries},
                **{
                    f"mean:{head}": _mean([found[run].get(name) for run in group]) or missing(group[0], name)
                    for head, group in several.items()
                },
            }
            for name in names
            if any(found[run].get(name) for run in entries)
        ]
        columns = (
            Column("stage", "stage"),
            *(Column(f"run:{run}", run, "percent") for run in entries),
            *(Column(f"mean:{head}", head, "percent") for head in several),
        )
        if rows:
            made.append(Table(key, title, columns, tuple(rows)))
    return made


def _tests(entries: Mapping[str, Mapping[str, Entry]], names: Sequence[str]) -> Table | None:
    """Every other run against the first, per entry, on the rows both answered; p corrected over all tests of the table."""
    first, *others = entries
    rows: list[dict[str, Any]] = []
    tests: list[tuple[dict[str, Any], str]] = []
    for run in others:
        for name in names:
            ours, theirs = entries[first].get(name), entries[run].get(name)
            if ours is None or theirs is None:
                continue
            right = paired(theirs.predictions, ours.predictions)
            if not right.n:
                continue
            row: dict[str, Any] = {"runs": f"{run} - {first}", "stage": name, "rows": _rows(theirs, ours, right.n)}
            gains = {"accuracy": right.gain}
            if classed(theirs, ours):
                gains["macro_recall"] = macro_recall_difference(theirs.predictions, ours.predictions)
                gains["macro_f1"] = macro_f1_difference(theirs.predictions, ours.predictions)
            row["detectable"] = right.detectable
            for key, gain in gains.items():
                row |= {key: Rate(gain.value, gain.low, gain.high), f"{key}_p": gain.p}
                tests.append((row, key))
            rows.append(row)
    if not rows:
        return None
    for (row, key), p in zip(tests, holm([row[f"{key}_p"] for row, key in tests]), strict=True):
        row[f"{key}_p_holm"] = p
    columns = [Column("runs", "runs"), Column("stage", "stage"), Column("rows", "rows")]
    titles = {"accuracy": "accuracy, points", "macro_recall": "macro recall, points", "macro_f1": "macro-F1, points"}
    for key, title in titles.items():
        if any(key in row for row in rows):
            columns += [Column(key, f"{title} [95 %]", "points"), Column(f"{key}_p", "p", "p")]
            columns.append(Column(f"{key}_p_holm", "p, Holm", "p"))
    columns.append(Column("detectable", "detectable, points", "percent"))
    note = (
        "Greedy answers to the same rows. Accuracy: McNemar's exact test, interval by paired bootstrap; macro recall and F1: "
        f"paired bootstrap. Holm's correction is over all {len(tests)} tests of the table. Detectable: the smallest difference "
        "in accuracy that this many rows and this much discordance find in 80 % of cases at two-sided 5 %. They tell two trained "
        "models apart on other rows; what another seed would give, only several seeds tell."
    )
    return Table("tests", "Paired tests", tuple(columns), tuple(rows), note=note)


def _recall(entries: Mapping[str, Mapping[str, Entry]], names: Sequence[str]) -> Table | None:
    """Recall of every class of every stage, each other run less the first."""
    first, *others = entries
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for run in others:
        for name in names:
            ours, theirs = entries[first].get(name), entries[run].get(name)
            test = versus_per_class(theirs, ours) if ours and theirs else None
            for label, change in test.per_class.items() if test else ():
                found.setdefault((name, label), {})[f"change:{run}"] = change.gain
    if not found:
        return None
    heads = (Column("stage", "stage"), Column("class", "class"))
    columns = (*heads, *(Column(f"change:{run}", f"{run} - {first}", "points") for run in others))
    empty = dict.fromkeys(column.key for column in columns)
    rows = tuple(empty | {"stage": name, "class": label} | gains for (name, label), gains in found.items())
    return Table("recall_changes", "Recall per class, differences in points", columns, rows, note=RECALL_NOTE)


def _rows(a: Entry, b: Entry, common: int) -> str | int:
    """How many rows a test is on, and of how many where not all are common."""
    counts = [len(entry.greedy) for entry in (a, b)]
    return common if counts == [common, common] else f"only {common} of {counts[0]} and {counts[1]}"


def _config(root: Path) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load((root / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(config, dict):
        return None
    rename_baseline(config)
    if isinstance(launch := config.get("launch"), dict):
        # It changes no bit of a run.
        launch.pop("parallel_phases", None)
    return dict(without_nulls(config, RunConfig))


def _without_seed(run: str, config: dict[str, Any] | None) -> str:
    """What runs of one group share: the configuration less name, folder and seed; the run's own name when unreadable."""
    if config is None:
        return run
    return json.dumps(
        {key: value for key, value in config.items() if key not in (*OWN, "seed")}, sort_keys=True, default=str
    )


_COMPARED: dict[str, tuple[str, Callable[[Scores], Rate | None]]] = {
    "accuracy": ("Accuracy, %", lambda scores: scores.accuracy),
    "macro_recall": ("Macro recall, %", lambda scores: scores.macro_recall),
    "macro_f1": ("Macro-F1, %", lambda scores: scores.macro_f1),
    "format_sampled": ("Format rate at temperature 1, %", lambda scores: scores.format_sampled),
}
"""What `compare` shows, each with where it is in the scores of an entry."""


def _mean(found: Sequence[Rate | None]) -> Mean | None:
    values = [one.value for one in found if one and one.value is not None]
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
