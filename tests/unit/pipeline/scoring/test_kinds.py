"""Every kind of answer has one judge: the gold answer as a user sees it is right, another is not, and no trick earns anything."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.scoring.kinds import KINDS, chance, gold_answer, infer_kind, judge_kind
from pipeline.scoring.multiple_choice import letters
from pipeline.scoring.response import TAGS, render
from pipeline.types import Judgement, Question

STYLES = ("direct", "think")
WORDS = st.text(string.ascii_letters + " -'", min_size=1, max_size=20).filter(lambda text: text.strip(" -'"))


def asked(kind: str, answer: str | None, options: tuple[str, ...] = (), **facts: Any) -> Question:
    return Question("1", (), "?", options, answer, kind, facts=facts)


def judge(question: Question, text: str, style: str = "think") -> Judgement:
    return judge_kind(question, render("I look.", text) if style == "think" and text.strip() else text, style)


def is_right(question: Question, text: str, style: str = "think") -> bool:
    judgement = judge(question, text, style)
    assert not (judgement.answer is None and judgement.correct)
    assert (judgement.answer is None) == (judgement.reason is not None)
    return judgement.correct


@given(st.data(), st.sampled_from(STYLES))
def test_the_gold_option_is_right_however_it_is_shown_and_no_other_is(data: st.DataObject, style: str) -> None:
    texts = st.text(max_size=30).filter(lambda text: not any(tag in text for tag in TAGS) and "\\" not in text)
    options = tuple(data.draw(st.lists(st.one_of(WORDS, texts), min_size=2, max_size=6)))
    known = letters(len(options))
    gold, other = data.draw(st.permutations(known))[:2]
    question = asked("letter", gold, options)
    for letter, right in ((gold, True), (other, False)):
        option = options[known.index(letter)]
        if not right and " ".join(option.split()).casefold() == " ".join(options[known.index(gold)].split()).casefold():
            continue
        for shown in (letter, f"({letter})", letter.lower(), f"**{letter}**", f"\\boxed{{{letter}}}"):
            assert is_right(question, shown, style) is right, shown
        if option.strip():
            assert is_right(question, f"({letter}) {option}", style) is right


@given(st.lists(WORDS, min_size=2, max_size=5, unique_by=lambda text: " ".join(text.casefold().split())), st.data())
def test_the_gold_options_text_is_right_where_it_is_no_letter(options: list[str], data: st.DataObject) -> None:
    assume(not any(len(option.strip(" -'")) < 2 for option in options))
    place = data.draw(st.integers(0, len(options) - 1))
    question = asked("letter", letters(len(options))[place], tuple(options))
    for number, option in enumerate(options):
        assert is_right(question, option) is (number == place)


@given(
    st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6).map(lambda value: round(value, 3))), st.integers(1, 99)
)
def test_the_gold_number_is_right_and_another_is_not(value: float, more: int) -> None:
    gold, facts = gold_answer("number", value)
    question = asked("number", gold, **facts)
    for style in STYLES:
        assert is_right(question, gold, style)
        assert is_right(question, f"\\boxed{{{gold}}}", style)
        assert is_right(question, f"The answer is {gold} cm.", style)
        assert not is_right(question, str(round(value + more, 3)), style)


@given(WORDS, WORDS)
def test_the_gold_text_is_right_and_another_is_not(gold: str, other: str) -> None:
    question = asked("text", gold_answer("text", gold)[0])
    assert is_right(question, gold)
    assert is_right(question, f"**{gold.strip().upper()}**.")
    same = [["".join(c for c in text.casefold() if c.isalpha())] for text in (gold, other)]
    if same[0] != same[1] and not {"a", "an", "the"} & set((gold + " " + other).casefold().replace("-", " ").split()):
        assert not is_right(question, f"{gold} or {other}")


@given(st.lists(st.one_of(st.integers(-99, 99).map(str), WORDS.map(str.strip)), min_size=2, max_size=5), st.booleans())
@example(["0", "null"], False)
@example(["0", "Infinity"], False)
@example(["0", "None"], True)
@example(["1", "true", "NaN"], True)
def test_the_gold_list_is_right_in_the_order_that_counts(entries: list[str], ordered: bool) -> None:
    # An "and" at an entry's end may be one between entries.
    assume(not any(f" {entry.casefold()} ".startswith(" and ") for entry in entries))
    question = asked("list", gold_answer("list", entries)[0], ordered=ordered)
    assert is_right(question, question.answer or "")
    assert is_right(question, ", ".join(entries))
    assert is_right(question, "[" + ", ".join(entries) + "]")
    assert not is_right(question, ", ".join([*entries, "zebra"]))
    turned = list(reversed(entries))
    if len({entry.casefold().strip(" '-") for entry in entries}) == len(entries) and "an" not in turned:
        assert is_right(question, ", ".join(turned)) is not ordered or is_right(question, ", ".join(entries))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**Yes**", True),
        ("\\boxed{yes}", True),
        ("True", True),
        ("Yes, there is a dog.", True),
        ("The answer is yes.", True),
        ("Yes there is a dog.", True),
        ("**Yes** it is red", True),
        ("yes because there are more cats", True),
        ("Yes there is a dog but no cat", False),
        ("no", False),
        ("No, there is none.", False),
        ("yes and no", False),
        ("yes or no", False),
        ("Yes. No.", False),
        ("not yes", False),
        ("There is a dog.", False),
        ("yes is wrong, it is not", False),
        ("maybe", False),
        ("I cannot tell.", False),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_yes_and_no(text: str, right: bool, style: str) -> None:
    assert is_right(asked("yes_no", "yes"), text, style) is right
    if not right and not text.lower().startswith("no"):
        assert judge(asked("yes_no", "no"), text, style).answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No there is no dog.", "no"),
        ("No it's blue", "no"),
        ("No the left one is larger", "no"),
        ("no because they are alike", "no"),
        ("No — it is a cat", "no"),
        ("No—there is a cat", "no"),
        ("No - only a cat", "no"),
        ("No -- it is a cat", "no"),
        ("No (it is a cat)", "no"),
        ("No I see a cat", "no"),
        ("No these are cats", "no"),
        ("No-one is there", None),
        ("no-smoking sign", None),
        ("No - yes", None),
        ("Yes it is red. So the answer is no.", "no"),
        ("no dog", None),
        ("No dogs are there.", None),
        ("No it is not. Yes it is.", None),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_a_no_is_read_without_a_comma_where_a_sentence_follows(text: str, answer: str | None, style: str) -> None:
    assert judge(asked("yes_no", "no"), text, style).answer == answer


@pytest.mark.parametrize(
    ("gold", "facts", "text", "right"),
    [
        ("1000", {}, "1,000", True),
        ("3", {}, "three", True),
        ("3", {}, "There are 3 dogs.", True),
        ("0.5", {}, "1/2", True),
        ("1/3", {}, "0.33", True),
        ("1/3", {}, "0.3", False),
        ("0.33", {}, "\\frac{1}{3}", True),
        ("2\\sqrt{221}", {}, "29.73", True),
        ("3.14159", {}, "3.14", False),
        ("3.14159", {"precision": 2}, "3.14", True),
        ("3.14", {"precision": 1}, "3.2", False),
        ("10", {"tolerance": 1}, "11", True),
        ("10", {"tolerance": 1}, "11.1", False),
        ("200", {"relative_tolerance": 0.05}, "190", True),
        ("200", {"relative_tolerance": 0.05}, "189", False),
        ("50%", {}, "50", True),
        ("50%", {}, "0.5", True),
        ("50%", {}, "0.5%", False),
        ("0.5", {}, "50%", True),
        ("12", {"unit": "cm"}, "12 cm", True),
        ("12", {"unit": "cm"}, "12", True),
        ("12", {"unit": "cm"}, "0.12 m", True),
        ("12", {"unit": "cm"}, "12 m", False),
        ("12", {"unit": "cm"}, "12 kg", False),
        ("12", {"unit": "centimeters"}, "120 mm", True),
        ("12", {}, "12 kg", True),
        ("12", {"unit": "apples"}, "12 pears", True),
        ("5", {}, "-5", False),
        ("-5", {}, "−5", True),
        # The axis may count millions.
        ("5", {}, "5 million people", True),
        ("2.5", {"unit": "million"}, "2.5 million", True),
        ("3", {}, "three dozen", True),
        ("5000000", {}, "5 million", True),
        ("5 million", {}, "5", False),
        ("4k", {}, "4K", True),
        ("300", {}, "300K", True),
        ("3", {}, "three hundred", False),
        ("300", {}, "three hundred", True),
        ("0.67", {}, "two thirds", True),
        ("3", {}, "minus 3", False),
        ("3", {}, "It shows minus 3", False),
        ("12", {}, "half a dozen", False),
        ("0.2", {}, "twenty percent", True),
        ("20%", {}, "twenty percent", True),
        ("3", {}, "3 or 4", False),
        ("3", {}, "2, 3", False),
        ("3", {}, "1 2 3", False),
        ("3", {}, "\\boxed{2} or \\boxed{3}", False),
        ("3", {}, "It is not known.", False),
        ("3", {}, "1e999", False),
        ("3", {}, "9" * 5000, False),
        ("3", {}, "10^999999", False),
        ("3", {}, "3/0", False),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_numbers_are_equal_in_value_as_far_as_the_data_say(
    gold: str, facts: dict[str, Any], text: str, right: bool, style: str
) -> None:
    assert is_right(asked("number", gold, **facts), text, style) is right


@pytest.mark.parametrize(
    ("gold", "aliases", "text", "right"),
    [
        ("dog", [], "A dog.", True),
        ("dog", [], "The answer is dog.", True),
        ("dog", [], "Answer: **the dog**", True),
        ("dog", [], "\\boxed{\\text{dog}}", True),
        ("dog", [], "dogs", False),
        ("dog", [], "dog or cat", False),
        ("dog", [], "dog cat bird", False),
        ("dog", [], "not a dog", False),
        ("dog", [], "I see a dog.", False),
        ("dog", ["puppy"], "Puppy", True),
        ("two dogs", [], "2 dogs", True),
        ("t-shirt", [], "T shirt", True),
        ("don't walk", [], "DONT WALK", True),
        ("1,000 miles", [], "1000 miles", True),
        ("10:30", [], "1030", False),
        ("10:30", [], "10:30.", True),
        ("-5 a", [], "5 a", False),
        ("c#", [], "c", False),
        ("The", [], "the", True),
        ("!", [], "!", True),
        ("!", [], "?", False),
        ("-5", [], "−5", True),
        ("−5", [], "-5 degrees", False),
        ("-5", [], "5", False),
        ("A", [], "B", False),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_texts_are_compared_as_vqa_does(gold: str, aliases: list[str], text: str, right: bool, style: str) -> None:
    assert is_right(asked("text", gold, aliases=aliases), text, style) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("red, green", True),
        ("green and red", True),
        ("['green', 'red']", True),
        ("- red\n- green", True),
        ("1. red\n2. green", True),
        ("The answer is red and green.", True),
        ("\\boxed{red, green}", True),
        ("red", False),
        ("red, green, green", False),
        ("red, green, blue", False),
        ("[[[[", False),
    ],
)
def test_lists_are_compared_entry_by_entry(text: str, right: bool) -> None:
    assert is_right(asked("list", '["red", "green"]'), text) is right


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ('["salt and pepper", "bread"]', "salt and pepper, bread", True),
        ('["salt and pepper", "bread"]', "bread; and salt and pepper", True),
        ('["salt and pepper", "bread"]', "salt, pepper, bread", False),
        ('["100", "200", "300"]', "100,200,300", True),
        ('["100", "200", "300"]', "(100,200,300)", True),
        ('["100", "200", "300"]', "100,200,301", False),
        ('["1,000", "2,000"]', "1,000, 2,000", True),
        ('["1,000", "2,000"]', "1,0,2,0", False),
    ],
)
def test_an_and_or_a_comma_within_an_entry_does_not_make_a_list_wrong(gold: str, text: str, right: bool) -> None:
    assert is_right(asked("list", gold), text) is right


def test_a_list_counts_in_its_order_where_the_data_say_so() -> None:
    question = asked("list", "[1, 2.5]", ordered=True)
    assert is_right(question, "1, 2.50")
    assert not is_right(question, "2.5, 1")


def test_a_label_is_the_whole_answer_in_think_style_and_what_is_stated_in_direct_style() -> None:
    question = asked("label", "awe", ("awe", "fear"), aliases={"awe": ["wonder"]})
    assert is_right(question, "Wonder.")
    assert not is_right(question, "I feel awe.")
    assert is_right(question, "I feel awe.", "direct")
    assert not is_right(question, "awe, fear", "direct")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "text",
    ["", " \n", "<answer>", "</think>", "<think>A<answer>", "<answer>A</answer><answer>B</answer>", "(" * 5000, "\0"],
)
def test_nothing_is_earned_by_a_broken_completion(kind: str, style: str, text: str) -> None:
    golds = {"letter": "A", "label": "awe", "number": "3", "yes_no": "yes", "text": "dog", "list": '["a", "b"]'}
    assert not judge_kind(asked(kind, golds[kind], ("awe", "fear")), text, style).correct


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_without_a_gold_answer_is_never_right(kind: str) -> None:
    for text in ("A", "awe", "3", "yes", "None", "[]"):
        assert not judge(asked(kind, None, ("awe", "fear")), text).correct


def test_an_unknown_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="kind 'essay' is not one of"):
        judge_kind(asked("essay", "x"), "x", "direct")


@pytest.mark.parametrize(
    ("options", "answer", "kind"),
    [
        (("a", "b"), "A", "letter"),
        ((), True, "yes_no"),
        ((), "No", "yes_no"),
        ((), "true", "yes_no"),
        ((), "right", "text"),
        ((), 3, "number"),
        ((), 2.5, "number"),
        ((), "three", "number"),
        ((), "12 cm", "number"),
        ((), "$5", "number"),
        ((), "50%", "number"),
        ((), "\\frac{1}{2}", "number"),
        ((), "12 dogs", "text"),
        ((), "10:30", "text"),
        ((), "555-1234", "text"),
        ((), [1, 2], "list"),
        ((), "['a', 'b']", "list"),
        ((), "[a]", "text"),
        ((), "a dog", "text"),
    ],
)
def test_the_kind_is_inferred_from_options_and_answer(options: tuple[str, ...], answer: Any, kind: str) -> None:
    assert infer_kind(options, answer) == kind


@pytest.mark.parametrize(
    ("kind", "answer", "gold", "facts"),
    [
        ("yes_no", False, "no", {}),
        ("yes_no", "True", "yes", {}),
        ("number", 3.0, "3", {}),
        ("number", "12 cm.", "12", {"unit": "cm"}),
        ("number", "1,234", "1,234", {}),
        ("list", [1, "b"], '["1", "b"]', {}),
        ("list", "a, b and c", '["a", "b", "c"]', {}),
        ("text", " a dog ", "a dog", {}),
    ],
)
def test_a_gold_answer_is_kept_as_its_judge_compares(kind: str, answer: Any, gold: str, facts: dict[str, Any]) -> None:
    assert gold_answer(kind, answer) == (gold, facts)


@pytest.mark.parametrize(
    ("kind", "answer"), [("yes_no", "maybe"), ("number", "a dog"), ("list", ""), ("text", "w " * 21)]
)
def test_a_gold_answer_of_another_kind_is_refused(kind: str, answer: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gold_answer(kind, answer)


def test_chance_is_one_in_the_options() -> None:
    assert [chance(asked(kind, "A", ("a", "b", "c", "d"))) for kind in KINDS] == [0.25, 0.25, 0, 0.5, 0, 0]
