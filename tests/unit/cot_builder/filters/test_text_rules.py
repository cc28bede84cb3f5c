"""The rules for a teacher's text, one by one: what each catches and, as important, what it lets pass."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from offline import EXPRESSIONS, SCENES, written

from cot_builder.filters import language
from cot_builder.filters.contradiction import contradiction
from cot_builder.filters.language import language_codes, other_language
from cot_builder.filters.near_duplicates import NearDuplicates
from cot_builder.filters.text_rules import (
    label_before_conclusion,
    leaked_phrase,
    length,
    other_conclusion,
    refusal,
    repetition,
    sentences,
    words,
)
from pipeline.scoring.labels import LabelSet


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("A dog. A cat! Why? Here…", ["A dog.", "A cat!", "Why?", "Here…"]),
        (
            "Mr. J. Smith, e.g. 3.5 feet tall, etc. and so on. End",
            ["Mr. J. Smith, e.g. 3.5 feet tall, etc. and so on.", "End"],
        ),
        ("Dogs, cats, etc. They play.", ["Dogs, cats, etc.", "They play."]),
        ("1. The sky is blue.\n2. The sea is calm.", ["1. The sky is blue.", "2. The sea is calm."]),
        ('He said "Stop!" Then he ran... away', ['He said "Stop!"', "Then he ran...", "away"]),
        ("天空很蓝。海很平静！真的？", ["天空很蓝。", "海很平静！", "真的？"]),
        ("- one\n- two\n\n***\n", ["- one", "- two"]),
        ("He has nothing, nor do I. She waits.", ["He has nothing, nor do I.", "She waits."]),
        ("", []),
        ("...", []),
    ],
)
def test_where_sentences_end(text, split):
    assert sentences(text) == split


def test_words_are_counted_in_chinese_too():
    assert words("The man's hat, “blue-ish” — and 3/4 …") == ["the", "man's", "hat", "blue-ish", "and", "3", "4"]
    assert len(words("天空很蓝。海很平静")) == 8
    assert words("- * ... —") == []


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, I cannot determine the emotion.",
        "I apologize, but I am not able to see the image.",
        "As an AI language model, I do not have feelings.",
        "I cannot identify people in images.",
        "I can't identify real people based on their faces.",
        "I won't help with this.",
        "I am unable to view the image you have uploaded.",
        "I can't see images directly.",
        "I'm just an AI.",
        "Unfortunately this goes against my guidelines.",
        "I must decline to answer this question.",
        "There's no image attached, so I will guess awe.",
        "No image was provided. Awe is a plausible guess.",
        "I don't see any image in your message, but awe is common.",
        "The image isn't visible to me, so awe is my guess.",
        "The photo didn't load, so I pick awe.",
        "Without seeing the image, I can only guess that it is awe.",
        "It is impossible to tell the emotion without seeing the picture, but awe is common.",
        "There is no image attached to your message.",
        "抱歉，我无法识别图中的人物。",
        "<think>Sorry, but I can't tell.</think><answer>awe</answer>",
    ],
)
def test_a_refusal_is_known(text):
    assert refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "The person looks sorry, and I cannot see his face.",
        "He seems sorry for what he did; she can't help him.",
        "I can't help but feel awe at the sight.",
        "I cannot help feeling small before these peaks.",
        "I cannot identify the person's expression, but the posture is slumped.",
        "I cannot see the picture on the wall clearly.",
        "I can't see the image on the screen.",
        "The man cannot assist the woman who fell.",
        "A robot stands there as an aid to the workers.",
        "Protesters march against the policy of the government.",
        "The child is unable to process what happened.",
        "A sign says sorry, we are closed.",
        "There is no picture on the wall, and I don't see any photo in the frame.",
        "Without seeing the face, the posture says enough.",
        "No image of war is shown; the photo was not taken by day.",
        "Even without seeing the picture's background, one feels the height of the peaks.",
        "A torn photo is not attached to the wall any more.",
        "There is no picture to see on the screen, and no photo was shared between them.",
        "I could not describe it better than as vast.",
    ],
)
def test_reasoning_about_what_cannot_be_seen_is_no_refusal(text):
    assert refusal(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "According to the prompt, this is joy.",
        "The given attributes point to a park.",
        "Based on the statements, a man is angry.",
        "The annotations indicate a happy face.",
        "Based on the hints this is a street.",
        "So the correct answer is awe.",
        "I was told that it is sad.",
        "People who looked at the picture answered awe.",
        "The label is given as awe.",
        "The prompt says fear.",
        "As mentioned in the statements, a dog runs.",
        "According to the notes, a dog runs.",
    ],
)
def test_talk_of_what_the_teacher_was_told_is_leakage(text):
    assert leaked_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "The statements on the banners are angry, and in the statements of the speakers there is hate.",
        "A labeled bottle stands on the right; the answer is calm.",
        "There is a hint of a smile on her face.",
        "He is given the prize and told to smile.",
        "The attributes of royalty, a crown and a sceptre, lie on a table.",
        "A question mark hangs over the door.",
    ],
)
def test_the_same_words_about_the_picture_are_none(text):
    assert leaked_phrase(text) is None


def test_a_label_is_named_too_early_in_any_of_its_spellings():
    labels = LabelSet.of(["awe", "fear"], {"awe": ["sense of wonder"]})
    assert label_before_conclusion("A sense of Wonder fills it. Peaks rise. So awe.", "awe", labels) == "awe"
    assert label_before_conclusion("It could be fear. Peaks rise. So awe.", "awe", labels) is None
    assert label_before_conclusion("Awesome peaks rise. So awe.", "awe", labels) is None
    assert label_before_conclusion("Peaks rise, so awe", "awe", labels) is None
    assert label_before_conclusion("", "awe", labels) is None


FOREIGN = {
    "de": "Ein Mann steht am Ufer und schaut auf das Meer hinaus. Das Licht ist weich und die Farben sind gedämpft.",
    "fr": "Un homme se tient au bord de la mer et regarde au loin. La lumière est douce.",
    "es": "Un hombre está de pie junto al mar y mira a lo lejos. La luz es suave.",
    "no": "En mann står ved sjøen og ser utover horisonten. Lyset er mykt og fargene er bleke.",
    "zh": "一个男人站在海边望着远方。光线柔和，色彩暗淡。这让人感到悲伤。",
    "ja": "男性が海辺に立って遠くを見ています。光は柔らかく、色は淡いです。",
    "ru": "Мужчина стоит на берегу моря и смотрит вдаль. Свет мягкий, а цвета приглушённые.",
}
ENGLISH = "A man stands by the sea and looks into the distance. The light is soft and the colors are pale."


@pytest.mark.parametrize("code", FOREIGN)
def test_each_language_is_itself_and_not_english(code):
    assert other_language(FOREIGN[code], code) is None
    assert other_language(FOREIGN[code], "en")
    assert other_language(ENGLISH, code)
    assert other_language(ENGLISH, "en") is None


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("The scene is street. The face is neutral. This suggests awe.", False),
        ("The sign over the shop door says 危险 in red.", False),
        ("The man stands at the cliff. 他看起来很悲伤。So awe.", True),
        ("悲伤的人。", True),
        ("Грустно.", True),
        # Too short for anything but its script.
        ("Un uomo.", False),
        ("", False),
        ("12 34 !!", False),
    ],
)
def test_short_and_mixed_texts_are_judged_by_their_script(text, foreign):
    assert bool(other_language(text, "en")) == foreign


def test_the_clipped_english_of_templates_is_english():
    values = [(s, e, b) for s in SCENES for e in (*EXPRESSIONS, "neutral", "smiling") for b in (0.1, 0.9)]
    texts = {
        written({"scene": scene, "facial_expression": face, "brightness": light, "object": ["Kayak"]}, seed=seed)
        for seed, (scene, face, light) in enumerate(values)
    }
    assert len(texts) > 50
    assert [text for text in texts if other_language(text, "en")] == []


def test_an_unknown_language_code_can_be_found_out():
    assert {"en", "de", "fr", "es", "zh", "ja", "ru"} <= language_codes()
    assert not {"english", "xx", "zxx", ""} & language_codes()
    assert language_codes() == set(language._identifier().labels) - {"zxx"}


def test_length_counts_words():
    assert length("one two three", 3, 3) is None
    assert length("one two", 3, 9) == ("too_short", "2 words")
    assert length("- one two three!", 1, 2) == ("too_long", "3 words")


def test_repetition_catches_loops_and_lets_prose_pass():
    assert repetition(ENGLISH, 0.3) is None
    # Too short to judge.
    assert repetition("The sea is calm. The sky is calm. The sea is calm.", 0.0) is None
    assert repetition("The sea is calm. A man. The sea is calm. The sea is calm!", 0.3)
    assert repetition("A man waits" + "." * 40, 0.3)
    assert repetition("the man on the left looks at " * 8, 0.3)
    assert repetition("the man on the left looks at " * 8, 1.0) is None
    assert repetition("他很高兴" * 10, 0.3)
    half = " ".join(f"w{n}" for n in range(30)) + " " + " ".join(f"w{n}" for n in range(10))
    # 14 of 37 4-grams
    assert repetition(half, 0.3)
    assert repetition(half, 0.5) is None


@given(st.text() | st.text("the light is drkbg.,' ", max_size=80))
@example("\ud800\x00")
def test_no_rule_raises_on_any_text(text):
    anything = {"brightness": 0.9, "colorfulness": 0.1, "scene": "beach", "facial_expression": "sad", "object": ["Dog"]}
    assert all(words(sentence) is not None for sentence in sentences(text))
    rules = (
        refusal,
        leaked_phrase,
        lambda t: repetition(t, 0.3),
        lambda t: other_language(t, "en"),
        lambda t: contradiction(t, anything),
    )
    assert all(found is None or isinstance(found, str) for found in (rule(text) for rule in rules))
    NearDuplicates(0.9).repeats(text)


@pytest.mark.parametrize(
    ("think", "found"),
    [
        ("The face is neutral. So the feeling is fear.", "fear"),
        ("The face is neutral. So the feeling is wonder.", None),
        ("It could be fear at first. Together they suggest awe.", None),
        ("Tall peaks. This suggests awe rather than fear.", None),
        ("Tall peaks. It is not fear.", None),
        ("Tall peaks. It doesn't show fear.", None),
        ("Tall peaks. Awe and fear mix here.", None),
        ("Tall peaks. The sky is wide.", None),
        ("Fear.", "fear"),
        ("", None),
        ("The sky is dark. Therefore the emotion is fear. This is my final answer.", "fear"),
        ("The sky is dark. The dominant emotion conveyed is fear.\n\nFinal answer below.", "fear"),
        ("The sky is dark. So it must be fear, a strong one. The colors support this reading.", "fear"),
        ("The sky is dark. Thus it is fear and not awe. All details support it.", "fear"),
        # It only passes by, is denied, or is taken back.
        ("The dark wood evokes fear. Light falls on wide peaks behind it.", None),
        ("Some would say the emotion is fear. However, the peaks are wide and bright.", None),
        ("Therefore fear is what one may expect here, or awe. The peaks are wide.", None),
        ("Therefore it is not fear. The peaks are wide.", None),
        ("The feeling is one of fear at first. This suggests awe. The peaks are wide.", None),
        # It is one point of several, somebody else's reading, or ruled out behind its name.
        ("The sky is vast. Finally, the dark wood adds a touch of fear. The whole scene is grand.", None),
        ("One might think the mood is fear. The bright peaks say what it is.", None),
        ("At first glance the emotion is fear. The light on the peaks tells more.", None),
        ("The label fear is ruled out by the light. The peaks are wide.", None),
        ("The option is fear, which does not fit. The peaks are wide.", None),
        ("Thus any fear is gone. The peaks are wide.", None),
        ("The only emotion that is absent is fear. The peaks are wide.", None),
        ("Hence the fear in his eyes is small. The peaks are wide.", None),
    ],
)
def test_a_conclusion_that_is_not_the_answer_is_found(think, found):
    labels = LabelSet.of(["awe", "fear"], {"awe": ["wonder"]})
    assert other_conclusion(think, "awe", labels) == found


ASL = LabelSet.of([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
SMALL = LabelSet.of(["a", "bird", "not a bird", "don't know"])


@pytest.mark.parametrize(
    ("labels", "think", "answer", "found"),
    [
        (ASL, "The thumb lies over the fingers. The hand shows a closed fist.", "S", None),
        (ASL, "A fist is closed. I think it is this one.", "S", None),
        (ASL, "The thumb lies beside the fingers. So it is A.", "S", "A"),
        (ASL, "The thumb lies over the fingers. So it is S.", "S", None),
        (SMALL, "It has wheels and no wings. So this is not a bird.", "not a bird", None),
        (SMALL, "It has a beak and wings. So this is a bird.", "bird", None),
        (SMALL, "It has a beak and wings. So this is a bird.", "not a bird", "bird"),
        (SMALL, "It is a blur. So I don't know.", "don't know", None),
        (SMALL, "It is not a real bird, but a toy.", "not a bird", None),
        (LabelSet.of(["no", "yes"]), "There is no dog on the grass.", "yes", None),
        (LabelSet.of(["恐惧", "敬畏"]), "森林很暗。这让人感到恐惧。", "敬畏", "恐惧"),
        (LabelSet.of(["恐惧", "敬畏"]), "山很高。这不是恐惧，而是敬畏。", "敬畏", None),
        (LabelSet.of(["恐怖", "畏敬"]), "山は高い。恐怖ではなく畏敬です。", "畏敬", None),
        (LabelSet.of(["डर", "क्रोध"]), "जंगल अंधेरा है। यह डर है।", "क्रोध", "डर"),
        (LabelSet.of(["두려움", "기쁨"]), "숲이 어둡다. 이것은 두려움을 준다.", "기쁨", "두려움"),
    ],
)
def test_labels_that_are_words_or_stand_in_other_scripts_reject_no_good_reasoning(labels, think, answer, found):
    assert other_conclusion(think, answer, labels) == found


def test_an_article_is_no_leak_of_the_label_a():
    text = "A hand is shown. It makes a fist and the thumb lies beside it. So it is A."
    assert label_before_conclusion(text, "A", ASL) is None
    assert label_before_conclusion("The hand forms the letter A. So it is A.", "A", ASL) == "A"
    assert label_before_conclusion("这里有恐惧。所以是恐惧。", "恐惧", LabelSet.of(["恐惧", "敬畏"])) == "恐惧"


@pytest.mark.parametrize("mark", "।۔؟።။។")
def test_sentences_end_at_the_stops_of_other_scripts(mark):
    assert sentences(f"एक{mark} दो{mark}") == [f"एक{mark}", f"दो{mark}"]
