"""Gaps of single and several steps: figures by hand, paired where the sides are of the same situations."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.metrics.intervals import independent_difference, rate
from pipeline.metrics.steps import Grouping, Side, gap_change, step_gap

VCR = Grouping(Side("mode", ("Q→A",)), Side("mode", ("Q→A", "QA→R"), pairs=True))
HARD = Grouping(Side("difficulty", ("Easy",)), Side("difficulty", ("Hard", "Hardest")))


def pair(number: int, answer: bool, rationale: bool, picture: str = "") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{number}/{key}",
            "groups": {"mode": mode},
            "gold": "x",
            "correct": right,
            "cluster": picture,
            "pair": str(number),
        }
        for key, mode, right in (("qa", "Q→A", answer), ("qar", "QA→R", rationale))
    ]


def graded(difficulty: str, right: list[bool]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{difficulty}{number}",
            "groups": {"difficulty": difficulty},
            "gold": "x",
            "correct": value,
            "cluster": "",
        }
        for number, value in enumerate(right)
    ]


def test_a_pair_counts_once_and_its_gap_is_a_paired_one() -> None:
    # Of 40 situations 30 have the answer, 20 both: 10 lose by the rationale.
    outcomes = [(True, True)] * 20 + [(True, False)] * 10 + [(False, True)] * 10
    rows = [row for number, (answer, why) in enumerate(outcomes) for row in pair(number, answer, why)]
    gap = step_gap(rows, VCR)
    assert gap is not None
    assert (gap.single.value, gap.single.n, gap.multi.value, gap.multi.n) == (0.75, 40, 0.5, 40)
    assert (gap.gap.value, gap.outside) == (0.25, 0)
    # A share of 10 in 40 situations, drawn again: the quantiles of that binomial, 5 and 16.
    assert gap.gap.low == pytest.approx(5 / 40, abs=0.026)
    assert gap.gap.high == pytest.approx(16 / 40, abs=0.026)
    # As if the two sides were of other situations it would be wider.
    low, high = independent_difference(rate(30, 40), rate(20, 40))
    assert high - low > gap.gap.high - gap.gap.low + 0.1


def test_a_situation_without_its_rationale_is_a_single_step_alone() -> None:
    rows = [*pair(0, True, True), *pair(1, True, False), pair(2, False, True)[0]]
    gap = step_gap(rows, VCR)
    assert gap is not None
    assert (gap.single.n, gap.single.count, gap.multi.n, gap.multi.count) == (3, 2, 2, 1)


def test_other_rows_are_independent_samples_and_those_in_neither_side_are_counted() -> None:
    # Newcombe's own example: 56 of 70 and 48 of 80.
    assert independent_difference(rate(56, 70), rate(48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    rows = [
        *graded("Easy", [True] * 56 + [False] * 14),
        *graded("Hard", [True] * 40 + [False] * 30),
        *graded("Hardest", [True] * 8 + [False] * 2),
        *graded("Medium", [True] * 5),
    ]
    gap = step_gap(rows, HARD)
    assert gap is not None
    assert (gap.single.count, gap.single.n, gap.multi.count, gap.multi.n, gap.outside) == (56, 70, 48, 80, 5)
    assert (gap.gap.low, gap.gap.high) == independent_difference(rate(56, 70), rate(48, 80))
    turned = [{**row, "id": f"{row['id']}#1", "rotation": 1, "gold": "x", "correct": False} for row in rows]
    assert step_gap([*rows, *turned], HARD) == gap
    assert step_gap(graded("Easy", [True]), HARD) is None


def test_rows_that_share_a_picture_are_drawn_together() -> None:
    rows = [*graded("Easy", [True] * 10 + [False] * 10), *graded("Hard", [True] * 4 + [False] * 16)]
    apart = step_gap(rows, HARD)
    together = step_gap([{**row, "cluster": f"picture {number // 5}"} for number, row in enumerate(rows)], HARD)
    assert apart is not None
    assert together is not None
    assert together.gap.value == apart.gap.value == pytest.approx(0.3)
    assert together.gap.low < apart.gap.low - 0.1


def test_a_gap_is_held_against_another_model_s_on_common_rows() -> None:
    a = [*graded("Easy", [True, True, True, False]), *graded("Hard", [True, False, False, False])]
    b = [*graded("Easy", [True, True, False, False]), *graded("Hard", [True, True, False, False])]
    change = gap_change(a, b, HARD)
    assert change is not None
    # 3/4 - 1/4, less 2/4 - 2/4.
    assert change.value == 0.5
    assert change.low <= 0.5 <= change.high
    same = gap_change(a, a, HARD)
    assert same is not None
    assert same.value == 0
    assert same.low == -same.high < -0.3
    # Only Easy0 and Hard0 are common: both right in both.
    few = gap_change(a, [b[0], b[4]], HARD)
    assert few is not None
    assert few.value == 0
    assert gap_change(a, b[:4], HARD) is None


def test_a_gap_that_no_draw_changes_has_a_width_all_the_same() -> None:
    rows = [*graded("Easy", [True] * 4), *graded("Hard", [True] * 4)]
    shared = [{**row, "cluster": f"picture {number // 2}"} for number, row in enumerate(rows)]
    for given in (rows, shared):
        gap, change = step_gap(given, HARD), gap_change(given, given, HARD)
        assert gap is not None
        assert change is not None
        for found in (gap.gap, change):
            low, value, high = found.in_percent()
            assert value == 0
            assert low < -20 < 20 < high
