"""Caption-think and extract-think: who sees what, what is asked once, and how an answer is had from a thought."""

from __future__ import annotations

import dataclasses
import json

import pytest
from lab_fakes import ROWS, Lab, Scripted, record, rows

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.data.questions.image_marks import split_at_marks
from pipeline.errors import UserError
from pipeline.types import Question
from stages.evaluation import prompts
from stages.evaluation.backends.base import Generation

OBSERVE = "You will not see any picture"


def describe(ask):
    return f"The scene is a park. Nobody waves. ({len(ask.images)} pictures)"


def reason(ask):
    return "places, faces." if ask.text.startswith(OBSERVE) else "A park.\nAnswer: awe"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    models = {"eyes": Scripted(describe), "brain": Scripted(reason), "other": Scripted(reason)}
    return Lab(tmp_path, monkeypatch, models, reasoners=["brain", "other"], modes=["caption-think", "extract-think"])


def test_the_reasoner_reads_the_description_and_never_a_picture(lab):
    found = rows(lab.run(0))
    assert len(found) == ROWS
    assert {row["label"] for row in found} == {"awe"}
    assert all("The scene is a park." in row["prompt"] and row["description"] in row["prompt"] for row in found)
    assert all(ask.images == () for ask in lab.models["brain"].asked)
    assert all(len(ask.images) == 1 for ask in lab.models["eyes"].asked)
    assert {row["description_prompt"] for row in found} == {prompts.perceive(1)}


def test_what_to_observe_is_asked_once_per_question_and_stands_in_the_perception_prompt(lab):
    found = rows(lab.run(2))
    asked = [ask for ask in lab.models["brain"].asked if ask.text.startswith(OBSERVE)]
    assert len(asked) == 1
    assert all(row["description_prompt"].endswith("and especially places, faces.") for row in found)


def test_a_second_reasoner_reads_the_same_descriptions_without_asking_again(lab):
    lab.run(2)
    before = len(lab.models["eyes"].asked)
    found = rows(lab.run(3))
    assert len(lab.models["eyes"].asked) == before == ROWS
    assert not [ask for ask in lab.models["other"].asked if ask.text.startswith(OBSERVE)]
    assert len(found) == ROWS


def test_a_direct_reasoner_reads_the_same_description_and_answers_at_once(tmp_path, monkeypatch):
    def brain(ask):
        if ask.said:
            return " fear"
        if ask.text.startswith(OBSERVE):
            return "places, faces."
        if "Do not explain" not in ask.text:
            return "A park.\nAnswer: awe"
        # A thinking model is cut in its thought, once; another ends without the word that was asked for.
        if len(brain.direct) == 0:
            brain.direct.append(ask)
            return Generation(ask.id, "<think>well, the", tokens=32, truncated=True)
        return "Answer: awe" if len(brain.direct.append(ask) or brain.direct) % 2 else "awe"

    brain.direct = []
    models = {"eyes": Scripted(describe), "brain": Scripted(brain)}
    modes = ["extract-think", "extract-direct"]
    lab = Lab(tmp_path, monkeypatch, models, reasoners=["brain"], modes=modes)
    thought = {row["id"]: row for row in rows(lab.run(0))}
    looked = len(lab.models["eyes"].asked)
    found = rows(lab.run(1))
    assert len(lab.models["eyes"].asked) == looked == ROWS
    assert all(row["description"] == thought[row["id"]]["description"] for row in found)
    assert sorted(row["label"] for row in found) == ["awe"] * (ROWS - 1) + ["fear"]
    assert {row["style"] for row in found} == {"direct"}
    hows = [
        how
        for ask, how in zip(lab.models["brain"].asked, lab.models["brain"].hows, strict=True)
        if "Do not explain" in ask.text
    ]
    assert {(how.max_new_tokens, how.temperature) for how in hows} == {(32, 0.0)}
    cut = next(row for row in found if row["label"] == "fear")
    assert cut["completion"] == "<think>well, the\n</think>\n\nAnswer: fear"


