"""The extraction recipe: statements, then a description that holds them, as a pair to fine-tune on."""

from __future__ import annotations

import pytest
from scripted import Scripted

from cot_builder.teachers.openai import OpenAITeacher
from pipeline.errors import UserError

DESCRIPTION = "A narrow street runs between old houses; a woman in a red coat smiles at a child near a fountain."
SAYINGS = {
    "observe": "faces, light,\n weather and what people do.",
    "statements": "- The picture shows joy.\n2. People are outdoors.\n\n- The picture shows joy.",
    "description": DESCRIPTION,
}


def test_the_pair_is_a_perception_prompt_and_a_description_that_was_shown_the_statements(tmp_path):
    build = Scripted(tmp_path, recipe="extraction")
    kept = build.settle(lambda _, q: SAYINGS[q.mode]).kept
    assert build.modes() == ["observe", "statements", "description"]
    assert [question.picture is not None for _, question in build.asked] == [False, False, True]
    assert [question.max_tokens for _, question in build.asked] == [128, 1024, 2048]
    assert kept["statements"] == ["The picture shows joy.", "People are outdoors."]
    assert "faces, light, weather and what people do." in kept["prompt"]
    assert "- People are outdoors." in build.asked[-1][1].text
    assert kept["completion"] == DESCRIPTION


def test_the_question_about_the_question_is_the_same_request_for_every_row(tmp_path):
    build = Scripted(tmp_path, recipe="extraction")
    teacher = OpenAITeacher("a", build.plan.teachers["a"], 0, 1)
    for index in range(6):
        build.settle(lambda _, q: SAYINGS[q.mode], index)
    keys = {mode: {teacher.request(q).key for _, q in build.asked if q.mode == mode} for mode in SAYINGS}
    labels = {question.row.label for _, question in build.asked}
    assert len(keys["observe"]) == 1
    # Question and answer are all it depends on.
    assert len(keys["statements"]) == len(labels)
    assert len(keys["description"]) == 6


def test_a_description_that_repeats_itself_is_rejected_and_asked_again(tmp_path):
    build = Scripted(tmp_path, recipe="extraction", attempts=2)
    loop = "A man walks along the road by the sea. " * 12
    outcome = build.settle(lambda _, q: loop if q.mode == "description" and not q.attempt else SAYINGS[q.mode])
    assert [each.reason for each in outcome.tried] == ["repetition", None]
    assert outcome.kept["attempt"] == 1


def test_no_statements_reject_the_row(tmp_path):
    build = Scripted(tmp_path, recipe="extraction")
    outcome = build.settle(lambda _, q: "" if q.mode == "statements" else SAYINGS[q.mode])
    assert outcome.reason == "no_statements"


def test_the_offline_teacher_cannot_describe(tmp_path):
    build = Scripted(tmp_path, recipe="extraction")
    build.config.write_text(build.config.read_text().replace(str(tmp_path / "a.yaml"), "attribute"))
    with pytest.raises(UserError, match="attribute is offline and cannot look at a picture"):
        _ = build.plan
