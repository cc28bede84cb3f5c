"""Paired tests between two models on the same rows: macro-F1 by bootstrap, and Holm's correction for many tests at once.

`pipeline.metrics.paired` has the test of accuracy. Plain functions of predictions; no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.metrics import RESAMPLES, SEED, Prediction


def macro_f1_difference(a: Iterable[Prediction], b: Iterable[Prediction]) -> dict[str, Any]:
    """Macro-F1 of `a` minus macro-F1 of `b` on the rows both answered greedily.

    Rows are resampled in pairs. Macro-F1 runs over the classes that have rows; in a resample that lost one, over the rest.

    Returns:
        ``n`` common rows, ``difference`` with its 95 % percentile interval ``low``/``high``, and the two-sided ``p`` of the
        bootstrap (never below 2 / (resamples + 1)). None where n is 0.
    """
    import numpy as np

    of_a, of_b = _answers(a), _answers(b)
    common = [row_id for row_id in of_a if row_id in of_b and of_a[row_id][0] == of_b[row_id][0]]
    if not common:
        return {"n": 0, "difference": None, "low": None, "high": None, "p": None}
    names = sorted({of_a[row_id][0] for row_id in common})
    place = {name: index for index, name in enumerate(names)}
    elsewhere = len(names)  # No label, or one that no row has: a miss that counts against no class's precision.
    triples = np.array(
        [
            (place[of_a[i][0]], place.get(of_a[i][1], elsewhere), place.get(of_b[i][1], elsewhere))  # type: ignore[arg-type]
            for i in common
        ]
    )
    # Resampling rows with replacement is one multinomial draw over the kinds of row there are.
    kinds, counts = np.unique(triples, axis=0, return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(len(common), counts / len(common), size=RESAMPLES)
    gold = np.eye(len(names) + 1)[kinds[:, 0]][:, :-1]

    def macro_f1(drawn: Any, answered: Any) -> Any:
        said = np.eye(len(names) + 1)[answered][:, :-1]
        support, right = drawn @ gold, drawn @ (gold * said)
        f1 = 2 * right / np.maximum(support + drawn @ said, 1)
        return np.where(support > 0, f1, 0).sum(axis=1) / (support > 0).sum(axis=1)

    drawn = macro_f1(draws, kinds[:, 1]) - macro_f1(draws, kinds[:, 2])
    observed = (macro_f1(counts[None], kinds[:, 1]) - macro_f1(counts[None], kinds[:, 2]))[0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (RESAMPLES + 1))
    return {"n": len(common), "difference": float(observed), "low": float(low), "high": float(high), "p": p}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for being `len(p_values)` tests at once (Holm 1979), in the same order."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


def _answers(rows: Iterable[Prediction]) -> dict[str, tuple[str, str | None]]:
    """Row id to (gold, answer) of the greedy predictions."""
    return {row["id"]: (row["gold"], row["label"]) for row in rows if row["decoding"] == "greedy"}
