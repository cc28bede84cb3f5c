"""How sure a model is against how often it is right, and how long it reasons against how often it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.metrics.intervals import bootstrap_sums, clustered_rate, interval
from pipeline.metrics.paired_tests import Prediction, cluster, right

BINS = 10
"""Of equal width, from 0 to 1 (Guo et al. 2017 draw ten and count errors in fifteen)."""
QUANTILES = 5
# Fewer rows with reasoning than this say nothing about its length.
_LEAST = 20


def calibration(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    """Return confidence against accuracy over the rows that record the log probability of their answer; None without any.

    A row's confidence is exp(``logprob``), the geometric mean of its tokens' probabilities where the mean of their logarithms is
    recorded, as the lab does: reasoning included, so it is how sure the text is, of which the answer is the end. An answer that
    is unparsable is wrong, however sure.

    Returns:
        ``n``, ``without`` (rows that record none, which take no part), ``ece`` and ``brier`` with 95 % bootstrap intervals, and
        ``bins``: ``{"from", "to", "confidence", "accuracy"}`` of every bin with rows. ECE = Σ (n_b / n) · |accuracy_b −
        confidence_b| (Naeini et al. 2015); it is never negative, so noise adds to it and its interval lies somewhat high.
        Brier = mean of (confidence − right)² (Brier 1950).
    """
    import numpy as np

    sure = [row for row in rows if isinstance(row.get("logprob"), int | float) and not math.isnan(row["logprob"])]
    if not sure:
        return None
    confidence = np.exp(np.minimum([row["logprob"] for row in sure], 0.0))
    hit = np.array([right(row) for row in sure], dtype=float)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    # n × BINS
    gaps = np.where(place[:, None] == np.arange(BINS), (hit - confidence)[:, None], 0)
    squares = (confidence - hit) ** 2
    clusters = [cluster(row) for row in sure]
    sums = bootstrap_sums(np.column_stack([gaps, squares, np.ones(len(sure))]), clusters)
    drawn = sums[:, :-1] / sums[:, -1:]
    bins = []
    for index in np.unique(place).tolist():
        members = np.flatnonzero(place == index).tolist()
        bins.append(
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "confidence": float(confidence[members].mean()),
                "accuracy": clustered_rate([bool(hit[i]) for i in members], [clusters[i] for i in members]),
            }
        )
    return {
        "n": len(sure),
        "without": len(rows) - len(sure),
        "ece": _with_interval(np.abs(gaps.mean(axis=0)).sum(), np.abs(drawn[:, :BINS]).sum(axis=1)),
        "brier": _with_interval(squares.mean(), drawn[:, BINS]),
        "bins": bins,
    }


def by_length(rows: Sequence[Prediction]) -> list[dict[str, Any]] | None:
    """Return accuracy by the length of the reasoning, in up to five bins of about as many rows; None with too few to tell.

    Length is in words, which compare between models as tokens do not. Rows of one length share a bin.

    Returns:
        ``{"from", "to", "accuracy"}`` per bin, lengths inclusive.
    """
    thinking = sorted((len(row["think"].split()), i) for i, row in enumerate(rows) if row.get("think"))
    if len(thinking) < _LEAST or thinking[0][0] == thinking[-1][0]:
        return None
    edges = sorted({thinking[round(part * (len(thinking) - 1) / QUANTILES)][0] for part in range(1, QUANTILES + 1)})
    if len(edges) < 2:
        return None
    bins, low = [], thinking[0][0]
    for high in edges:
        members = [rows[i] for length, i in thinking if low <= length <= high]
        accuracy = clustered_rate([right(row) for row in members], [cluster(row) for row in members])
        bins.append({"from": low, "to": high, "accuracy": accuracy})
        low = high + 1
    return bins


def _with_interval(value: Any, draws: Any) -> dict[str, float]:
    low, high = interval(draws)
    return {"value": float(value), "low": low, "high": high}
