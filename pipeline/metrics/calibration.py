"""How sure a model is against how often it is right, and how long it reasons against how often it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.metrics.intervals import bootstrap_sums, clustered_rate, interval
from pipeline.metrics.paired_tests import Prediction, cluster, right
from pipeline.metrics.scores import Calibration, ConfidenceBin, LengthBin, Rate

BINS = 10
"""Of equal width, from 0 to 1 (Guo et al. 2017 draw ten and count errors in fifteen)."""
QUANTILES = 5
# Fewer rows with reasoning than this say nothing about its length.
_LEAST = 20


def calibration(rows: Sequence[Prediction]) -> Calibration | None:
    """Return confidence against accuracy over the rows that record the log probability of their answer; None without any.

    A row's confidence is exp(``logprob``), the geometric mean of its tokens' probabilities where the mean of their logarithms is
    recorded, as the lab does: reasoning included, so it is how sure the text is, of which the answer is the end. An answer that
    is unparsable is wrong, however sure.

    Returns:
        It, with 95 % bootstrap intervals and every bin that has rows. ECE = Σ (n_b / n) · |accuracy_b −
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
        accuracy = clustered_rate([bool(hit[i]) for i in members], [clusters[i] for i in members])
        bins.append(ConfidenceBin(index / BINS, (index + 1) / BINS, float(confidence[members].mean()), accuracy))
    return Calibration(
        n=len(sure),
        without=len(rows) - len(sure),
        ece=Rate(float(np.abs(gaps.mean(axis=0)).sum()), *interval(np.abs(drawn[:, :BINS]).sum(axis=1))),
        brier=Rate(float(squares.mean()), *interval(drawn[:, BINS])),
        bins=tuple(bins),
    )


def by_length(rows: Sequence[Prediction]) -> tuple[LengthBin, ...] | None:
    """Return accuracy by the length of the reasoning, in up to five bins of about as many rows; None with too few to tell.

    Length is in words, which compare between models as tokens do not. Rows of one length share a bin.
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
        bins.append(LengthBin(low, high, accuracy))
        low = high + 1
    return tuple(bins)
