"""What the values of a task's options must be."""

from __future__ import annotations

import pytest

from pipeline.data.options import Check, ends, share, share_below, some_of, true_or_false, whole_from


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (whole_from(1), [1, 9], [0, True, 1.0, "1", None], "a whole number from 1"),
        (true_or_false, [True, False], [0, 1, "yes", None], "neither true nor false"),
        (share, [0, 0.5, 1], [-0.1, 1.1, float("nan"), True, "0.5"], "a number from 0 to 1"),
        (share_below(0.5), [0, 0.49], [0.5, -1, False, [0.1]], "a number from 0 to 0.5"),
        (some_of(("a", "b"), fewest=1), [["a"], ("b", "a")], [[], "a", 1, None], "some of a, b"),
        (some_of(("mirror", "crop")), [[], ["crop"]], [["crup"]], "'crup', which is none of them; did you mean crop"),
        (ends("the two ends", 1, 9), [[1, 9], (3, 3)], [[1], "19", [1, 2.5], [True, 2], 5], "the two ends, such as"),
        (ends("the two ends", 1, 9), [], [[3, 2], [0, 4], [1, 10]], "in order and from 1 to 9"),
    ],
)
def test_a_value_is_right_or_is_told_what_it_must_be(
    check: Check, right: list[object], wrong: list[object], says: str
) -> None:
    assert [check(value) for value in right] == [""] * len(right)
    assert all(says in check(value) for value in wrong)
