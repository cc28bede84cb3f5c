"""Intervals against their definitions: Wilson's for rows on their own, whole clusters drawn where rows share a picture."""

from __future__ import annotations

import random

import pytest

from pipeline.metrics.intervals import RESAMPLES, bootstrap_sums, clustered_rate, paired_difference, rate, shared


def test_rows_on_their_own_have_wilsons_interval() -> None:
    right = [True, False, True, True]
    for clusters in (["", "", "", ""], ["a", "b", "c", ""]):
        assert not shared(clusters)
        assert clustered_rate(right, clusters) == rate(3, 4)


def test_ten_rows_of_one_picture_that_agree_say_no_more_than_one() -> None:
    draw = random.Random(0)
    pictures = [draw.random() < 0.5 for _ in range(60)]
    right = [value for value in pictures for _ in range(10)]
    clusters = [f"p{number}" for number in range(60) for _ in range(10)]
    found, once = clustered_rate(right, clusters), rate(sum(pictures), 60)
    assert (found.n, found.clusters) == (600, 60)
    assert found.value == pytest.approx(once.value)
    assert found.high - found.low == pytest.approx(once.high - once.low, rel=0.15)
    alone = rate(sum(right), 600)
    assert found.high - found.low > 2.5 * (alone.high - alone.low)


def test_clusters_whose_rows_differ_freely_widen_nothing() -> None:
    draw = random.Random(1)
    right = [draw.random() < 0.7 for _ in range(900)]
    found = clustered_rate(right, [f"p{number // 3}" for number in range(900)])
    alone = rate(sum(right), 900)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_all_right_is_not_certain() -> None:
    found = clustered_rate([True] * 20, [f"p{number // 2}" for number in range(20)])
    assert (found.low, found.high) == (rate(10, 10).low, 1.0)


def test_a_row_without_a_cluster_is_drawn_alone() -> None:
    sums = bootstrap_sums([[1.0, 1], [1.0, 1], [0.0, 1]], ["a", "a", ""])
    assert sums.shape == (RESAMPLES, 2)
    assert {tuple(row) for row in sums.tolist()} == {(4.0, 4.0), (2.0, 3.0), (0.0, 2.0)}


def test_the_same_rows_give_the_same_interval() -> None:
    right, clusters = [True, False] * 30, [f"p{number // 3}" for number in range(60)]
    assert clustered_rate(right, clusters) == clustered_rate(right, clusters)


@pytest.mark.parametrize(
    ("table", "limits"),
    [((36, 12, 2, 50), (0.0569, 0.3404)), ((36, 14, 0, 50), (0.1528, 0.4167)), ((0, 0, 0, 30), (-0.1135, 0.1135))],
)
def test_a_paired_difference_has_newcombes_limits(table: tuple[int, ...], limits: tuple[float, float]) -> None:
    assert paired_difference(*table) == pytest.approx(limits, abs=5e-5)
    both, only_a, only_b, n = table
    low, high = paired_difference(both, only_b, only_a, n)
    assert (-high, -low) == pytest.approx(limits, abs=5e-5)
