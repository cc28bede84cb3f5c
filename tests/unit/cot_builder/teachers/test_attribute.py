"""The offline teacher: what it writes, and that its declared imperfections come at their declared rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from cot_builder.prompts import load_prompt
from cot_builder.teachers.attribute import AttributeTeacher, describe
from cot_builder.teachers.base import TeacherQuestion
from cot_builder.teachers.config import AttributeConfig, load_teacher
from pipeline.scoring.response import Malformed, parse
from pipeline.tasks.emoset import EMOTIONS
from pipeline.tasks.scenes import RULE
from pipeline.types import Question, labelled_image

ROWS = [
    labelled_image(f"row_{i}", Path("none.jpg"), RULE[key], {"scene": key[0], "facial_expression": key[1]})
    for i in range(250)
    for key in RULE
]
ROWS = [labelled_image(f"{row.id}_{row.gold}", row.images[0], row.gold, row.attributes) for row in ROWS]
PROMPT = load_prompt("answer_hidden_v1")


def question(row: Question, attempt: int = 0) -> TeacherQuestion:
    return TeacherQuestion(row, "answer_hidden", attempt, PROMPT, "")


def replies(run_seed: int = 0, rows: list[Question] = ROWS, attempt: int = 0, **options: object) -> list[str]:
    teacher = AttributeTeacher("t", AttributeConfig(**options), rows, run_seed)  # type: ignore[arg-type]
    requests = [teacher.request(question(row, attempt)) for row in rows]
    return [
        teacher.write(request.record["attributes"], row.gold, request.record["seed"])
        for row, request in zip(rows, requests, strict=True)
    ]


def test_the_same_seed_writes_the_same_and_another_does_not():
    assert replies() == replies()
    assert replies() != replies(run_seed=1)
    assert replies() != replies(seed=1)
    assert replies() != replies(attempt=1)


def test_an_annotation_that_no_file_can_hold_costs_no_build():
    row = labelled_image("odd", Path("none.jpg"), "awe", {"scene": "bea\ud800ch"})
    (reply,) = replies(rows=[row])
    assert reply.encode()


def test_a_row_is_written_about_in_the_same_way_whatever_the_other_rows_are():
    assert replies()[:10] == replies(rows=ROWS[:10])


def test_a_perfect_teacher_names_the_attributes_and_answers_with_the_label():
    for row, reply in zip(ROWS, replies(), strict=True):
        response = parse(reply)
        assert not isinstance(response, Malformed)
        assert response.answer == row.gold
        assert all(value in response.think for value in row.attributes.values())
        assert len(reply.split()) <= 20


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_confusion_hits_only_its_labels_at_its_rate(rate):
    answers = [parse(reply).answer for reply in replies(confusions={"awe": "fear"}, confusion_rate=rate)]
    confused = [answer for row, answer in zip(ROWS, answers, strict=True) if row.gold == "awe"]
    assert all(a == row.gold for row, a in zip(ROWS, answers, strict=True) if row.gold != "awe")
    # 3 standard errors of 250 rows
    assert confused.count("fear") / len(confused) == pytest.approx(rate, abs=0.09)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_forgotten_thinking_comes_at_its_rate(rate):
    parsed = [parse(reply) for reply in replies(omit_think_rate=rate)]
    forgotten = sum(isinstance(response, Malformed) and response.reason == "no_think" for response in parsed)
    assert forgotten / len(parsed) == pytest.approx(rate, abs=0.04)


def test_misreading_names_one_wrong_value_that_occurs_and_keeps_the_label():
    wrong = 0
    for row, reply in zip(ROWS, replies(misread_rate=0.4), strict=True):
        response = parse(reply)
        assert response.answer == row.gold
        missing = [value for value in row.attributes.values() if value not in response.think]
        assert len(missing) <= 1
        wrong += len(missing)
        if missing:
            assert any(
                value in response.think for value in {v for r in ROWS for v in r.attributes.values()} - set(missing)
            )
    assert wrong / len(ROWS) == pytest.approx(0.4, abs=0.04)


def test_changing_one_rate_leaves_the_other_choices_alone():
    plain, forgetful = replies(), replies(omit_think_rate=0.2)
    assert all(a == b for a, b in zip(plain, forgetful, strict=True) if "<think>" in b)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scene", "amusement_park/outdoor", "amusement park outdoor"),
        ("object", ["Dog", "tree", "dog", "apple", "car"], "a dog and a tree and an apple"),
        ("object", "dog", "a dog"),
        ("object", [], None),
        ("object", {"a": 1}, None),
        ("brightness", 0.1, "dark"),
        ("brightness", 0.5, None),
        ("brightness", 0.9, "bright"),
        ("brightness", "high", None),
        ("colorfulness", 0.0, "muted"),
        ("colorfulness", True, None),
        ("human_action", "riding_bike", "riding bike"),
        ("facial_expression", "", None),
        ("facial_expression", "</think>", None),
        ("scene", None, None),
        ("scene", 7, None),
    ],
)
def test_how_attributes_are_said(name, value, said):
    assert describe(name, value) == said


def test_a_picture_without_attributes_still_gets_a_well_formed_reply():
    row = labelled_image("x", Path("none.jpg"), "awe", {})
    (reply,) = replies(rows=[row], misread_rate=1.0)
    assert parse(reply).answer == "awe"


def test_the_demo_teacher_is_biased_as_its_file_declares():
    config = load_teacher("attribute_biased")
    assert isinstance(config, AttributeConfig)
    assert set(config.confusions) == {"amusement", "awe", "fear", "disgust"}
    assert set(config.confusions.values()) <= set(EMOTIONS)
    assert (config.confusion_rate, config.omit_think_rate) == (0.92, 0.1)


def test_without_annotations_it_says_the_description_of_the_class():
    row = labelled_image("a", Path("a.png"), "coat")
    config = AttributeConfig(attributes=["description"])
    teacher = AttributeTeacher("t", config, [row], 0, {"coat": "an open front"})
    request = teacher.request(question(row))
    text = teacher.write(request.record["attributes"], "coat", request.record["seed"])
    assert "an open front" in text
    assert text.endswith("<answer>coat</answer>")
    other = AttributeTeacher("t", config, [row], 0, {"coat": "buttons"})
    assert other.request(question(row)).key != request.key


def test_what_to_observe_of_a_question_are_the_objects_it_names_and_without_any_all_there_is_to_see():
    rows = [
        Question(
            "a", (), "Is the red ball left of the cube?", answer="yes", attributes={"object": ["red ball", "cube"]}
        )
    ]
    rows.append(Question("b", (), "How many are there?", answer="2", attributes={"object": "ball"}))
    teacher = AttributeTeacher("t", AttributeConfig(attributes=("object", "scene")), rows, 0, own_answers=True)
    asked = [teacher.request(TeacherQuestion(row, "observe", 0, PROMPT, "")) for row in rows]
    assert [teacher._reply(request.record) for request in asked] == [
        # "ball" is annotated too.
        "the red ball, the cube",
        "the objects, the place",
    ]
