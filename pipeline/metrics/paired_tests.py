"""Paired tests between two models on the same rows: accuracy, macro-F1, recall, where they differ, and what could be found.

Plain functions of predictions; no files. Rows that share a picture (`cluster`) are resampled, and flipped, together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipeline.metrics.intervals import (
    RESAMPLES,
    bootstrap_sums,
    cluster_sums,
    joined,
    paired_difference,
    shared,
    spread,
)
from pipeline.metrics.power import minimum_detectable_difference
from pipeline.metrics.scores import Change, Gain

Prediction = Mapping[str, Any]
"""One row of predictions.jsonl."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Paired:
    """McNemar's test of `a` against `b` on n common rows (same id, gold answer and question); None where n is 0."""

    n: int
    clusters: int | None
    """How many, where rows share any."""
    only_a: int
    only_b: int
    """Rows only one got right."""
    difference: float | None
    low: float | None
    high: float | None
    """Accuracy of `a` minus that of `b`, with its 95 % interval by paired bootstrap; Newcombe's where that has no spread."""
    p: float | None
    """Two-sided and exact."""
    detectable: float | None
    """The smallest difference this sample finds in 80 % of cases at this discordance, see `pipeline.metrics.power`."""

    @property
    def gain(self) -> Gain:
        """The difference as a rate."""
        counts = {"only_a": self.only_a, "only_b": self.only_b}
        return Gain(self.difference, self.low, self.high, n=self.n, clusters=self.clusters, p=self.p, **counts)


def right(row: Prediction) -> bool:
    """Check whether a prediction is right: as its judge said. Its label need not be spelled as the gold answer."""
    return bool(row["correct"]) if "correct" in row else row["label"] == row["gold"]


def judged(rows: Iterable[Prediction]) -> list[Prediction]:
    """Return the rows whose gold answer is published; the others are neither right nor wrong."""
    return [row for row in rows if row["gold"] is not None]


def cluster(row: Prediction) -> str:
    """Return the cluster a prediction belongs to; "" is one of its own."""
    return str(row.get("cluster") or "")


def paired(a: Iterable[Prediction], b: Iterable[Prediction]) -> Paired:
    """Return accuracy of `a` minus accuracy of `b` on the rows both answered greedily.

    McNemar's test asks how often fair coins, one per row that only one model got right, land as lopsided as this. Where rows
    share a cluster there is one coin per cluster, which moves all its rows; with clusters of one row it is the same.
    """
    pairs = _common(a, b)
    if not pairs:
        return Paired(0, None, 0, 0, None, None, None, None, None)
    gains = [right(x) - right(y) for x, y in pairs]
    clusters = [cluster(x) for x, _ in pairs]
    n, only_a, only_b = len(pairs), gains.count(1), gains.count(-1)
    by_cluster = _totals(gains, clusters)
    both = sum(right(x) and right(y) for x, y in pairs)
    low, high = _bootstrap(gains, clusters) or _newcombe(gains, both, len(by_cluster))
    # Clusters that swing as one weigh like fewer rows: the design effect of the difference, were there none.
    effect = sum(total**2 for total in by_cluster) / max(1, only_a + only_b)
    return Paired(
        n=n,
        clusters=len(by_cluster) if shared(clusters) else None,
        only_a=only_a,
        only_b=only_b,
        difference=(only_a - only_b) / n,
        low=low,
        high=high,
        p=_flip_test(by_cluster),
        detectable=minimum_detectable_difference(int(n / max(1.0, effect)), (only_a + only_b) / n),
    )


def macro_f1_difference(a: Iterable[Prediction], b: Iterable[Prediction]) -> Gain:
    """Return macro-F1 of `a` minus macro-F1 of `b` on the rows both answered greedily.

    Returns:
        It, over `n` common rows, with its 95 % percentile interval and the two-sided p of the bootstrap, see `_macro`.
    """
    return _macro(a, b, lambda support, answered, hits: 2 * hits / (support + answered).clip(1))


def macro_recall_difference(a: Iterable[Prediction], b: Iterable[Prediction]) -> Gain:
    """Return macro recall (balanced accuracy) of `a` minus that of `b`, as `macro_f1_difference` does."""
    return _macro(a, b, lambda support, answered, hits: hits / support.clip(1))


