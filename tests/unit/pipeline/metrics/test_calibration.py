"""Calibration and accuracy by length, by hand and against scikit-learn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from sklearn.metrics import brier_score_loss

from pipeline.metrics.calibration import by_length, calibration


def row(correct: bool, sure: float | None = None, words: int = 0) -> dict[str, Any]:
    logprob = math.log(sure) if sure else None
    return {"correct": correct, "logprob": logprob, "think": "word " * words or None}


def test_ece_and_brier_by_hand() -> None:
    # Two bins: three rows of confidence 0.95, two right; two rows of 0.25, one right.
    rows = [row(True, 0.95), row(True, 0.95), row(False, 0.95), row(True, 0.25), row(False, 0.25), row(True)]
    found = calibration(rows)
    assert found is not None
    assert (found.n, found.without) == (5, 1)
    assert found.ece.value == pytest.approx(3 / 5 * abs(2 / 3 - 0.95) + 2 / 5 * abs(1 / 2 - 0.25))
    wanted = brier_score_loss([1, 1, 0, 1, 0], [0.95, 0.95, 0.95, 0.25, 0.25])
    assert found.brier.value == pytest.approx(wanted)
    assert [(one.low, one.high, one.accuracy.n) for one in found.bins] == [(0.2, 0.3, 2), (0.9, 1.0, 3)]
    assert found.brier.low <= wanted <= found.brier.high


def test_a_model_as_right_as_it_is_sure_is_calibrated() -> None:
    rows = [row(number % 10 < 8, 0.8) for number in range(1000)]
    found = calibration(rows)
    assert found is not None
    assert found.ece.value == pytest.approx(0, abs=1e-9)
    # Noise only adds to it.
    assert found.ece.high > 0.01


def test_certainty_is_a_bin_too_and_none_recorded_is_no_calibration() -> None:
    found = calibration([row(True, 1.0)])
    assert found is not None
    assert found.bins[0].high == 1.0
    assert calibration([row(True)]) is None
    assert calibration([{"correct": True, "logprob": float("nan")}]) is None


def test_lengths_fall_into_bins_of_about_as_many_rows() -> None:
    rows = [row(words <= 50, words=words) for words in range(1, 101)]
    found = by_length(rows)
    assert found is not None
    assert (found[0].low, found[0].high) == (1, 21)
    assert sum(one.accuracy.n for one in found) == 100
    assert [one.accuracy.value for one in found][::4] == [1.0, 0.0]
    assert all(a.high + 1 == b.low for a, b in itertools.pairwise(found))


def test_one_length_or_few_rows_say_nothing() -> None:
    assert by_length([row(True, words=7)] * 100) is None
    assert by_length([row(True, words=number) for number in range(1, 10)]) is None
    assert by_length([row(True)] * 100) is None
