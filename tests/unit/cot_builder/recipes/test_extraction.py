"""The extraction recipe: statements, then a description that holds them, as a pair to fine-tune on."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from scripted import Scripted

from cot_builder.__main__ import main
from cot_builder.teachers.openai import OpenAITeacher
from pipeline.config.loader import load
from pipeline.data.contents import read_contents
from pipeline.errors import UserError
from pipeline.files import digest
from pipeline.runs.phases import phase_inputs

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
    assert [bool(question.pictures) for _, question in build.asked] == [False, False, True]
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
    labels = {question.row.gold for _, question in build.asked}
    assert len(keys["observe"]) == 1
    # Question and answer are all it depends on.
    assert len(keys["statements"]) == len(labels)
    assert len(keys["description"]) == 6


def test_what_to_observe_is_not_asked_of_a_teacher_with_a_quota(tmp_path):
    build = Scripted(tmp_path, teachers=2, recipe="extraction", quotas={"a": 1})
    for index in range(6):
        build.settle(lambda _, q: SAYINGS[q.mode], index)
    assert {name for name, question in build.asked if question.mode == "observe"} == {"b"}
    with pytest.raises(UserError, match="one teacher is asked what to observe for all questions, and each has a quota"):
        _ = Scripted(tmp_path, teachers=2, rows=4, recipe="extraction", quotas={"a": 4, "b": 4}).plan


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


def test_a_teacher_without_statements_is_asked_for_them_once_and_the_other_goes_on(tmp_path):
    build = Scripted(tmp_path, recipe="extraction", attempts=3, teachers=2, teachers_per_row=2)
    silent = build.plan.assigned[0][0]
    loop = "A man walks along the road by the sea. " * 12

    def say(name, question):
        if question.mode == "description":
            return loop
        return "" if (name, question.mode) == (silent, "statements") else SAYINGS[question.mode]

    outcome = build.settle(say)
    assert [each.reason for each in outcome.tried] == ["no_statements", *["repetition"] * 3]
    assert [name for name, question in build.asked if question.mode == "statements"].count(silent) == 1


def test_the_walker_cannot_describe(tmp_path):
    build = Scripted(tmp_path, recipe="extraction")
    build.config.write_text(build.config.read_text().replace(str(tmp_path / "a.yaml"), "walker"))
    with pytest.raises(UserError, match="walker describes no picture"):
        _ = build.plan


def test_the_offline_teacher_describes_what_is_annotated_and_the_contents_can_be_asked_for_again(tmp_path, capsys):
    build = Scripted(tmp_path, recipe="extraction", rows=6, min_rows_per_class=0)
    build.config.write_text(build.config.read_text().replace(str(tmp_path / "a.yaml"), "attribute"))
    assert main(["build", "--config", str(build.config)]) == 0
    cot = tmp_path / "runs" / "scripted" / "cot"
    rows = pq.read_table(cot / "train.parquet").to_pylist()
    assert len(rows) == 6
    known = {row.id: row.attributes for row in build.plan.split.rows}
    assert all(known[row["id"]]["scene"].replace("_", " ") in row["completion"] for row in rows)
    observe = "the place, the objects, the face, the action, the light, the colors"
    assert {row["prompt"].partition("especially ")[2] for row in rows} == {f"{observe}."}
    found = read_contents("contents", str(cot / "contents.json"))
    assert found.find("any", build.plan.task.question) == observe
    assert "1 different prompts in the kept rows" in capsys.readouterr().out


def test_a_file_says_what_to_observe_in_the_place_of_a_teacher(tmp_path):
    file = tmp_path / "contents.json"
    question = Scripted(tmp_path, recipe="extraction").plan.task.question
    build = Scripted(tmp_path, recipe="extraction", rows=2, contents=str(file))
    file.write_text(json.dumps({question: "faces", "nobody's": "hands"}))
    kept = build.settle(lambda _, q: SAYINGS[q.mode]).kept
    assert build.modes() == ["statements", "description"]
    assert kept["observe"] == "faces"
    assert "especially faces." in kept["prompt"]
    assert "especially faces." in build.asked[-1][1].text


def test_rows_that_the_file_leaves_out_are_refused_before_anybody_is_asked(tmp_path):
    file = tmp_path / "contents.json"
    build = Scripted(tmp_path, recipe="extraction", rows=2, contents=str(file))
    file.write_text(json.dumps({"nobody's": "hands"}))
    with pytest.raises(UserError, match=r"cot\.contents: 2 of 2 rows have no entry"):
        _ = build.plan
    with pytest.raises(UserError, match="read by the extraction recipe alone"):
        _ = Scripted(tmp_path, rows=2, contents=str(file)).plan


def test_templates_of_a_user_take_the_place_of_ours_and_their_digest_stands_in_the_row(tmp_path):
    ours = Scripted(tmp_path, recipe="extraction")
    ours.settle(lambda _, q: SAYINGS[q.mode])
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "describe_v1.jinja").write_text("Say all you see.{% for each in statements %} {{ each }}{% endfor %}")
    (folder / "perceive_v1.jinja").write_text("Mind {{ observe }}.")
    build = Scripted(tmp_path, recipe="extraction", prompts=str(folder))
    kept = build.settle(lambda _, q: SAYINGS[q.mode]).kept
    assert build.asked[-1][1].text == "Say all you see. The picture shows joy. People are outdoors."
    assert kept["prompt"] == "Mind faces, light, weather and what people do."
    assert kept["prompt_version"].startswith("describe_v1@")
    teacher = OpenAITeacher("a", build.plan.teachers["a"], 0, 1)
    keys = [{teacher.request(q).key for _, q in each.asked} for each in (ours, build)]
    # What to observe and the statements are asked in our words still.
    assert len(keys[0] & keys[1]) == 2


def test_what_a_user_brings_is_part_of_what_the_rows_depend_on_wherever_it_lies(tmp_path):
    def inputs(place, words="Mind {{ observe }}.", contents="faces"):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        (folder / "perceive_v1.jinja").write_text(words)
        (folder / "contents.json").write_text(json.dumps({"a": contents}))
        brings = {"prompts": str(folder), "contents": str(folder / "contents.json")}
        return digest(phase_inputs(load(Scripted(tmp_path, recipe="extraction", **brings).config), "cot"))

    assert inputs("here") == inputs("there")
    others = [inputs("here", words="Note {{ observe }}."), inputs("there", contents="hands"), inputs("third")]
    assert len({*others}) == 3