def recall_changes(a: Iterable[Prediction], b: Iterable[Prediction]) -> dict[str, Change]:
    """Return how recall changed from `b` to `a`, per class in text order, on the rows of it that both answered greedily.

    Each with McNemar's exact p on the rows of its class, corrected by Holm over the classes, and a 95 % paired interval
    that is not: `paired_difference`, or the bootstrap over clusters where rows of the class share any.
    """
    return _changes(_by_class(_common(a, b)))


def group_changes(
    a: Iterable[Prediction], b: Iterable[Prediction], classes: bool = False
) -> dict[tuple[str, str], Change]:
    """Return how accuracy changed from `b` to `a` on each (group, value) of the rows that both answered greedily.

    A group of one value says nothing beyond all rows, and is left out. Holm's correction of p is over all that are returned;
    otherwise as `recall_changes`.

    Args:
        a: predictions.
        b: predictions.
        classes: whether the gold answers are a group too, called ``label``.
    """
    found: dict[tuple[str, str], list[tuple[bool, bool, str]]] = defaultdict(list)
    for x, y in _common(a, b):
        groups = {**(x.get("groups") or {}), **({"label": x["gold"]} if classes else {})}
        for group, value in groups.items():
            found[group, str(value)].append((right(x), right(y), cluster(x)))
    several = Counter(group for group, _ in found)
    return _changes({key: rows for key, rows in found.items() if several[key[0]] > 1})


def _by_class(pairs: Iterable[tuple[Prediction, Prediction]]) -> dict[str, list[tuple[bool, bool, str]]]:
    """(right with a, right with b, cluster) of the rows of each class, in text order."""
    found: dict[str, list[tuple[bool, bool, str]]] = defaultdict(list)
    for x, y in pairs:
        found[str(x["gold"])].append((x["label"] == x["gold"], y["label"] == y["gold"], cluster(x)))
    return dict(sorted(found.items()))


def _changes(found: Mapping[Key, Sequence[tuple[bool, bool, str]]]) -> dict[Key, Change]:
    """A change per key, of rows (right with a, right with b, cluster), with p corrected over them all."""
    changes = {key: _change(rows) for key, rows in found.items()}
    corrected = holm([change.gain.p or 0.0 for change in changes.values()])
    return {
        key: replace(change, gain=replace(change.gain, p_holm=p))
        for (key, change), p in zip(changes.items(), corrected, strict=True)
    }


def _change(rows: Sequence[tuple[bool, bool, str]]) -> Change:
    gains = [int(x) - int(y) for x, y, _ in rows]
    clusters = [name for _, _, name in rows]
    n, only_a, only_b, both = len(rows), gains.count(1), gains.count(-1), sum(x and y for x, y, _ in rows)
    totals = _totals(gains, clusters)
    drawn = _bootstrap(gains, clusters) if shared(clusters) else None
    low, high = drawn or _newcombe(gains, both, len(totals))
    return Change(
        before=(both + only_b) / n,
        after=(both + only_a) / n,
        gain=Gain(
            (only_a - only_b) / n,
            low,
            high,
            n=n,
            clusters=len(totals) if shared(clusters) else None,
            p=_flip_test(totals),
            only_a=only_a,
            only_b=only_b,
        ),
    )


def _bootstrap(gains: Sequence[int], clusters: Sequence[str]) -> tuple[float, float] | None:
    """The interval of a mean gain; None where a bootstrap has no spread, however few gains there are.

    So it is where all gains are equal, or those of each cluster as on average, and where there is one cluster.
    """
    sums = bootstrap_sums([[gain, 1] for gain in gains], clusters)
    return spread(sums[:, 0] / sums[:, 1])


def _newcombe(gains: Sequence[int], both: int, clusters: int) -> tuple[float, float]:
    """The score interval of a difference of rows of their own; where they share clusters it counts as many as those.

    Args:
        gains: of each row.
        both: rows that both have right.
        clusters: how many.
    """
    n = len(gains)
    # Not rounded, lest the shares change, and with them the difference.
    return paired_difference(*(count * clusters / n for count in (both, gains.count(1), gains.count(-1), n)))


