"""Accuracy on rows that want one step less accuracy on rows that want several, and how that gap moves from model to model.

Plain functions of prediction rows. A unit is a row, or a pair of rows that counts as right when all of it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.metrics.intervals import (
    bootstrap_sums,
    clustered_rate,
    independent_difference,
    paired_difference,
    shared,
    spread,
)
from pipeline.metrics.paired_tests import cluster, judged, right
from pipeline.metrics.scores import Rate


@dataclass(frozen=True)
class Side:
    """Rows whose `group` has one of these values; with `pairs`, pairs of rows that have all of them."""

    group: str
    values: tuple[str, ...]
    pairs: bool = False


@dataclass(frozen=True)
class Grouping:
    """What is a single step, and what are several."""

    single: Side
    multi: Side


@dataclass(frozen=True)
class Gap:
    """Shares of units, and `gap`, the first less the second, with its 95 % interval; `outside`: rows in neither side."""

    single: Rate
    multi: Rate
    gap: Rate
    outside: int


@dataclass(frozen=True)
class _Unit:
    key: str
    right: bool
    cluster: str


def step_gap(rows: Iterable[Mapping[str, Any]], grouping: Grouping) -> Gap | None:
    """Return the gap of one model; None where a side has no row.

    Where units share a cluster (a pair is one, and so are rows of one picture), clusters are drawn whole, so a gap of the same
    situations is a paired one; where none do, the sides are independent samples and the interval is Newcombe's.

    Args:
        rows: with ``id``, ``gold``, ``groups``, ``correct``, ``cluster`` and ``pair``; of a rotated question its own order
            alone counts.
        grouping: the sides.
    """
    known = [row for row in judged(rows) if not row.get("rotation")]
    single, multi = (_units(known, side) for side in (grouping.single, grouping.multi))
    if not single or not multi:
        return None
    rates = [clustered_rate([one.right for one in some], [one.cluster for one in some]) for some in (single, multi)]
    clusters = [one.cluster for one in (*single, *multi)]
    drawn = None
    if shared(clusters):
        values = [[one.right, 1, 0, 0] for one in single] + [[0, 0, one.right, 1] for one in multi]
        drawn = _interval(values, clusters)
    low, high = drawn or independent_difference(*rates)
    inside = {row["id"] for side in (grouping.single, grouping.multi) for row in _of(known, side)}
    gap = Rate(rates[0].share - rates[1].share, low, high)
    return Gap(rates[0], rates[1], gap, len(known) - len(inside))


def gap_change(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]], grouping: Grouping) -> Rate | None:
    """Return the gap of `a` less the gap of `b`, on the units that both have, with its 95 % interval by paired bootstrap.

    None where a side has no common unit. Arguments as `step_gap`.
    """
    found: list[list[tuple[_Unit, _Unit]]] = []
    known = [[row for row in judged(rows) if not row.get("rotation")] for rows in (a, b)]
    for side in (grouping.single, grouping.multi):
        of_b = {one.key: one for one in _units(known[1], side)}
        found.append([(one, of_b[one.key]) for one in _units(known[0], side) if one.key in of_b])
    single, multi = found
    if not single or not multi:
        return None
    values = [[x.right - y.right, 1, 0, 0] for x, y in single] + [[0, 0, x.right - y.right, 1] for x, y in multi]
    sides = [_gain(some) for some in found]
    low, high = _interval(values, [one.cluster for one, _ in (*single, *multi)]) or independent_difference(*sides)
    return Rate(sides[0].share - sides[1].share, low, high)


def _gain(pairs: Sequence[tuple[_Unit, _Unit]]) -> Rate:
    """The share of units that the first model has right less that of the second, with Newcombe's interval."""
    right = [(x.right, y.right) for x, y in pairs]
    both, only_a, only_b = (right.count(kind) for kind in ((True, True), (True, False), (False, True)))
    return Rate((only_a - only_b) / len(pairs), *paired_difference(both, only_a, only_b, len(pairs)))


def _interval(values: Sequence[Sequence[int]], clusters: Sequence[str]) -> tuple[float, float] | None:
    """Of the mean of the first side less that of the second; None without a spread. Draws that lost a side do not count."""
    sums = bootstrap_sums(values, clusters)
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    return spread(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])


def _of(rows: Iterable[Mapping[str, Any]], side: Side) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row.get("groups") or {}).get(side.group) in side.values]


def _units(rows: Iterable[Mapping[str, Any]], side: Side) -> list[_Unit]:
    found = _of(rows, side)
    if not side.pairs:
        return [_Unit(str(row["id"]), right(row), cluster(row) or str(row.get("pair") or "")) for row in found]
    pairs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in found:
        if row.get("pair"):
            pairs[row["pair"]].append(row)
    return [
        _Unit(name, all(map(right, some)), cluster(some[0]) or name)
        for name, some in pairs.items()
        if {row["groups"][side.group] for row in some} == set(side.values)
    ]
