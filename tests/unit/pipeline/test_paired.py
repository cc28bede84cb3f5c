"""Paired macro-F1 against sklearn and against itself, and Holm's correction against its definition."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sklearn.metrics import f1_score

from pipeline.paired import holm, macro_f1_difference

NAMES = ["joy", "fear", "awe"]


def rows(seed: int, right: float, n: int = 300) -> list[dict[str, Any]]:
    """Greedy rows, of which about `right` are right; some have no label."""
    draw = random.Random(seed)
    return [
        {
            "id": f"r{i}",
            "gold": NAMES[i % 3],
            "label": NAMES[i % 3] if draw.random() < right else draw.choice([*NAMES, None]),
            "decoding": "greedy",
        }
        for i in range(n)
    ]


def sklearn_f1(predictions: list[dict[str, Any]]) -> float:
    gold = [row["gold"] for row in predictions]
    said = [row["label"] or "(none)" for row in predictions]
    return f1_score(gold, said, labels=NAMES, average="macro", zero_division=0)


def test_the_difference_is_that_of_the_two_macro_f1() -> None:
    a, b = rows(1, 0.8), rows(2, 0.4)
    found = macro_f1_difference(a, b)
    assert found["difference"] == pytest.approx(sklearn_f1(a) - sklearn_f1(b))
    assert found["low"] < found["difference"] < found["high"]
    assert found["p"] < 0.01


def test_a_model_against_itself_differs_by_nothing() -> None:
    found = macro_f1_difference(rows(1, 0.7), rows(1, 0.7))
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_equally_good_models_are_not_told_apart() -> None:
    assert macro_f1_difference(rows(1, 0.6), rows(7, 0.6))["p"] > 0.05


def test_only_rows_that_both_answered_greedily_count() -> None:
    a, b = rows(1, 0.8), rows(2, 0.4)[100:]
    sampled = [{**row, "id": f"s{row['id']}", "decoding": "sample"} for row in a]
    assert macro_f1_difference(a + sampled, b)["n"] == 200
    assert macro_f1_difference(a, [])["p"] is None


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
