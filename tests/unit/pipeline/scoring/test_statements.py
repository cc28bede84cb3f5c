"""Direct answers: what states one option or label, in any dress, and what states none although a label stands in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import stated_choice, stated_label
from pipeline.scoring.response import render

ANIMALS = ("dog", "cat", "hot dog", "bird")
EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
LABELS = LabelSet.of(EMOTIONS, answers={"sadness": ("sad",), "contentment": ("content",)})


def read(text: str) -> str | None:
    stated = stated_choice(text, ANIMALS)
    return stated.letter or stated.reason


@pytest.mark.parametrize(
    "text",
    [
        "I am unable to select option A or B.",
        "I cannot select option A or B.",
        "I can't choose between (A) and (B).",
        "I'm not able to pick option C.",
        "It is not possible to decide on option D.",
        "There is not enough information to select option A.",
        "None of the options A, B, C, D is correct.",
        "None of the options A, B is correct.",
        "Neither (A) nor (B) is right.",
        "I do not think B is correct.",
        "I am not sure that B is correct.",
        "I cannot say that the answer is A.",
        "I cannot tell whether the answer is dog.",
        "If B is correct, then it meows.",
        "不应选B",
        "选项B不正确",
        "这是一道选择题。",
        "无法确定选项(B)",
    ],
)
def test_who_refuses_or_leaves_it_open_chooses_nothing(text: str) -> None:
    assert read(text) == "no_answer"


@pytest.mark.parametrize(
    "text",
    [
        "I cannot see the picture well, but option B seems likely.",
        "I cannot tell. My guess is option B.",
        "There is not enough information; however, the answer is B.",
        "None of the others fit, so B is correct.",
        "It is not A, B is correct.",
        "I am not sure, but B is correct.",
        "The dog does not have a hat. It is a cat.",
        "The tree does not have leaves. I see a cat.",
    ],
)
def test_a_choice_after_a_refusal_counts_and_a_lack_of_things_is_no_refusal(text: str) -> None:
    stated = stated_choice(text, ("wolf", "cat", "hot dog", "bird"))
    assert stated.letter == "B"


@pytest.mark.parametrize(
    "text",
    [
        "(A)(D)",
        "Answer: (A)(D)",
        "A D",
        "[A] [D]",
        "**A** **D**",
        "A or B or C",
        "A/B/C",
        "A, B and C",
        "Both A and B",
        "Options A and B",
        "option A or option B",
        "A或B",
        "我选A和B",
        "A、B",
        "dog, cat",
        "dog; cat; bird",
        "Dog. Cat. Bird.",
        "dog\ncat\ndog",
        "\\boxed{A} or \\boxed{B}",
        "<answer>A</answer><answer>B</answer>",
    ],
)
def test_several_options_are_none(text: str) -> None:
    assert read(text) == "several_answers"


@pytest.mark.parametrize(
    "text",
    [
        "选项B正确",
        "选项B是正确答案。",
        "答案选项为B",
        "对应选项是B",
        "正确答案是（Ｂ）。",
        "答案：B",
        "故选B",
        "選項B正確",
        "故選B。",
        "选B",
        "应选择B",
        "我选择选项B",
        "因此,应该选B",
        "答案不是A而是B",
        "正解はBです",
        "答えはB",
        "Bが正解です",
        "정답은 B입니다",
    ],
)
def test_statements_in_chinese_japanese_and_korean_are_read(text: str) -> None:
    assert read(text) == "B"


def test_an_option_in_a_language_without_spaces_is_found_in_its_sentence() -> None:
    assert stated_choice("图中是一只猫。", ("狗", "猫")).letter == "B"
    assert stated_choice("这不是狗,是猫。", ("狗", "猫")).letter == "B"
    assert stated_choice("答案是猫。", ("狗", "猫")).letter == "B"
    assert stated_choice("图中有狗和猫。", ("狗", "猫")).reason == "several_answers"
    assert stated_choice("パンダです", ("パン", "米")).letter is None


def test_an_unfinished_thought_answers_nothing_and_a_finished_one_is_not_searched() -> None:
    assert read("<think>It may be the dog") == "no_answer"
    assert read("<think>A dog (A)? No.</think>\n\nB") == "B"
    assert read(render("The dog (A) is out.", "B")) == "B"


# ---- labels


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Answer: amusement", "amusement"),
        ("The answer is amusement.", "amusement"),
        ("\\boxed{fear}", "fear"),
        ("$\\boxed{\\text{fear}}$", "fear"),
        ("<answer>awe</answer>", "awe"),
        (render("fear? no", "awe"), "awe"),
        ("amusement\n\nThe image shows people who laugh.", "amusement"),
        ("**Awe**", "awe"),
        ("The emotion is **Sadness**.", "sadness"),
        ("This image evokes a sense of awe.", "awe"),
        ("I would choose fear.", "fear"),
        ("The answer is not awe but fear.", "fear"),
        ("Fear, because of the dark.", "fear"),
        ("sad", "sadness"),
        ("The answer is sad.", "sadness"),
        ("Content, as he smiles.", "contentment"),
        ("答案是awe。", "awe"),
    ],
)
def test_a_direct_label_is_read_as_a_benchmark_answer_is(text: str, label: str) -> None:
    assert stated_label(text, LABELS) == label


@pytest.mark.parametrize(
    "text", ["Answer: {}", "The answer is {}.", "\\boxed{{{}}}", "<answer>{}</answer>", "{}\n\nIt is so.", "{}!"]
)
def test_labels_and_options_are_read_alike(text: str) -> None:
    for number, option in enumerate(ANIMALS):
        stated = stated_choice(text.format(option), ANIMALS).letter
        assert stated == "ABCD"[number]
        assert stated_label(text.format(option), LabelSet.of(ANIMALS)) == option


@pytest.mark.parametrize(
    "text",
    [
        "",
        "awe or fear",
        "awe or fear or joy",
        "awe, fear",
        "awe/fear",
        "Awe. Fear. Anger.",
        "awe\nfear",
        "awe\nfear\nawe",
        "1. awe\n2. fear",
        "Answer: awe or fear",
        "Answer: awe, fear, anger",
        "The answer is either awe or fear.",
        "It could be awe. It could be fear.",
        "\\boxed{awe} or \\boxed{fear}",
        "\\boxed{awe}, \\boxed{fear}",
        "<answer>awe</answer><answer>fear</answer>",
        "<answer>awe or fear</answer>",
        " ".join(EMOTIONS),
        "Options: " + ", ".join(EMOTIONS),
        "not awe",
        "There is no fear here.",
        "Fear is absent.",
        "awesome",
        "fearful",
        "I cannot determine whether it is awe.",
        "I do not know if the answer is awe.",
        "<think>it is awe",
        "The man looks sad.",
        "The content of the picture is unclear.",
    ],
)
def test_what_names_several_labels_or_denies_or_only_thinks_states_none(text: str) -> None:
    assert stated_label(text, LABELS) is None


@given(
    st.lists(st.sampled_from(EMOTIONS), min_size=2, max_size=8, unique=True),
    st.sampled_from([" ", ", ", " or ", " and ", "/", "|", "\n", "; ", ". ", " - ", "\n- ", " & ", "、"]),
    st.sampled_from(
        ["{}", "Answer: {}", "The answer is {}.", "\\boxed{{{}}}", "<answer>{}</answer>", "**{}**", "I think {}"]
    ),
)
def test_a_list_of_labels_in_any_dress_is_no_answer(words: list[str], glue: str, frame: str) -> None:
    assert stated_label(frame.format(glue.join(words)), LABELS) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_reading_of_labels(text: str) -> None:
    assert stated_label(text, LABELS) in (None, *EMOTIONS)