def _totals(gains: Sequence[int], clusters: Sequence[str]) -> list[int]:
    """The gains of each cluster."""
    return [round(total) for total in cluster_sums([[gain] for gain in gains], clusters)[:, 0].tolist()]


def _macro(a: Iterable[Prediction], b: Iterable[Prediction], metric: Callable[[Any, Any, Any], Any]) -> Gain:
    """A mean over classes of `a` minus that of `b` on the rows both answered greedily.

    Rows (or clusters) are resampled in pairs. The mean runs over the classes that have rows; in a resample that lost one, over
    the rest. p is never below 2 / (resamples + 1), nor below the least that a test of as many coins as there are rows (or
    clusters) that differ can give, for of three rows that all differ alike every resample says the same. None where n is 0.

    Args:
        a: predictions.
        b: predictions.
        metric: from support, rows answered so and hits, all draws × classes, to the value of every class.
    """
    import numpy as np

    pairs = _common(a, b)
    if not pairs:
        return Gain(None, None, None, n=0, p=None)
    names = sorted({x["gold"] for x, _ in pairs})
    place = {name: index for index, name in enumerate(names)}
    # No label, or one that no row has: a miss that counts against no class's precision.
    elsewhere = len(names)
    one_hot = np.eye(len(names) + 1)[:, :-1]
    gold = one_hot[[place[x["gold"]] for x, _ in pairs]]
    said = [one_hot[[place.get(pair[side]["label"], elsewhere) for pair in pairs]] for side in (0, 1)]
    counts = np.hstack([gold, said[0], gold * said[0], said[1], gold * said[1]])

    def difference(sums: Any) -> Any:
        support, *parts = np.split(sums, 5, axis=1)
        values = [metric(support, answered, hits) for answered, hits in (parts[:2], parts[2:])]
        return np.where(support > 0, values[0] - values[1], 0).sum(axis=1) / (support > 0).sum(axis=1)

    clusters = [cluster(x) for x, _ in pairs]
    drawn = difference(bootstrap_sums(counts, clusters))
    observed = float(difference(counts.sum(axis=0)[None])[0])
    tail = int(min((drawn <= 0).sum(), (drawn >= 0).sum()))
    coins = int(np.count_nonzero(difference(cluster_sums(counts, clusters))))
    p = min(1.0, max(2 * (tail + 1) / (RESAMPLES + 1), 2.0 ** (1 - coins)))
    found = spread(drawn)
    if found is None:
        parts = [_change(rows).gain for rows in _by_class(pairs).values()]
        found = joined(observed, parts, together=shared(clusters), least=-1.0)
    return Gain(observed, *found, n=len(pairs), p=p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for being `len(p_values)` tests at once (Holm 1979), in the same order."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


def _common(a: Iterable[Prediction], b: Iterable[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """The greedy predictions of both to the same rows: same id, gold answer and, where it is recorded, question."""
    of_b = {_key(row): row for row in b if row["decoding"] == "greedy" and row["gold"] is not None}
    return [(row, of_b[_key(row)]) for row in a if row["decoding"] == "greedy" and _key(row) in of_b]


def _key(row: Prediction) -> tuple[Any, ...]:
    return row["id"], row["gold"], row.get("question")


def _flip_test(totals: Sequence[int]) -> float:
    """Two-sided exact p of the sum of `totals` when each is as likely to have the other sign."""
    import numpy as np

    # The distribution of the sum over -reach … reach.
    spread: Any = np.ones(1)
    for size, number in sorted(Counter(abs(total) for total in totals if total).items()):
        step = np.zeros(2 * size * number + 1)
        step[:: 2 * size] = _heads(number)
        spread = np.convolve(spread, step)
    reach = len(spread) // 2
    return float(min(1.0, spread[np.abs(np.arange(-reach, reach + 1)) >= abs(sum(totals))].sum()))


def _heads(coins: int) -> list[float]:
    """The chances of 0 … `coins` heads, to the last bit; importing scipy.stats takes longer than a report has tests for."""
    ways, every, chances = 1, 2**coins, []
    for heads in range(coins + 1):
        chances.append(ways / every)
        ways = ways * (coins - heads) // (heads + 1)
    return chances
