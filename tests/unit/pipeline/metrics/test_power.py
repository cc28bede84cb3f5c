"""The smallest difference a paired comparison can find, held against a simulation of McNemar's test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.metrics.power import minimum_detectable_difference


@pytest.mark.parametrize(("n", "discordant"), [(200, 0.3), (1000, 0.1), (2638, 0.4)])
def test_a_difference_of_that_size_is_found_four_times_in_five(n: int, discordant: float) -> None:
    difference = minimum_detectable_difference(n, discordant)
    assert difference is not None
    rng = np.random.default_rng(0)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    draws = rng.multinomial(n, shares, size=1000)
    found = np.mean([binomtest(int(a), int(a + b), 0.5).pvalue < 0.05 for a, b, _ in draws])
    # The exact test asks a little more than the formula's normal approximation.
    assert 0.74 < found < 0.84


def test_more_rows_find_smaller_differences_and_more_tests_larger_ones() -> None:
    few, many = minimum_detectable_difference(100, 0.3), minimum_detectable_difference(10_000, 0.3)
    assert few is not None
    assert many is not None
    # As one over the root of n.
    assert many < few / 9
    strict = minimum_detectable_difference(100, 0.3, alpha=0.05 / 45)
    assert strict is not None
    assert strict > few


def test_none_where_nothing_can_be_found() -> None:
    assert minimum_detectable_difference(5, 0.1) is None
    assert minimum_detectable_difference(0, 0.1) is None
    assert minimum_detectable_difference(100, 0.0) is None
    with pytest.raises(ValueError, match="must be shares"):
        minimum_detectable_difference(100, 1.5)
