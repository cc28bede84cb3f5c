"""Judges read what a text says: letters, options, numbers and lists in every dress, and nothing where nothing is said."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.benchmark_judges import judge_choice
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.mathvista import extracted, is_right, published_prediction, replacement
from pipeline.scoring.mmmu import guess, open_candidates, open_number_right, open_right, published_choice, read_choice
from pipeline.scoring.multiple_choice import letters, stated_choice, stated_label
from pipeline.scoring.numbers import stated_list, stated_number
from pipeline.scoring.response import render
from pipeline.types import Question

ANIMALS = ("dog", "cat", "hot dog", "bird")


def read(text: str, options: tuple[str, ...] = ANIMALS) -> str | None:
    """The letter, or the reason why there is none."""
    stated = stated_choice(text, options)
    assert (stated.letter is None) != (stated.reason is None)
    return stated.letter or stated.reason


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "(b)",
        "[B]",
        "B.",
        "B)",
        " B\n",
        "**B**",
        "__B__",
        "`B`",
        "'B'",
        "Ｂ",
        "$\\boxed{\\text{B}}$",
        "\\(B\\)",
        "Option B",
        "option (B)",
        "Answer: B",
        "ANSWER: (B)",
        "**Answer:** B",
        "Answer: **B**",
        "Answer: **B. cat**",
        "### Answer\nB",
        "B. cat",
        "B) cat",
        "(B) cat",
        "B: cat",
        "B - cat",
        "B, cat",
        "cat",
        "A cat",
        "The cat.",
        "CAT!",
        "It is B.",
        "It's the cat",
        "The answer is B",
        "The answer is (B).",
        "The correct answer is B. cat, since it meows.",
        "The correct option letter is B.",
        "the answer is cat",
        "The final answer is $\\boxed{B}$.",
        "The answer to the question is: B",
        "My choice: option B",
        "I would choose option B.",
        "I'd go with (B)",
        "Option B is correct because A is wrong.",
        "B is the right answer.",
        "Therefore, (B).",
        "So it is B.",
        "所以，答案是 B (cat)。",
        "B because it meows",
        "B. It meows, which a dog (A) does not.",
        "B\n\nExplanation: A is wrong.",
        "First I look.\nThen I think.\n\nB",
        "We see whiskers.\n\n**B. a cat with whiskers**",
        "A. dog: no\nB. cat: yes\nC. hot dog: no\nD. bird: no\n\nAnswer: B",
        "The answer is A. Wait, that is wrong: the answer is B.",
        "I see whiskers and a cat.",
        "It's not the dog but the cat.",
        "The answer is not A but B.",
        "The answer is (B), not (A).",
        "The animal is a cat rather than a bird.",
        "(A) is wrong. (B) fits. (C) is incorrect.",
        # Q: … A: …
        "A: cat",
        "A: Cat, as it meows.",
        "<answer>B</answer>",
        '{"answer": "B"}',
        "ans: B",
        "Correct answer - B",
        "B, I think",
        "I'm not sure, but B",
        "Among these, B fits best.",
    ],
)
def test_a_stated_answer_is_read(text: str) -> None:
    assert read(text) == "B"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("I don't know.", "no_answer"),
        ("A fish is shown.", "no_answer"),
        ("Based on the picture.", "no_answer"),
        ("Definitely!", "no_answer"),
        ("cats", "no_answer"),
        ("It cannot be determined whether it is the dog.", "no_answer"),
        ("There is not enough information to tell.", "no_answer"),
        ("The answer is not A.", "no_answer"),
        ("Neither the dog nor the bird.", "no_answer"),
        ("Option A is incorrect. (B) is wrong.", "no_answer"),
        ("A or B", "several_answers"),
        ("A/B", "several_answers"),
        ("A, B", "several_answers"),
        ("Answer: A and C", "several_answers"),
        ("The answer is dog or cat.", "several_answers"),
        ("Both the dog and the bird.", "several_answers"),
        ("(A) and (C) both fit.", "several_answers"),
        ("A. dog\nB. cat\nC. hot dog\nD. bird", "several_answers"),
        ("E", "not_an_option"),
        ("Answer: Z", "not_an_option"),
    ],
)
def test_what_states_nothing_is_unparsable(text: str, reason: str) -> None:
    assert read(text) == reason


def test_a_longer_option_hides_the_shorter_one_in_it() -> None:
    assert read("I see a hot dog.") == "C"


@pytest.mark.parametrize(
    ("text", "want"),
    [("3", "D"), ("There are 3.", "D"), ("three", "D"), ("2 + 1 = 3", "D"), ("B", "B"), ("7", "no_answer")],
)
def test_options_that_are_numbers_are_read_as_numbers(text: str, want: str) -> None:
    assert read(text, ("13", "30", "1", "3")) == want


def test_formulas_and_units_are_options_too() -> None:
    fractions = ("$\\frac{1}{2}$", "$\\frac{1}{3}$", "$\\frac{1}{4}$", "$1$")
    for text, want in (
        ("\\frac{1}{3}", "B"),
        ("1/3", "B"),
        ("$\\boxed{\\frac{1}{4}}$", "C"),
        ("The answer is 0.25", "C"),
        ("1", "D"),
    ):
        assert read(text, fractions) == want
    assert read("15 cm", ("12 cm", "15 cm")) == "B"
    assert read("\\$10", ("$5", "$10")) == "B"
    assert read("x", ("x", "y", "z")) == "A"
    assert read("2 or 3", ("2", "3")) == "no_answer"


def test_letters_go_past_d() -> None:
    options = tuple(f"option {number}" for number in range(26))
    assert letters(26)[-1] == "Z"
    for letter, option in zip(letters(26), options, strict=True):
        assert read(f"The answer is ({letter}).", options) == letter
        assert read(f"{letter}. {option}", options) == letter
        assert read(option, options) == letter
    with pytest.raises(ValueError, match="27 options"):
        letters(27)


def test_a_letter_is_meant_before_an_option_that_is_a_letter() -> None:
    assert read("B", ("C", "A", "B", "D")) == "B"
    assert read("B. A", ("C", "A", "B", "D")) == "B"
    assert read("The answer is D.", ("C", "A", "B", "D")) == "D"


def test_words_that_are_letters_are_no_answers() -> None:
    ten = tuple(f"thing {number}" for number in range(10))
    assert read("I think a thing is there.", ten) == "no_answer"
    assert read("A big one.", ten) == "no_answer"
    assert read("The answer is a secret.", ten) == "no_answer"


def test_the_same_text_twice_is_no_choice() -> None:
    assert read("18", ("9", "12", "18", "18")) == "no_answer"


WORDS = (
    st.text("abcdefghijklmnopqrstuvwxyz ", min_size=3, max_size=20).map(str.strip).filter(lambda text: len(text) > 2)
)


@given(st.lists(WORDS, min_size=2, max_size=10, unique=True), st.data())
def test_every_gold_answer_however_dressed_is_right(options: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.sampled_from(letters(len(options))))
    question = Question("1", (), "?", tuple(options), gold)
    option = options[letters(len(options)).index(gold)]
    for shape in (
        "{0}",
        "({0})",
        "{0}.",
        "**{0}**",
        "Answer: {0}",
        "\\boxed{{{0}}}",
        "The answer is ({0}) {1}.",
        "{0}. {1}",
    ):
        text = shape.format(gold, option)
        assert judge_choice(question, text, "direct").correct, text
        assert judge_choice(question, render("because", text), "think").correct, text
        assert not judge_choice(Question("1", (), "?", tuple(options)), text, "direct").correct


@given(st.text(max_size=300))
def test_no_text_makes_a_judge_fail(text: str) -> None:
    stated_choice(text, ANIMALS)
    stated_choice(text, ("1", "2.5", "1/2"))
    stated_number(text)
    stated_list(text)
    replacement(text, ANIMALS)
    open_right(open_candidates(text), ["dog", "3"])
    for kind in ("integer", "float", "list", "word"):
        is_right(extracted(text, (), kind), "[1, 2]" if kind == "list" else "3", kind, 1)


@pytest.mark.parametrize(
    "part",
    [
        "(",
        " ",
        "\n",
        "1",
        "1,111",
        "answer is ",
        "A. ",
        "\\boxed{",
        "\\frac{1",
        "A is ",
        "1 ",
        "not ",
        "[1,",
        "1/",
        "\\text{",
        "dog ",
        "not dog ",
        "<answer>",
        "<answer>dog</answer>",
        "\\boxed{dog} or ",
        "A or ",
        "答案是",
        "cannot select ",
        "「",
    ],
)
def test_hostile_text_costs_milliseconds(part: str) -> None:
    text = part * (100_000 // len(part))
    start = time.process_time()
    for options in (ANIMALS, ("1", "2")):
        stated_choice(text, options)
        read_choice(text, options, pro=True)
        replacement(text, options)
        stated_label(text, LabelSet.of(options))
    LabelSet.of(ANIMALS).mentioned(text)
    stated_number(text)
    open_number_right(text, ["1"])
    # A hundredth of this on an idle core, or three; what is quadratic takes minutes.
    assert time.process_time() - start < 30


# ---- think and direct


def test_think_judges_the_answer_part_alone() -> None:
    question = Question("1", (), "?", ANIMALS, "B")
    assert judge_choice(question, render("It is (A). The answer is A.", "B"), "think").correct
    for text, reason in (
        ("B", "no_think"),
        ("<think>x</think>B", "no_answer"),
        ("<think>x</think><answer>B</answer> B", "text_outside"),
    ):
        verdict = judge_choice(question, text, "think")
        assert (verdict.answer, verdict.correct, verdict.reason) == (None, False, reason)
    assert judge_choice(question, render("hm", "maybe"), "think").reason == "no_answer"
    assert judge_choice(question, render("hm", "B"), "think").think == "hm"


# ---- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3.5", 3.5),
        ("3.", 3),
        (".5", 0.5),
        ("-3", -3),
        ("−3", -3),
        ("1,234,567.5", 1234567.5),
        ("1{,}000", 1000),
        ("3/4", 0.75),
        ("-1/2", -0.5),
        ("1 3/4", 1.75),
        ("½", 0.5),
        ("\\frac{3}{4}", 0.75),
        ("$-\\dfrac{3}{4}$", -0.75),
        ("1\\frac{1}{2}", 1.5),
        ("$\\boxed{\\frac{1}{2}}$", 0.5),
        ("2\\sqrt{3}", 2 * math.sqrt(3)),
        ("2\\pi", 2 * math.pi),
        ("1.2e3", 1200),
        ("1.2 \\times 10^{3}", 1200),
        ("1.2 × 10^-3", 0.0012),
        ("10^5", 100000),
        ("$5", 5),
        ("-$5", -5),
        ("\\$1,000.50", 1000.5),
        ("12 cm", 12),
        ("7 years old", 7),
        ("three", 3),
        ("twenty-one", 21),
        ("There is one dog.", 1),
        ("There are 3 objects left.", 3),
        ("2 + 3 = 5", 5),
        ("x = 5", 5),
        ("Answer: 12", 12),
        ("Answer:5", 5),
        ("Answer: 3 + 4 = 7", 7),
        ("The answer is 4. I hope this helps! Rate me 5 stars.", 4),
        ("So the answer is 1982 with a total of $931,441.", 1982),
        ("The difference is **40**, as 60 - 20 = 40 in 2005.", 40),
        ("We have 9 and 2.\nTherefore, the range is 7 miles.", 7),
        ("7 years (12 - 5)", 7),
        ("| a | 1 |\nThe total is 8.\n| b | 2 |", 8),
    ],
)
def test_the_stated_number_is_read(text: str, value: float) -> None:
    found = stated_number(text)
    assert found is not None
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "A1",
        "H2O",
        "the smallest one",
        "1:2",
        "5:30",
        "13-18",
        "1/0",
        "1e999",
        "It cannot be determined from 3 bars.",
    ],
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert stated_number(text) is None


def test_lists_are_read() -> None:
    assert stated_list("Answer: [2014, 2016]") == [2014, 2016]
    assert stated_list("The years are 2014 and 2016.") == [2014, 2016]
    assert stated_list("It is (0.5, -1/2).") == [0.5, -0.5]
    assert stated_list("none") is None


# ---- MathVista


@pytest.mark.parametrize(
    ("text", "answer", "kind", "precision", "right"),
    [
        ("3", "3", "integer", None, True),
        ("3.0 apples", "3", "integer", None, True),
        ("3.5", "3", "integer", None, False),
        ("1,000", "1000", "integer", None, True),
        ("50%", "50", "integer", None, True),
        ("50%", "0.5", "float", 1, True),
        ("1.24", "1.2", "float", 1, True),
        ("1.26", "1.2", "float", 1, False),
        ("\\frac{6}{5}", "1.2", "float", 1, True),
        ("1.2 \\times 10^1", "12", "integer", None, True),
        ("[1, 2]", "[1, 2]", "list", None, True),
        ("[1.0, 2.0]", "[1, 2]", "list", None, True),
        ("[2, 1]", "[1, 2]", "list", None, False),
        ("1 and 2", "[1, 2]", "list", None, True),
        ("nothing", "1", "integer", None, False),
        ("", "0", "integer", None, False),
    ],
)
def test_free_answers_are_compared_by_value(
    text: str, answer: str, kind: str, precision: int | None, right: bool
) -> None:
    assert is_right(extracted(text, (), kind), answer, kind, precision) is right


def test_a_misspelt_choice_is_read_and_nonsense_is_not() -> None:
    cities = ("hong kong", "osaka", "shanghai", "tokyo")
    assert extracted("The answer is Tokio.", cities, "text").text == "tokyo"
    assert extracted("(D)", cities, "text").text == "tokyo"
    assert extracted("Berlin", cities, "text").text is None
    assert replacement("Berlin", cities) == "osaka"
    assert replacement("It cannot be determined.", ("Yes", "No")) == "No"


def test_the_published_normalisation_is_kept_for_stored_extractions() -> None:
    yes_no = ("Yes", "No")
    assert published_prediction("(b) because", yes_no, "text", None) == "No"
    assert published_prediction("N/A", yes_no, "text", None) == "No"
    assert published_prediction("", ("97", "102"), "text", None) == "97"
    assert published_prediction("2.0", (), "integer", None) is None
    assert published_prediction("3.5", (), "integer", None, whole_floats=True) == "3"
    assert published_prediction("1.25", (), "float", 1) == "1.2"
    assert published_prediction("1,000", (), "float", 1) is None
    assert published_prediction("inf", (), "integer", None, whole_floats=True) is None


# ---- MMMU


def test_the_published_rules_of_mmmu_are_kept_with_their_faults() -> None:
    ten = tuple(f"option {number}" for number in range(10))
    # "A " is looked for before "J.".
    assert published_choice("J. A dramatic increase", ten, pro=True) == "A"
    assert published_choice("J. The increase", ten, pro=True) == "J"
    assert published_choice("**C**", ten, pro=True) is None
    assert published_choice("Answer: (C)", ten, pro=True) == "C"
    # "A" of "All" makes it two.
    assert published_choice("Answer: C, as All", ten, pro=True) is None
    assert published_choice("The answer is (B), not (A).", ten, pro=False) == "A"
    assert published_choice("B.", ten, pro=False) == "B"
    assert published_choice("B. option", ten, pro=False) is None
    assert published_choice("It must be option 3 in this very case", ten, pro=False) == "D"
    assert published_choice("I say B then C !", ten, pro=False) == "C"


def test_a_plain_statement_is_read_before_anything_is_guessed() -> None:
    assert read_choice("**C**", ANIMALS, pro=True).letter == "C"
    assert read_choice("B. cat", ANIMALS, pro=False).letter == "B"
    assert read_choice("The answer is (B), not (A).", ANIMALS, pro=False).letter == "A"
    assert read_choice("The answer is (B), not (A).", ANIMALS, pro=False, rule="stated").letter == "B"
    assert read_choice("J. A dramatic increase", tuple("abcdefghij"), pro=True, rule="stated").letter == "J"
    assert read_choice("No idea", ANIMALS, pro=False).reason == "no_answer"


def test_a_guess_is_the_rows_own() -> None:
    assert guess(ANIMALS, "row-1") == guess(ANIMALS, "row-1")
    assert {guess(ANIMALS, f"row-{number}") for number in range(50)} == set("ABCD")


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("The result is 5.752", ["5.75"], True),
        ("1,234", ["1234"], True),
        ("12", ["2"], False),
        ("It is a Crown gall.", ["crown gall"], True),
        ("answer is x = 3", ["3"], True),
        ("Thus the answer is 4.\nI am sure.", ["4"], True),
        ("no idea", ["4"], False),
        # A single letter needs a space beside it.
        ("cab", ["b"], False),
        ("it is b then", ["b"], True),
    ],
)
def test_open_answers_follow_the_published_rule(text: str, answers: list[str], right: bool) -> None:
    assert open_right(open_candidates(text), answers) is right


def test_fractions_answer_open_questions() -> None:
    assert open_number_right("\\boxed{\\frac{1}{2}}", ["0.5"])
    assert not open_number_right("\\boxed{\\frac{1}{3}}", ["0.5"])
