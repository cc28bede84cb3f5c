"""What the values of a task's options must be."""

from __future__ import annotations

import pytest

from pipeline.config.schema import TaskConfig
from pipeline.data.options import (
    Check,
    TaskOption,
    a_name_or_names,
    check_options,
    ends,
    names,
    share,
    share_below,
    some_of,
    true_or_false,
    whole_from,
)
from pipeline.errors import UserError


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (whole_from(1), [1, 9], [0, True, 1.0, "1", None], "a whole number from 1"),
        (true_or_false, [True, False], [0, 1, "yes", None], "neither true nor false"),
        (share, [0, 0.5, 1], [-0.1, 1.1, float("nan"), True, "0.5"], "a number from 0 to 1"),
        (share_below(0.5), [0, 0.49], [0.5, -1, False, [0.1]], "a number from 0 to 0.5"),
        (some_of(("a", "b"), fewest=1), [["a"], ("b", "a")], [[], "a", 1, None], "some of a, b"),
        (some_of(("mirror", "crop")), [[], ["crop"]], [["crup"]], "'crup', which is none of them; did you mean crop"),
        (
            some_of(frozenset(("a", "b"))),
            [["a"]],
            [[None], [["a"]], [{}], [1]],
            "which is none of them; there are: a, b",
        ),
        (names, [[], ["a"]], ["a", None, 5, {}, ["a", 5]], "is not a list of names"),
        (a_name_or_names, ["a", ["a", "b"]], [None, 5, {}, [["a"]]], "is neither a name nor a list of names"),
        (ends("the two ends", 1, 9), [[1, 9], (3, 3)], [[1], "19", [1, 2.5], [True, 2], 5], "the two ends, such as"),
        (ends("the two ends", 1, 9), [], [[3, 2], [0, 4], [1, 10]], "in order and from 1 to 9"),
    ],
)
def test_a_value_is_right_or_is_told_what_it_must_be(
    check: Check, right: list[object], wrong: list[object], says: str
) -> None:
    assert [check(value) for value in right] == [""] * len(right)
    assert all(says in check(value) for value in wrong)


def test_every_wrong_option_is_told_at_once_and_none_may_be_said_to_be_unset() -> None:
    allowed = {
        "kind": TaskOption(None, "", choices=frozenset(("text", "list"))),
        "turns": TaskOption("first", "", choices=("first", "each")),
        "rows": TaskOption(1, "", check=whole_from(0)),
    }
    assert check_options(TaskConfig("shapes", options={"kind": None}), allowed) == {
        "kind": None,
        "turns": "first",
        "rows": 1,
    }
    with pytest.raises(UserError) as error:
        check_options(TaskConfig("shapes", options={"kind": ["text"], "turns": None, "rows": None, 5: 1}), allowed)
    assert len(error.value.problems) == 4
