"""Labels of any script, of any case and sign, and labels that are words of the language they are named in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.task import labelled_task
from pipeline.scoring.labels import LabelSet, _key
from pipeline.scoring.multiple_choice import stated_label
from pipeline.scoring.response import render
from pipeline.types import Split, labelled_image

SCRIPTS = {
    "Latin": ("red", "été bleu", "grün", "t-shirt"),
    "Cyrillic": ("красный", "синий", "тёмно-зелёный", "ёж"),
    "Greek": ("κόκκινο", "μπλε", "πράσινος", "φως"),
    "Arabic": ("أحمر", "أزرق", "خوف شديد", "غضب"),
    "Hebrew": ("אדום", "כחול", "ירוק", "פחד"),
    "Devanagari": ("लाल", "नीला", "हरा रंग", "डर"),
    "Bengali": ("লাল", "নীল", "সবুজ", "ভয়"),
    "Tamil": ("சிவப்பு", "நீலம்", "பச்சை", "பயம்"),
    "Thai": ("แดง", "น้ำเงิน", "เขียว", "กลัว"),
    "Han": ("红色", "蓝", "绿色", "恐惧"),
    "Kana": ("あか", "アオイ", "みどり", "おそれ"),
    "Hangul": ("빨강", "파랑", "초록", "두려움"),
    "Georgian": ("წითელი", "ლურჯი", "მწვანე", "შიში"),
    "Armenian": ("կարմիր", "կապույտ", "կանաչ", "վախ"),
    "Ethiopic": ("ቀይ", "ሰማያዊ", "አረንጓዴ", "ፍርሃት"),
}
MARKS = (
    "{}", "{}.", "{}。", "{}।", "{}؟", "{}،", "{}።", "{}…", "「{}」", "『{}』", "【{}】", "《{}》", "«{}»", "„{}“", "‹{}›",
    "({})", "（{}）", "[{}]", "**{}**", "`{}`", '"{}"', "¿{}?", "¡{}!", "- {}", "• {}", "\u200f{}\u200f", "\ufeff{}", "{}！",
    "{}、", "*{}*",
)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
@given(data=st.data())
def test_a_label_of_any_script_is_read_in_any_punctuation_and_no_other_is(script: str, data: st.DataObject) -> None:
    names = SCRIPTS[script]
    labels = LabelSet.of(names)
    gold, mark = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(MARKS))
    other = data.draw(st.sampled_from([name for name in names if name != gold]))
    glue = data.draw(st.sampled_from([" ", ", ", "、", "，", "/", "\n", "؛ ", " or "]))
    assert labels.normalise(mark.format(gold)) == gold
    assert labels.normalise(mark.format(gold.upper())) == gold
    assert labels.normalise(gold + glue + other) is None
    assert labels.normalise(gold + gold) is None
    for style in ("think", "direct"):
        task = labelled_task("t", labels, "?", ("train",), lambda _: Split((), ()))
        text = mark.format(gold)
        verdict = task.judge(labelled_image("", Path(), gold), render("see", text) if style == "think" else text, style)
        assert (verdict.answer, verdict.correct) == (gold, True)
        assert not task.judge(
            labelled_image("", Path(), other), render("see", text) if style == "think" else text, style
        ).correct
    assert stated_label(f"Answer: {mark.format(gold)}", labels) == gold
    assert stated_label(mark.format(gold) + glue + mark.format(other), labels) is None


LETTERS = st.text(st.characters(categories=("Lu", "Ll", "Lo", "Lt", "Mn", "Mc", "Nd")), min_size=2, max_size=12).filter(
    lambda text: text[0].isalpha()
)


@given(st.lists(LETTERS, min_size=2, max_size=6))
def test_any_letters_make_a_label_that_is_read_as_itself(names: list[str]) -> None:
    names = list({_key(name): name for name in names}.values())
    labels = LabelSet.of(names)
    for name in labels.names:
        assert labels.normalise(name) == name
        assert labels.normalise(f"「{name}」。") == name
        assert stated_label(name, labels) == name
        assert set(labels.mentioned(f"x {name} y")) <= set(labels.names)


@pytest.mark.parametrize(
    "names",
    [
        ("-5", "5", "-0.5", "0.5"),
        ("+1", "-1", "1"),
        ("A", "A-", "A+", "B"),
        ("C", "C++", "C#"),
        ("5%", "5"),
        ("a", "A", "b", "B"),
        ("é", "É"),
        ("я", "Я"),
        ("😀", "😢"),
        ("−3 °C", "3 °C"),
    ],
)
def test_labels_that_differ_by_a_sign_or_are_letters_of_two_cases_are_kept_apart(names: tuple[str, ...]) -> None:
    labels = LabelSet.of(names)
    for name in names:
        for text in (name, f"{name}.", f"**{name}**", f" “{name}” ", f"- {name}"):
            assert labels.normalise(text) == name, text
        assert stated_label(f"Answer: {name}", labels) == name
        assert stated_label(f"The answer is {name}.", labels) == name


def test_a_sign_is_not_dropped_where_only_one_of_the_two_is_a_label() -> None:
    labels = LabelSet.of(["5", "6", "C"])
    for text in ("-5", "−5", "–5", "+5", "C++", "C#", "5%"):
        assert labels.normalise(text) is None


@pytest.mark.parametrize(
    "names",
    [("red", "RED"), ("hot_dog", "hot dog"), ("Apple", "apple", "x", "X y", "x_y"), ("a b", "a-b"), ("red", "red.")],
)
def test_labels_that_differ_by_case_or_separators_are_refused_all_at_once_with_the_cure(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"would mean both.*rename all but one of them, or name one in task\.labels"):
        LabelSet.of(names)


def test_every_clash_is_named() -> None:
    with pytest.raises(ValueError, match=r"'RED' would mean both.*'Cat' would mean both.*'\.\.\.' is empty"):
        LabelSet.of(["red", "RED", "cat", "Cat", "..."])
    # The cure: one of them, which reads both.
    assert LabelSet.of(["red", "blue"]).normalise("RED") == "red"


def test_words_that_are_answers_alone_are_no_mentions_and_yield_to_labels_and_aliases() -> None:
    labels = LabelSet.of(
        ["contentment", "sadness"], {"sadness": ["blue"]}, answers={"contentment": ("content", "Blue")}
    )
    assert labels.normalise("Content.") == "contentment"
    assert labels.normalise("blue") == "sadness"
    assert labels.mentioned("The content of the picture is plain.") == []
    assert labels.mentioned("A blue mood.") == ["sadness"]
    with pytest.raises(ValueError, match="unknown labels"):
        LabelSet.of(["awe"], answers={"joy": ("glad",)})


# ---- labels in sentences


@pytest.mark.parametrize(
    ("names", "text", "found"),
    [
        (("恐惧", "敬畏"), "阴暗的森林让人感到恐惧。", ["恐惧"]),
        (("熊", "熊猫"), "图中是一只熊猫。", ["熊猫"]),
        (("パン", "米"), "パンダがいます。", []),
        (("パン", "米"), "これはパンです。", ["パン"]),
        (("กลัว", "โกรธ"), "ภาพนี้ทำให้รู้สึกกลัวมาก", ["กลัว"]),
        (("슬픔", "기쁨"), "이 그림은 슬픔을 나타낸다.", ["슬픔"]),
        (("ស្រឡាញ់", "ខឹង"), "នេះគឺខឹងណាស់", ["ខឹង"]),
        (("डर", "लाल"), "यह डर है।", ["डर"]),
        (("कुत्त", "लाल"), "यह कुत्ता है।", []),
        (("خوف", "غضب"), "هذا خوف.", ["خوف"]),
        (("hot dog", "dog"), "So it is a hot dog.", ["hot dog"]),
        (("bird", "not a bird"), "So it is not a bird.", ["not a bird"]),
    ],
)
def test_labels_are_found_in_sentences_with_and_without_spaces(
    names: tuple[str, ...], text: str, found: list[str]
) -> None:
    assert LabelSet.of(names).mentioned(text) == found


ASL = LabelSet.of([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "space"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The hand shows a closed fist.", []),
        ("A closed fist is shown.", []),
        ("I think it is this one.", []),
        ("I see a thumb, and so do I.", []),
        ("So it is S.", ["S"]),
        ("This means an A.", ["A"]),
        ("The hand forms the letter A here.", ["A"]),
        ('The sign for "B" is flat.', ["B"]),
        ("It is the sign (C), not a fist.", ["C"]),
        ("所以答案是S。", ["S"]),
    ],
)
def test_a_letter_is_a_label_only_where_it_is_said_to_be_one(text: str, found: list[str]) -> None:
    assert ASL.mentioned(text) == found


@pytest.mark.parametrize(
    ("names", "text", "found"),
    [
        (("no", "yes"), "There is no dog here.", []),
        (("no", "yes"), "So the answer is no.", ["no"]),
        (("one", "two"), "The one on the left has two wheels.", []),
        (("7", "8"), "The digit has 7 strokes in it.", []),
        (("7", "8"), "So this is an 8.", ["8"]),
        (("-5", "5"), "So the value is 5.", ["5"]),
        (("-5", "5"), "So the value is −5.", ["-5"]),
        (("5", "6"), "So the value is -5.", []),
        (("it", "us"), "It shows us a door.", []),
        (("on", "off"), "The lamp is on the table.", []),
        (("on", "off"), "So the lamp is on.", ["on"]),
    ],
)
def test_words_that_prose_is_made_of_are_labels_only_in_a_conclusion(
    names: tuple[str, ...], text: str, found: list[str]
) -> None:
    assert LabelSet.of(names).mentioned(text) == found
