"""Texts, options and answers of rows as others publish them are read in our form."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.questions.cells import Unusable
from pipeline.data.questions.text import (
    marked,
    option_letter,
    options_in,
    options_of,
    unwrapped,
    without_instructions,
)


@pytest.mark.parametrize(
    ("text", "pictures", "want"),
    [
        ("<image>\nWhat?", 1, "What?"),
        ("What is in <image>?", 1, "What is in <image 1>?"),
        ("<image><image>Which?", 2, "<image 1><image 2>Which?"),
        ("<image 2> and <image 1>", 2, "<image 2> and <image 1>"),
        ("<image_1> What?", 1, "What?"),
        ("What?", 2, "What?"),
    ],
)
def test_marks_are_numbered(text: str, pictures: int, want: str) -> None:
    assert marked(text, pictures) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("What?\nA. a dog\nB. a cat", ["a dog", "a cat"]),
        ("What?\n(A) a dog\n(B) a cat", ["a dog", "a cat"]),
        ("What? (A) a dog, (B) a cat", ["a dog", "a cat"]),
        ("What? Options: A. a dog B. a cat", ["a dog", "a cat"]),
        ("What?\nChoices:\nA: a dog\nB: a cat\nC: a cow", ["a dog", "a cat", "a cow"]),
        ("What does figure (B) show?", []),
        ("Person A. Smith meets person B. Jones.", []),
        ("B. a dog\nA. a cat", []),
        ("A. a dog", []),
    ],
)
def test_options_are_read_of_a_text(text: str, want: list[str]) -> None:
    assert options_in(text) == want


@pytest.mark.parametrize(
    "value",
    [
        ["a dog", "a cat"],
        '["a dog", "a cat"]',
        "['a dog', 'a cat']",
        {"B": "a cat", "A": "a dog", "C": None},
        '{"A": "a dog", "B": "a cat"}',
        {"text": ["a dog", "a cat"], "label": ["A", "B"]},
        ["A. a dog", "B. a cat"],
        ["(A) a dog", "(B) a cat"],
        "A. a dog\nB. a cat",
        "a dog; a cat",
    ],
)
def test_options_are_read_of_a_cell(value: Any) -> None:
    assert [option.strip() for option in options_of(value)] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    "value",
    [
        ["a dog", "a cat", None],
        ["a dog", "a cat", "", " "],
        "['a dog', 'a cat', None]",
        {"A": "a dog", "B": "a cat", "C": ""},
    ],
)
def test_empty_options_at_the_end_are_none(value: Any) -> None:
    assert options_of(value) == ["a dog", "a cat"]


@pytest.mark.parametrize("value", [["a dog", None, "a cat"], {"A": "", "B": "a dog", "C": "a cat"}])
def test_an_empty_option_before_others_is_refused(value: Any) -> None:
    with pytest.raises(Unusable, match="an empty option"):
        options_of(value)


@pytest.mark.parametrize(
    ("value", "options", "want"),
    [
        ("B", ("a", "b"), "B"),
        ("(b)", ("x", "y"), "B"),
        ("a cat", ("a dog", "A Cat"), "B"),
        ("B. a cat", ("a dog", "a cat"), "B"),
        (1, ("a dog", "a cat"), "B"),
        (1, ("2", "1"), "B"),
        ("A", ("B", "A"), "A"),
        ("The answer is (B).", ("a dog", "a cat"), "B"),
    ],
)
def test_the_gold_option_is_found_in_every_form(value: Any, options: tuple[str, ...], want: str) -> None:
    assert option_letter(value, options) == want


def test_a_gold_option_that_is_none_is_refused() -> None:
    for value in ("C", 2, "a cow", "A or B"):
        with pytest.raises(Unusable, match="the answer is"):
            option_letter(value, ("a dog", "a cat"))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("What?\nAnswer the question using a single word or phrase.", "What?"),
        ("What? Please answer directly with only the letter.", "What?"),
        (
            "What? Output the thinking process in <think> </think> and the final answer in <answer> </answer> tags.",
            "What?",
        ),
        ("What?\nAnswer with yes or no.\nPut it in \\boxed{}.", "What?"),
        ("Answer with a number: how many?", "Answer with a number: how many?"),
        ("What is the answer in the box?", "What is the answer in the box?"),
        ("Give the answer in cm.", "Give the answer in cm."),
        ("How long is it? Give the answer in cm.", "How long is it? Give the answer in cm."),
    ],
)
def test_instructions_at_the_end_are_left_out(text: str, want: str) -> None:
    kept, removed = without_instructions(text)
    assert kept == want
    assert len(kept) + len(removed) <= len(text)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("<think>x</think><answer> 3 </answer>", "3"),
        ("<answer>A</answer>", "A"),
        ("<think>x</think> dog", "dog"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("It is so.\n#### 42", "42"),
        ({"ground_truth": "5", "style": "rule"}, "5"),
        (["14"], "14"),
        (3, 3),
        (["a", "b"], ["a", "b"]),
        (None, None),
    ],
)
def test_a_gold_answer_is_unwrapped(value: Any, want: Any) -> None:
    assert unwrapped(value) == want


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("(A) a" + " " * 50_000 + "b", []),
        ("(A) a" + " " * 50_000 + "(B) b" + " " * 50_000, ["a", "b"]),
        ("(A)" + " " * 50_000, []),
        ("Options: A. a" + " " * 50_000 + "B. b" + " " * 50_000 + "c", ["a", "b" + " " * 50_000 + "c"]),
        ("A. a" + " " * 50_000 + "\nB. b", ["a", "b"]),
    ],
)
def test_options_behind_many_blanks_are_found_at_once(text: str, options: list[str]) -> None:
    # Tried at each blank it would take minutes.
    assert options_in(text) == options


def test_many_instructions_are_left_out_at_once() -> None:
    kept, removed = without_instructions("What?  \n \n " + "Answer with one word. " * 3000)
    assert (kept, removed.count("Answer")) == ("What?", 3000)
