"""Intervals of shares and means: Wilson's where rows are independent, a percentile bootstrap over clusters where they are not.

Rows of one cluster share a picture, and a model that misreads the picture misses them all; counting them as independent would
make every interval too narrow. So clusters are drawn with replacement, whole (Field and Welsh 2007, the cluster bootstrap).
Plain functions of numbers; no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.metrics.scores import Rate

RESAMPLES = 2000
SEED = 0
Z = 1.959963984540054
"""97.5 % point of the normal distribution."""
# Of a block of draws: 32 MB.
_CELLS = 4_000_000


def wilson(count: float, n: float) -> tuple[float | None, float | None]:
    """Return 95 % Wilson score interval of a share (Wilson 1927); (None, None) when n is 0."""
    if n == 0:
        return None, None
    share, spread = count / n, Z**2 / n
    centre = share + spread / 2
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # The bounds at 0 and n are exactly 0 and 1; rounding must not push them past.
    low = 0.0 if count == 0 else (centre - half) / (1 + spread)
    high = 1.0 if count == n else (centre + half) / (1 + spread)
    return low, high


def paired_difference(both: float, only_a: float, only_b: float, n: float) -> tuple[float, float]:
    """Return 95 % score interval of the share of `a` minus that of `b` on the same n rows, n at least 1.

    Newcombe's method 10 (1998, Statistics in Medicine 17:2635): Wilson's intervals of both shares, joined by their correlation,
    which is corrected for continuity. Unlike a bootstrap it has a width where few rows differ, or none.

    Args:
        both: rows that both have right; parts where rows of one cluster count as one.
        only_a: rows that `a` alone has right.
        only_b: rows that `b` alone has right.
        n: rows in all.
    """
    neither = n - both - only_a - only_b
    shares = [(both + only_a) / n, (both + only_b) / n]
    (low_a, high_a), (low_b, high_b) = (wilson(both + only, n) for only in (only_a, only_b))
    assert low_a is not None and high_a is not None and low_b is not None and high_b is not None  # noqa: PT018
    margins = math.prod((both + only_a, both + only_b, n - both - only_a, n - both - only_b))
    together = both * neither - only_a * only_b
    correlation = (max(together - n / 2, 0.0) if together > 0 else together) / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = (only_a - only_b) / n
    low = difference - reach(shares[0] - low_a, high_b - shares[1])
    high = difference + reach(high_a - shares[0], shares[1] - low_b)
    return max(-1.0, low), min(1.0, high)


def independent_difference(a: Rate, b: Rate) -> tuple[float, float]:
    """Return 95 % score interval of one share minus another of other rows, of at least one row each.

    Newcombe's method 10 (1998, Statistics in Medicine 17:873): what their intervals reach to, squared and added.
    """
    (below_a, above_a), (below_b, above_b) = _reach(a), _reach(b)
    difference = a.share - b.share
    return difference - math.hypot(below_a, above_b), difference + math.hypot(above_a, below_b)


def _reach(one: Rate) -> tuple[float, float]:
    """How far below and above a share its interval goes."""
    assert one.low is not None
    assert one.high is not None
    return one.share - one.low, one.high - one.share


def rate(count: int, n: int) -> Rate:
    """Return a share with its 95 % Wilson interval; all None when n is 0."""
    return Rate(count / n if n else None, *wilson(count, n), count, n)


def clustered_rate(right: Sequence[bool], clusters: Sequence[str]) -> Rate:
    """Return a share of rows with its 95 % interval: `rate` unless rows share clusters, else by bootstrap over clusters.

    Where a bootstrap has no spread, as where all rows agree, the interval is Wilson's, of clusters instead of rows.

    Args:
        right: one truth value per row.
        clusters: one name per row; "" is a cluster of its own.

    Returns:
        As `rate`, with `clusters` where rows share any.
    """
    found = rate(sum(right), len(right))
    if not shared(clusters):
        return found
    number = len(set(_names(clusters)))
    sums = bootstrap_sums([[value, 1] for value in right], clusters)
    low, high = spread(sums[:, 0] / sums[:, 1]) or wilson(number * found.share, number)
    return replace(found, low=low, high=high, clusters=number)


def shared(clusters: Sequence[str]) -> bool:
    """Check whether any two rows share a cluster."""
    named = [name for name in clusters if name]
    return len(set(named)) < len(named)


def cluster_sums(values: Any, clusters: Sequence[str]) -> Any:
    """Return the rows of `values` (n × k) summed within each cluster, in the order clusters first occur: an array C × k."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    if not shared(clusters):
        return values
    place: dict[Any, int] = {}
    index = [place.setdefault(name, len(place)) for name in _names(clusters)]
    sums = np.zeros((len(place), values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def bootstrap_sums(values: Any, clusters: Sequence[str]) -> Any:
    """Return column sums of `values` (n × k) over `RESAMPLES` draws of the clusters with replacement: an array RESAMPLES × k.

    Drawing rows is one multinomial draw over the kinds of row there are, so 10,000 rows of zeros and ones cost nothing.
    """
    import numpy as np

    kinds, counts = np.unique(cluster_sums(values, clusters), axis=0, return_counts=True)
    n, random = int(counts.sum()), np.random.default_rng(SEED)
    block = max(1, _CELLS // len(kinds))
    sizes = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    return np.concatenate([random.multinomial(n, counts / n, size=size) @ kinds for size in sizes])


def interval(draws: Any) -> tuple[float, float]:
    """Return 95 % percentile interval of a statistic's bootstrap draws."""
    import numpy as np

    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return low, high


def spread(draws: Any) -> tuple[float, float] | None:
    """Return `interval` of draws; None where they have no spread, as where all rows agree, however few they are."""
    low, high = interval(draws)
    # Of equal numbers a mean and a percentile may be the last digit apart.
    return (low, high) if high - low > 1e-9 else None


def joined(mean: float, parts: Sequence[Rate], *, together: bool, least: float = 0.0) -> tuple[float, float]:
    """Return 95 % interval of a mean, of those of its parts: a macro recall's where its bootstrap has no spread.

    A model that gives one answer to everything has the same macro recall in every draw, however few its rows are.

    Args:
        mean: of the parts.
        parts: the share of every class, or its difference, with an interval of its own.
        together: whether rows of several classes share clusters, so that the parts may move as one. Their reaches are added up
            then; of independent parts the squares are (Zou, Huang and Zhang 2009, Comput. Stat. Data Anal. 53:1080).
        least: that the mean can be; the most is 1.
    """
    below, above = (
        math.fsum(reaches) if together else math.hypot(*reaches) for reaches in zip(*map(_reach, parts), strict=True)
    )
    return max(least, mean - below / len(parts)), min(1.0, mean + above / len(parts))


def _names(clusters: Sequence[str]) -> list[Any]:
    """A name per row that is equal within a cluster; "" becomes a name of its own."""
    return [name or index for index, name in enumerate(clusters)]
