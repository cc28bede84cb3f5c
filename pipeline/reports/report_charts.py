"""Which charts a report has: each drawn once from its summary, for the page (SVG) and the folder (PNG)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics.scores import LengthBin, OfClasses, Scores
from pipeline.reports import charts
from pipeline.reports.charts import Chart, Line
from pipeline.reports.entries import Entry
from pipeline.reports.summary import CotYields, Summary, clip_of

ON_PAGE_ENTRIES, ON_PAGE_CLASSES = 8, 30
"""Most entries and classes whose F1 a page draws; the folder has the chart of the classes with most rows."""
_TRAINED = (3, 5, 6, 7, 2, 1)
"""Colours of the curves of one stage."""
_CLIPPED = {
    "clip_ratio/low_mean": "low: r < 1 − ε_low, A < 0",
    "clip_ratio/high_mean": "high: r > 1 + ε_high, A > 0",
}


def report_charts(summary: Summary, entries: Sequence[Entry]) -> dict[str, Chart]:
    """Return every chart that has something to show, by name."""
    colour = colours(entries)
    rows = [(row.name, scores) for row, scores in summary.evaluated]
    classed = [(name, scores.classes) for name, scores in rows if scores.classes]
    drawn = {
        "accuracy": accuracy(
            [(name, colour[name], scores) for name, scores in rows], _marks([scores for _, scores in rows])
        ),
        "per_class": _per_class(classed, summary.labels, colour),
        "confusion": charts.confusion([(name, classes.confusion) for name, classes in classed]),
        "reliability": charts.reliability(
            [(name, colour[name], scores.calibration.bins) for name, scores in rows if scores.calibration]
        ),
        "curves": charts.curves(list(filter(None, map(_curves, _one_per_phase(entries))))),
        "clip": charts.clip(list(filter(None, map(_clip, _one_per_phase(entries))))),
        "cot": _cot(summary.cot),
    }
    return {name: chart for name, chart in drawn.items() if chart}


def on_page(name: str, summary: Summary) -> bool:
    """Check whether a page shows a chart; it has tables in place of the others."""
    if name == "per_class":
        entries = sum(scores.classes is not None for _, scores in summary.evaluated)
        return entries <= ON_PAGE_ENTRIES and len(summary.labels) <= ON_PAGE_CLASSES
    return name != "confusion"


def length_charts(summary: Summary, entries: Sequence[Entry]) -> list[tuple[str, Chart]]:
    """Return (entry, accuracy by the words of the reasoning)."""
    colour = colours(entries)
    found = []
    for row, scores in summary.evaluated:
        shown = [(_words(one), colour[row.name], [one.accuracy]) for one in scores.by_length or ()]
        if chart := charts.intervals(shown):
            found.append((row.name, chart))
    return found


def accuracy(rows: Sequence[tuple[str, int, Scores]], marks: Sequence[tuple[float, str]] = ()) -> Chart | None:
    """Return accuracy of entries, greedy and, where they were sampled, at temperature 1."""
    shown = [
        (name, colour, [scores.accuracy, *([scores.sample.accuracy] if scores.sample else [])])
        for name, colour, scores in rows
    ]
    sampled = any(len(rates) > 1 for _, _, rates in shown)
    return charts.intervals(shown, marks=marks, kinds=("greedy", "temperature 1") if sampled else ())


def colours(entries: Sequence[Entry]) -> dict[str, int]:
    """Return a colour of `charts` per entry: greys for the base, orange first for baselines, others in turn."""
    others = [entry.name for entry in entries if not entry.is_base and not entry.is_baseline]
    baselines = dict.fromkeys(entry.phase for entry in entries if entry.is_baseline)
    of_baseline = dict(zip(baselines, itertools.cycle(charts.BASELINES)))
    every = charts.OTHERS if len(others) == len(entries) else charts.STAGES
    hues = [hue for hue in every if hue not in of_baseline.values()]
    chosen = {name: hues[place % len(hues)] for place, name in enumerate(others)}
    for place, entry in enumerate(entry for entry in entries if entry.is_base):
        chosen[entry.name] = (charts.BASE, charts.SECOND_BASE)[place % 2]
    return chosen | {entry.name: of_baseline[entry.phase] for entry in entries if entry.is_baseline}


def _marks(scores: Sequence[Scores]) -> list[tuple[float, str]]:
    """Lines of what knowing nothing earns, where that is the same for all entries."""
    chances = {one.chance for one in scores}
    majorities = {one.blind_answer for one in scores}
    majority = "majority class" if any(one.classes for one in scores) else "commonest answer"
    marks = [(values.pop(), name) for values, name in ((chances, "chance"), (majorities, majority)) if len(values) == 1]
    return [(value, name) for value, name in marks if value is not None]


def _per_class(
    classed: Sequence[tuple[str, OfClasses]], labels: Sequence[str], colour: Mapping[str, int]
) -> Chart | None:
    if not classed:
        return None
    support = {name: max(getattr(of.per_class.get(name), "support", 0) for _, of in classed) for name in labels}
    kept = set(sorted(labels, key=lambda name: -support[name])[: charts.MOST_NAMES])
    names = [name for name in labels if name in kept]
    series = [
        (entry, colour[entry], [getattr(of.per_class.get(name), "f1", None) for name in names]) for entry, of in classed
    ]
    cut = f" (the {len(names)} of {len(labels)} classes with most rows)" if len(names) < len(labels) else ""
    return charts.bars(names, series, f"F1, %{cut}")


def _words(one: LengthBin) -> str:
    return f"{one.low} – {one.high} words" if one.low < one.high else f"{one.low} words"


def _curves(entry: Entry) -> tuple[str, list[Line], str, list[Line]] | None:
    """Loss, and rewards or token accuracy, over the steps of a trained stage."""
    if not any("loss" in row for row in entry.log):
        return None
    rewards = sorted({key for row in entry.log for key in row if key.startswith("rewards/") and key.endswith("/mean")})
    named = {key: key.split("/")[1].removesuffix("_reward") for key in rewards}
    if len(named) > 1:
        named["reward"] = "total"
    what = "mean reward" if named else "token accuracy"
    values = _series(entry.log, named or {"mean_token_accuracy": "token accuracy"})
    return entry.name, _series(entry.log, {"loss": "loss"}), what, values


def _clip(entry: Entry) -> tuple[str, list[Line], bool, bool] | None:
    """Both clip fractions over the steps of a stage that was to clip."""
    clipped = clip_of(entry.record)
    if not clipped:
        return None
    known = clipped.epsilon is not None and clipped.epsilon_high is not None
    epsilons = f"   ε_low {clipped.epsilon:g}, ε_high {clipped.epsilon_high:g}" if known else ""
    return entry.name + epsilons, _series(entry.log, _CLIPPED, scale=100), not clipped.void, clipped.void


def _cot(yields: CotYields | None) -> Chart | None:
    """Kept and rejected CoT rows per class."""
    if not yields:
        return None
    table = dict(list(yields.per_class.items())[: charts.MOST_NAMES])
    series = [
        (kind, colour, [getattr(row, kind) for row in table.values()])
        for kind, colour in (("kept", 3), ("rejected", 5))
    ]
    return charts.bars(list(table), series, "CoT rows", stacked=True)


def _series(log: Sequence[Mapping[str, Any]], keys: Mapping[str, str], scale: float = 1) -> list[Line]:
    """(name, colour, points) of the keys that occur in a log."""
    found: list[Line] = []
    for place, (key, name) in enumerate(keys.items()):
        values = [(row["step"], scale * row[key]) for row in log if isinstance(row.get(key), int | float)]
        if values:
            found.append((name, _TRAINED[place % len(_TRAINED)], values))
    return found


def _one_per_phase(entries: Sequence[Entry]) -> list[Entry]:
    return list({entry.phase: entry for entry in reversed(entries)}.values())[::-1]
