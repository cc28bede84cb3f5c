"""Which stage helped: a sentence per stage, made from its paired tests, with the group in which its answers changed most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.formatting import p_value, percent, points
from pipeline.metrics.classification import in_order
from pipeline.metrics.paired_tests import group_changes
from pipeline.metrics.scores import Change
from pipeline.reports.entries import Entry
from pipeline.reports.paired_entries import PairedTest, classed


@dataclass(frozen=True)
class Finding:
    """A sentence about a stage; `verdict` is better, worse, same (no difference beyond chance) or unknown."""

    entry: str
    verdict: str
    text: str


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring values of a group, or one: accuracy before and after over all their rows."""

    words: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    def __str__(self) -> str:
        return f"{self.words}: {percent(self.before)} → {percent(self.after)}\u00a0%"


def finding(entry: Entry, parent: Entry | None, tests: Sequence[PairedTest]) -> Finding | None:
    """Return what a stage brought over its parent, and how it stands against the others it was tested against.

    A difference is beyond chance where p, corrected over all tests of accuracy of the report, is below 5 %; a value of a
    group has changed where its own p is, corrected over all values of all groups.

    Args:
        entry: a stage; None is returned for what is no stage, or has not been evaluated.
        parent: the entry it was trained from, if that is known.
        tests: all tests of the report.
    """
    if entry.is_base or entry.is_baseline or not entry.scores or not entry.record.get("init_from"):
        return None
    own = [test for test in tests if test.entry == entry.name]
    over = next((test for test in own if parent and test.name == parent.name), None)
    others = "".join(f"; against {_beside(test)}" for test in own if test is not over)
    if parent is None or over is None:
        wanted = parent.name if parent else entry.record["init_from"]
        why = (
            f"{wanted}, its parent, has no answers to the same rows"
            if parent
            else f"no answers of {wanted}, its parent"
        )
        return Finding(entry.name, "unknown", f"cannot be told: {why}{others}")
    verdict, text = _overall(over)
    changes = group_changes(entry.predictions, parent.predictions, classed(entry, parent))
    text += _where(changes, rose=(over.result.difference or 0) >= 0) + others
    if entry.doubts or parent.doubts:
        text += "; it or its parent no longer holds"
    return Finding(entry.name, verdict, text)


def _overall(test: PairedTest) -> tuple[str, str]:
    found = test.result.gain
    assert found.value is not None and found.low is not None and found.high is not None  # noqa: PT018
    assert found.p is not None
    p = found.p if test.p_holm is None else test.p_holm
    if p < 0.05:
        word = "over" if found.value > 0 else "against"
        text = f"{points(found.value)} points {word} {test.name} on {found.n} rows, p {p_value(p)}"
        return ("better", text) if found.value > 0 else ("worse", f"it lost: {text}")
    alone = f" (p {p_value(found.p)} alone, p {p_value(p)} corrected)" if found.p < 0.05 else ""
    between = f"{points(found.low)} to {points(found.high)}"
    text = f"{points(found.value)} points over {test.name} on {found.n} rows, 95 % interval {between}{alone}"
    return "same", f"no difference beyond chance: {text}"


def _beside(test: PairedTest) -> str:
    p = test.result.p if test.p_holm is None else test.p_holm
    assert p is not None
    chance = "" if p < 0.05 else ", not beyond chance"
    return f"{test.name} {points(test.result.difference)}, p {p_value(p)}{chance}"


def _where(changes: Mapping[tuple[str, str], Change], rose: bool) -> str:
    """The largest change beyond chance in the direction of the whole, then the largest against it."""
    found = list(_stretches(changes))
    rises = max((one for one in found if one.difference > 0), key=lambda one: one.difference, default=None)
    falls = min((one for one in found if one.difference < 0), key=lambda one: one.difference, default=None)
    along, turned = (rises, falls) if rose else (falls, rises)
    return (f"; {along}" if along else "") + (f"; but {turned}" if turned else "")


def _stretches(changes: Mapping[tuple[str, str], Change]) -> Iterator[_Stretch]:
    """The values of groups that changed beyond chance, each one alone or, of whole numbers, with neighbours that changed so too.

    All values of a group together are all rows, and say nothing new: then each is one alone.
    """
    for group, members in groupby(sorted(changes, key=lambda key: (key[0], in_order(key[1]))), key=lambda key: key[0]):
        values = [value for _, value in members]
        # Classes that are called by numbers have no order.
        numbers = group != "label" and not any(in_order(value)[0] for value in values)
        signs = {value: _sign(changes[group, value]) for value in values}
        runs = [list(run) for _, run in groupby(values, key=lambda value: signs[value])] if numbers else []
        if len(runs) < 2:
            runs = [[value] for value in values]
        for run in runs:
            if signs[run[0]]:
                yield _stretch(group, run, [changes[group, value] for value in run])


def _sign(change: Change) -> int:
    value = change.gain.value or 0.0
    return (value > 0) - (value < 0) if change.gain.beyond_chance else 0


def _stretch(group: str, values: Sequence[str], changes: Sequence[Change]) -> _Stretch:
    rows = [change.gain.n or 0 for change in changes]
    before, after = (
        sum(share * n for share, n in zip(shares, rows, strict=True)) / sum(rows)
        for shares in ([change.before for change in changes], [change.after for change in changes])
    )
    said = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return _Stretch(f"rows of {said!r}" if group == "label" else f"where {group} is {said}", before, after)
