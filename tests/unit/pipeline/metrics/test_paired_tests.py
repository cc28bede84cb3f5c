"""Paired macro-F1 and recall against sklearn and against itself, and Holm's correction against its definition."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, recall_score

from pipeline.metrics.intervals import paired_difference
from pipeline.metrics.paired_tests import (
    group_changes,
    holm,
    macro_f1_difference,
    macro_recall_difference,
    paired,
    recall_changes,
)

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
    assert found.value == pytest.approx(sklearn_f1(a) - sklearn_f1(b))
    assert found.low < found.value < found.high
    assert found.p < 0.01


def test_a_model_against_itself_differs_by_nothing() -> None:
    found = macro_f1_difference(rows(1, 0.7), rows(1, 0.7))
    assert (found.value, found.p) == (0, 1)
    assert -0.1 < found.low == -found.high < 0


def test_models_that_differ_nowhere_or_everywhere_are_not_known_to_the_last_point() -> None:
    right, wrong = answered([True] * 8, [""] * 8), answered([False] * 8, [""] * 8)
    for a, b, limits in ((right, right, paired_difference(8, 0, 0, 8)), (right, wrong, paired_difference(0, 8, 0, 8))):
        found = paired(a, b)
        assert (found.low, found.high) == limits
        assert limits[0] < limits[1]
    # Rows of four pictures say no more than four rows.
    of_pictures = answered([True] * 8, [f"p{n // 2}" for n in range(8)])
    found = paired(of_pictures, of_pictures)
    assert (found.low, found.high) == paired_difference(4, 0, 0, 4)
    change = group_changes(*[[row | {"groups": {"k": str(n % 2)}} for n, row in enumerate(of_pictures)]] * 2)["k", "0"]
    assert (change.gain.low, change.gain.high) == paired_difference(4, 0, 0, 4)


@pytest.mark.parametrize(("pictures", "b"), [("xxyy", [0, 1, 0, 1]), ("xxxx", [0, 0, 0, 1])])
def test_pictures_on_which_models_differ_alike_are_not_known_to_the_last_point(pictures: str, b: list[int]) -> None:
    one, other = (answered([bool(right) for right in of_rows], list(pictures)) for of_rows in ([1, 0, 1, 0], b))
    found = paired(one, other)
    assert found.low < found.difference < found.high


def test_equally_good_models_are_not_told_apart() -> None:
    assert macro_f1_difference(rows(1, 0.6), rows(7, 0.6)).p > 0.05


def test_only_rows_that_both_answered_greedily_count() -> None:
    a, b = rows(1, 0.8), rows(2, 0.4)[100:]
    sampled = [{**row, "id": f"s{row['id']}", "decoding": "sample"} for row in a]
    assert macro_f1_difference(a + sampled, b).n == 200
    assert macro_f1_difference(a, []).p is None


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def answered(correct: list[bool], clusters: list[str]) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "gold": "A", "label": "A" if c else "B", "correct": c, "decoding": "greedy", "cluster": cluster}
        for i, (c, cluster) in enumerate(zip(correct, clusters, strict=True))
    ]


def test_clusters_of_one_row_give_mcnemars_test() -> None:
    a, b = [True] * 9 + [False], [True] * 4 + [False] * 5 + [True]
    found = [paired(answered(a, names), answered(b, names)) for names in ([""] * 10, [f"p{i}" for i in range(10)])]
    assert found[0] == found[1]
    assert found[0].p == pytest.approx(14 / 64)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 1), (30, 30), (900, 700)])
def test_the_p_of_many_rows_is_scipys(only_a: int, only_b: int) -> None:
    right_a = [True] * only_a + [False] * only_b + [True] * 5
    right_b = [False] * only_a + [True] * only_b + [True] * 5
    names = [""] * len(right_a)
    wanted = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert paired(answered(right_a, names), answered(right_b, names)).p == pytest.approx(wanted, rel=1e-9)


def test_rows_of_one_picture_swing_as_one() -> None:
    # Eight gains on eight pictures are unlikely by chance (2 / 2^8); on two pictures of four rows they are not (2 / 2^2).
    a, b = [True] * 8, [False] * 8
    alone = paired(answered(a, [""] * 8), answered(b, [""] * 8))
    together = paired(answered(a, ["p"] * 4 + ["q"] * 4), answered(b, ["p"] * 4 + ["q"] * 4))
    assert alone.p == pytest.approx(2 / 2**8)
    assert (together.p, together.clusters) == (pytest.approx(0.5), 2)


def test_flips_of_clusters_of_different_sizes_are_counted_by_hand() -> None:
    # Totals +2 and -1: the four sums are 3, 1, -1, -3; all are at least as far from 0 as 1.
    a, b = [True, True, False], [False, False, True]
    names = ["p", "p", "q"]
    assert paired(answered(a, names), answered(b, names)).p == pytest.approx(1.0)
    # Totals +2 and +1: 3 and -3 alone are as far.
    assert paired(answered([True] * 3, names), answered([False] * 3, names)).p == pytest.approx(0.5)


def test_a_clustered_sample_detects_less() -> None:
    a = [number % 4 != 0 for number in range(400)]
    b = [number % 4 != 1 for number in range(400)]
    alone = paired(answered(a, [""] * 400), answered(b, [""] * 400))
    swung = [number // 20 % 2 == 0 for number in range(400)]
    names = [f"p{number // 20}" for number in range(400)]
    together = paired(answered(swung, names), answered([not one for one in swung], names))
    assert alone.detectable < 0.15
    assert together.detectable > 3 * alone.detectable


def test_what_is_right_is_the_judges_word_and_not_the_spelling() -> None:
    a = [{"id": "1", "gold": "3.50", "label": "3.5", "correct": True, "decoding": "greedy"}]
    b = [{"id": "1", "gold": "3.50", "label": "3.50", "correct": False, "decoding": "greedy"}]
    assert paired(a, b).only_a == 1


def test_rows_of_one_id_that_ask_something_else_are_no_pair() -> None:
    a = [{"id": "1", "gold": "A", "label": "A", "correct": True, "decoding": "greedy", "question": "this?"}]
    assert paired(a, [{**a[0], "question": "that?"}]).n == 0
    assert paired([{**a[0], "gold": None}], [{**a[0], "gold": None}]).n == 0


def test_macro_f1_of_clustered_rows_is_less_certain() -> None:
    # Whole pictures are right or wrong: thirty rows each, ten pictures.
    def answers(right: int, clustered: bool) -> list[dict[str, Any]]:
        return [
            {
                "id": str(i),
                "gold": NAMES[i % 3],
                "label": NAMES[i % 3] if i // 30 < right else None,
                "decoding": "greedy",
                "cluster": f"p{i // 30}" if clustered else "",
            }
            for i in range(300)
        ]

    wide, narrow = (macro_f1_difference(answers(8, clustered), answers(4, clustered)) for clustered in (True, False))
    assert wide.value == narrow.value
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("difference", [macro_f1_difference, macro_recall_difference])
def test_a_macro_difference_that_every_draw_repeats_is_no_certain_one(difference: Any) -> None:
    def answered(*labels: str | None, cluster: str = "") -> list[dict[str, Any]]:
        plain = rows(0, 1.0, n=len(labels))
        return [{**row, "label": label, "cluster": cluster} for row, label in zip(plain, labels, strict=True)]

    # Three rows that one model alone has right: three coins.
    found = difference(answered(*NAMES), answered(None, None, None))
    assert found.p == paired(answered(*NAMES), answered(None, None, None)).p == 0.25
    assert found.low < found.value == found.high == 1
    # Of one picture: one coin.
    found = difference(answered(*NAMES, cluster="one"), answered(None, None, None, cluster="one"))
    assert found.p == 1
    assert found.low < 0
    # The same answers: nothing differs, and few rows would not show it.
    found = difference(answered(*NAMES), answered(*NAMES))
    assert (found.value, found.p) == (0, 1)
    assert found.low < -0.3 < 0.3 < found.high
    # With many rows the resamples alone say how likely it is.
    assert difference(rows(1, 0.9), rows(2, 0.5)).p == pytest.approx(2 / 2001)


def test_macro_recall_and_recall_per_class_are_sklearns_on_the_common_rows() -> None:
    a, b = rows(1, 0.8), rows(2, 0.4)[30:]
    common = {row["id"] for row in b}
    gold, said = [], ([], [])
    for x, y in zip([row for row in a if row["id"] in common], b, strict=True):
        gold.append(x["gold"])
        said[0].append(x["label"] or "(none)")
        said[1].append(y["label"] or "(none)")
    recalls = [recall_score(gold, one, labels=NAMES, average=None, zero_division=0) for one in said]
    found = recall_changes(a, b)
    assert list(found) == sorted(NAMES)
    for place, name in enumerate(NAMES):
        change = found[name]
        assert (change.after, change.before) == (pytest.approx(recalls[0][place]), pytest.approx(recalls[1][place]))
        assert change.gain.value == pytest.approx(recalls[0][place] - recalls[1][place])
        assert change.gain.n == 90
        assert change.gain.low < change.gain.value < change.gain.high
    macro = macro_recall_difference(a, b)
    assert macro.value == pytest.approx(recalls[0].mean() - recalls[1].mean())
    assert macro.low < macro.value < macro.high
    assert macro.p < 0.01


def test_a_class_s_change_is_mcnemars_on_its_rows_with_newcombes_interval_and_holms_correction() -> None:
    # Joy: 9 gained, 1 lost of 20. Fear: 5 lost of 12. Awe: as before.
    kinds = {"joy": [(1, 0)] * 9 + [(0, 1)] + [(1, 1)] * 10, "fear": [(0, 1)] * 5 + [(0, 0)] * 7, "awe": [(1, 1)] * 8}
    a, b = (
        [
            {"id": f"{name}{i}", "gold": name, "label": name if pair[side] else None, "decoding": "greedy"}
            for name, pairs in kinds.items()
            for i, pair in enumerate(pairs)
        ]
        for side in (0, 1)
    )
    found = recall_changes(a, b)
    assert [round(found[name].gain.p, 6) for name in kinds] == [round(22 / 1024, 6), round(2 / 32, 6), 1.0]
    assert [found[name].gain.p_holm for name in kinds] == pytest.approx([3 * 22 / 1024, 2 * 2 / 32, 1.0])
    assert (found["joy"].gain.low, found["joy"].gain.high) == paired_difference(10, 9, 1, 20)
    assert (found["fear"].gain.only_a, found["fear"].gain.only_b, found["fear"].gain.value) == (0, 5, -5 / 12)
    # Eight rows that did not change leave a change possible.
    assert found["awe"].gain.low == pytest.approx(-found["awe"].gain.high)
    assert found["awe"].gain.high > 0.2


def test_groups_change_by_the_judges_word_and_a_group_of_one_value_is_left_out() -> None:
    def answers(right: set[int]) -> list[dict[str, Any]]:
        return [
            {
                "id": str(i),
                "gold": NAMES[i % 2],
                "label": "?",
                "correct": i in right,
                "decoding": "greedy",
                "groups": {"walk": str(1 + i // 20), "source": "drawn"},
            }
            for i in range(60)
        ]

    a, b = answers(set(range(60))), answers(set(range(40)))
    found = group_changes(a, b)
    assert {key: (change.before, change.after) for key, change in found.items()} == {
        ("walk", "1"): (1.0, 1.0),
        ("walk", "2"): (1.0, 1.0),
        ("walk", "3"): (0.0, 1.0),
    }
    assert found["walk", "3"].gain.p_holm == pytest.approx(3 * 2 / 2**20)
    assert {key for key in group_changes(a, b, classes=True) if key[0] == "label"} == {
        ("label", "joy"),
        ("label", "fear"),
    }


def test_a_class_whose_rows_share_pictures_swings_as_one() -> None:
    a, b = [True] * 8, [False] * 8
    (alone,) = recall_changes(answered(a, [""] * 8), answered(b, [""] * 8)).values()
    (together,) = recall_changes(answered(a, ["p"] * 4 + ["q"] * 4), answered(b, ["p"] * 4 + ["q"] * 4)).values()
    assert alone.gain.p == pytest.approx(2 / 2**8)
    assert (together.gain.p, together.gain.clusters) == (pytest.approx(0.5), 2)