def test_reasoners_draw_with_the_paper_s_sampling_and_a_seed_per_row(lab):
    lab.run(0)
    how = lab.models["brain"].hows[0]
    assert (how.temperature, how.top_p) == (0.6, 0.95)
    assert len({ask.seed for ask in lab.models["brain"].asked}) == ROWS


def test_a_thought_that_does_not_end_is_closed_and_must_answer(tmp_path, monkeypatch):
    def endless(ask):
        if ask.said:
            assert ask.said.endswith("</think>\n\nAnswer:")
            return " fear"
        return Generation(ask.id, "<think>and then and then", tokens=512, truncated=True)

    lab = Lab(
        tmp_path,
        monkeypatch,
        {"eyes": Scripted(describe), "brain": Scripted(endless)},
        reasoners=["brain"],
        modes=["caption-think"],
    )
    found = rows(lab.run())
    assert {(row["label"], row["truncated"]) for row in found} == {("fear", True)}
    assert found[0]["completion"] == "<think>and then and then\n</think>\n\nAnswer: fear"


def test_without_reasoners_a_model_reasons_over_its_own_text(tmp_path, monkeypatch):
    model = Scripted(lambda ask: describe(ask) if ask.images else reason(ask))
    found = rows(Lab(tmp_path, monkeypatch, {"m": model}, modes=["extract-think"]).run())
    assert {row["label"] for row in found} == {"awe"}


def test_an_answer_that_does_not_come_is_a_counted_wrong_row(tmp_path, monkeypatch):
    lab = Lab(
        tmp_path,
        monkeypatch,
        {"eyes": Scripted(describe), "brain": Scripted(lambda ask: "Who knows?")},
        reasoners=["brain"],
        modes=["caption-think"],
    )
    assert record(lab.run())["reasons"] == {"no_answer": ROWS}


def test_the_description_itself_is_scored_where_the_picture_is_annotated(lab):
    folder = lab.run(0)
    scored, found = record(folder)["perception"], rows(folder)
    parks = sum(row["attributes"]["scene"] == "park" for row in found)
    assert (scored["scene"]["precision"]["count"], scored["scene"]["precision"]["n"]) == (parks, ROWS)
    assert (scored["scene"]["recall"]["count"], scored["scene"]["recall"]["n"]) == (parks, ROWS)
    assert scored["facial_expression"]["recall"]["count"] == 0


def test_a_file_says_what_to_observe_and_nobody_is_asked(lab, tmp_path):
    file = tmp_path / "contents.json"
    task = lab.config.tasks["scenes"]
    lab.config.tasks["scenes"] = dataclasses.replace(task, contents=str(file))
    file.write_text(json.dumps({"elsewhere": "hands"}))
    with pytest.raises(UserError, match=f"tasks.scenes.contents: {ROWS} of {ROWS} rows have no entry"):
        lab.run(2)
    question = load_task(task.task, tmp_path / ".cache").question
    file.write_text(json.dumps({question: "faces"}))
    found = rows(lab.run(2))
    assert all(row["description_prompt"].endswith("and especially faces.") for row in found)
    assert not [ask for ask in lab.models["brain"].asked if ask.text.startswith(OBSERVE)]
    file.write_text(json.dumps({question: "hands"}))
    with pytest.raises(UserError, match="contents"):
        lab.run(2)


def test_templates_of_a_user_ask_in_the_place_of_ours(lab, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "observe_v1.jinja").write_text(OBSERVE + ": {{ question }}")
    (folder / "perceive_v1.jinja").write_text("{{ images }} to describe. Mind {{ observe }}.")
    (folder / "reason_v1.jinja").write_text(
        "{{ description }} {{ question }} {{ options[0].name }}: Answer: {{ form }}"
    )
    lab.config = dataclasses.replace(lab.config, prompts=str(folder))
    found = rows(lab.run(2))
    assert {row["description_prompt"] for row in found} == {"1 to describe. Mind places, faces."}
    assert all(row["prompt"].startswith(row["description"]) for row in found)
    assert all(row["prompt"].endswith(" amusement: Answer: one of the options, word for word") for row in found)
    assert {*record(lab.folder(2))["inputs"]["own_prompts"]} == {*prompts.NAMES}
    (folder / "reason_v1.jinja").write_text("{{ description }} {{ question }}")
    with pytest.raises(UserError, match="own_prompts"):
        lab.run(2)


