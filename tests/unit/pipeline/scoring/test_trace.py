"""Whether a reasoning's steps are the true ones."""

import pytest

from pipeline.scoring.trace import is_exact

TRACE = "13 up 8 left 7 fear"


@pytest.mark.parametrize(
    ("think", "exact"),
    [
        (TRACE, True),
        ("\n 13 up  8 left\n7 fear ", True),
        ("13 up 8 left 7 awe", False),
        ("13 up 8 left 7", False),
        ("13 up 8 left 7 fear fear", False),
        ("13 Up 8 left 7 fear", False),
        ("13up8left7fear", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_true_steps_word_for_word_are_exact(think: str | None, exact: bool) -> None:
    assert is_exact(think, TRACE) is exact


def test_a_task_without_true_steps_says_nothing() -> None:
    assert is_exact("anything", "") is None
    assert is_exact(None, "") is None