def test_a_killed_describer_goes_on(lab):
    lab.models["eyes"].dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        lab.run(0)
    lab.models["eyes"].dies_after, lab.models["eyes"].asked = None, []
    lab.run(0)
    assert len(lab.models["eyes"].asked) == ROWS - 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("I see a dog.\nAnswer: B", "B"),
        ("**Answer:** (B)\n", "(B)"),
        ("Answer: A? No.\nFinal answer: C", "C"),
        ("<think>Answer: A</think>\nAnswer: B", "B"),
        ("<think>Answer: A</think>", None),
        ("<think>Answer: A", None),
        ("Answer:", None),
        ("The answer is B", None),
        ("", None),
        ("<think>a dog</think><answer>B</answer>", "B"),
        ("Answer: two words here", "two words here"),
        ("It is big.\n**Answer:**\nB", "B"),
        ("It is big.\n### Answer:\n\n**B**\n\nAsk again.", "B"),
        ("**Final Answer**: B", "B"),
        ("It is big. Answer: B", "B"),
        ("Answer: B\nI gave the answer: see above", "B"),
        ("<think>Answer: A</think> Answer: B\nI gave the answer: see above", "B"),
        ("Answer: A? No.\nTherefore, the correct answer: C", "C"),
        ("Answer: A\n\nWait, so the correct answer: B", "B"),
        ("Answer: A\nLet me recheck. I was wrong; the final answer: B", "B"),
        ("I considered\nAnswer: A would need a dog.\nBut no dog, therefore answer: B", "B"),
        ("Answer: B\nA dog would make A. It is not the correct answer: it barks.", "B"),
        ("Answer: B\nThat isn't the correct answer: A", "B"),
        ("Answer:\n\n", None),
    ],
)
def test_the_answer_is_what_stands_behind_the_last_answer_line(text, answer):
    assert prompts.final_answer(text)[1] == answer


def test_the_prompts_are_those_the_extraction_recipe_trains_on(tmp_path, repo_root):
    from cot_builder.prompts import load_prompt

    task = load_task(TaskConfig(name="scenes", options={"train": 1, "val": 1, "test": 1, "size": 32}), tmp_path)
    row = question = Question("a", (), task.question)
    ours = prompts.observe(prompts.asked(task, question))
    assert ours.split() == load_prompt("observe_v1").render(task, row).split()
    assert prompts.perceive(1, "faces") == load_prompt("perceive_v1").render(task, row, observe="faces")


@pytest.mark.parametrize(
    ("text", "images", "found"),
    [
        ("What is it?", 1, [0, "What is it?"]),
        ("What is it?", 0, ["What is it?"]),
        ("In <image 1> and <image 2>?", 2, ["In", 0, "and", 1, "?"]),
        ("<image 2> before <image 1>", 2, [1, "before", 0]),
        ("Only <image 2> is marked", 3, [0, 2, "Only", 1, "is marked"]),
        ("<image 1> and again <image 1>", 1, [0, "and again image 1"]),
        ("<image 9>?", 1, [0, "image 9?"]),
    ],
)
def test_pictures_stand_where_their_marks_do(text, images, found):
    assert split_at_marks(text, images) == found


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (" A dog.\n", "A dog."),
        ("<think>\nIt is furry.</think>\n\nA dog.", "A dog."),
        ("<think>It is furry", "It is furry"),
        ("<think>a</think>b</think> A dog.", "A dog."),
        ("A sign says <think> and </think>.", "A sign says <think> and </think>."),
        ("<think></think>", ""),
    ],
)
def test_others_read_what_stands_behind_a_thought(text: str, spoken: str) -> None:
    assert Generation("1", text).spoken() == spoken
