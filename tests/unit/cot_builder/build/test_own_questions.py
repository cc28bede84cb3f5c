"""Rows that each ask a question of their own: of several kinds, with several pictures or none, built, resumed, taken over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from scripted import speak

from cot_builder.__main__ import main
from cot_builder.build.plan import plan
from cot_builder.output import taken
from cot_builder.teachers.openai import OpenAITeacher, _body
from pipeline.config.loader import load
from pipeline.data.conversations import cot_columns
from pipeline.data.questions.prompting import asked_by_kind
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.scoring.kinds import chance, judge_kind
from pipeline.types import Question, Split

OPTIONS = ("left of the cup", "right of the cup")
SEEN = "A blue cup stands on a wooden table near a window."


def questions(pictures: tuple[Path, ...]) -> tuple[Question, ...]:
    one, two = pictures
    listed = f"(A) {OPTIONS[0]}\n(B) {OPTIONS[1]}"
    return (
        Question("a", (one,), f"Where is the spoon?\n{listed}", OPTIONS, "B", "letter", {"task": "place"}),
        Question("b", (two, one), "How many cups are in <image 2>?", (), "2", "number", {"task": "count"}),
        Question("c", (one,), "Is there a cup?", (), "yes", "yes_no", {"task": "count"}),
        Question(
            "d", (two,), "What colour is the cup?", (), "blue", "text", {"task": "place"}, facts={"aliases": ["azure"]}
        ),
        Question("e", (), "How many legs have two cups?", (), "0", "number", {"task": "count"}),
    )


class Run:
    """A run on `questions`, whose teachers say what `say` tells."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder, self.asked = folder, []
        pictures = (folder / "one.png", folder / "two.png")
        for path, colour in zip(pictures, ("blue", "red"), strict=True):
            Image.new("RGB", (16, 16), colour).save(path)
        rows = questions(pictures)
        task = Task("mine", ("train",), lambda _: Split(rows), asked_by_kind, judge_kind, chance)
        monkeypatch.setitem(sys.modules, "pipeline.tasks.mine", SimpleNamespace(load=lambda config, cache: task))
        for module in ("pipeline.data.load", "pipeline.checks.shared"):
            monkeypatch.setattr(f"{module}.task_names", lambda: ["mine"])
        speak(monkeypatch, self._say)
        self.task, self.rows = task, {row.id: row for row in rows}
        self.say = lambda question: reply(question.row.gold)

    def _say(self, name: str, question: Any) -> str:
        self.asked.append(question)
        return self.say(question)

    def write(self, name: str = "mine", **cot: Any) -> str:
        for teacher in ("a", "b"):
            served = {"kind": "openai", "model": f"model-{teacher}", "base_urls": ["http://localhost:9/v1"]}
            (self.folder / f"{teacher}.yaml").write_text(yaml.safe_dump(served))
        own = {} if "from" in cot else {"teachers": [str(self.folder / "a.yaml")]}
        run = {"name": name, "output_dir": str(self.folder / "runs"), "task": {"name": "mine"}}
        file = self.folder / f"{name}-run.yaml"
        file.write_text(yaml.safe_dump({**run, "cot": {"split": "train", "min_rows_per_class": 0, **own, **cot}}))
        return str(file)

    def cot(self, name: str = "mine") -> Path:
        return self.folder / "runs" / name / "cot"

    def built(self, name: str = "mine") -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in pq.read_table(self.cot(name) / "train.parquet").to_pylist()}

    def manifest(self, name: str = "mine") -> dict[str, Any]:
        return json.loads((self.cot(name) / "manifest.json").read_text())


def reply(answer: str, seen: str = SEEN, end: str = "So it follows.") -> str:
    return f"<think>{seen} {end}</think>\n<answer>{answer}</answer>"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_each_row_is_asked_its_own_question_judged_by_its_kind_and_keeps_its_prompt(run):
    said = {"a": "right of the cup", "b": "two", "c": "Yes.", "d": "Azure", "e": "0"}
    run.say = lambda question: reply(said[question.row.id], f"{SEEN} It is row {question.row.id * 9}.")
    assert main(["build", "--config", run.write()]) == 0
    asked = {question.row.id: question for question in run.asked}
    assert "Then answer with the letter of your choice." in asked["a"].text
    assert asked["a"].text.count("(B) right of the cup") == 1
    assert "Then answer with the number." in asked["b"].text
    assert [len(asked[row].pictures) for row in "abcde"] == [1, 2, 1, 1, 0]
    rows = run.built()
    # A letter, yes and no have one spelling; numbers and texts are kept as they were found right.
    assert {row: rows[row]["answer"] for row in rows} == {"a": "B", "b": "two", "c": "yes", "d": "Azure", "e": "0"}
    assert all(rows[row]["prompt"] == run.task.prompt(run.rows[row], "think") for row in rows)
    assert rows["a"]["prompt_version"] == "answer_hidden_v3"
    assert (rows["b"]["images"], rows["b"]["image"]) == (["two.png", "one.png"], "two.png")
    assert (rows["e"]["images"], rows["e"]["image"], rows["e"]["image_digest"]) == ([], "", "")
    # The pictures of b are two, so its digest is of both.
    assert len({rows["a"]["image_digest"], rows["b"]["image_digest"], rows["d"]["image_digest"]}) == 3
    before = len(run.asked)
    assert main(["build", "--config", run.write()]) == 0
    assert len(run.asked) == before


def test_yields_are_told_by_kind_and_group_and_the_card_says_what_could_not_be_asked(run, capsys):
    run.say = lambda question: (
        "No idea." if question.row.id == "b" else reply(question.row.gold, f"{SEEN} {question.row.id * 9}.")
    )
    assert main(["build", "--config", run.write(filters={"near_duplicate": None})]) == 0
    manifest = run.manifest()
    kinds = {kind: (counts["kept"], sum(counts["rejected"].values())) for kind, counts in manifest["per_class"].items()}
    assert kinds == {"letter": (1, 0), "number": (1, 1), "text": (1, 0), "yes_no": (1, 0)}
    assert manifest["per_group"] == {"task": {"count": {"kept": 2, "rejected": 1}, "place": {"kept": 2}}}
    assert (manifest["distinct_questions"], manifest["distinct_prompts"]) == (5, 4)
    assert manifest["rows_without_closed_answers"] == {"number": 2, "text": 1}
    assert (manifest["question"], manifest["labels"]) == (None, [])
    out = capsys.readouterr().out
    assert "kind" in out
    assert "5 different questions, 4 different prompts in the kept rows" in out
    card = (run.cot() / "README.md").read_text()
    assert "Each row asks its own question: 5 different questions" in card
    assert "one of no closed list (number 2, text 1)" in card
    page = (run.cot() / "gallery.html").read_text()
    assert "How many cups are in &lt;image 2&gt;?" in page
    assert "Yields per task" in page


def test_what_a_reply_says_is_read_by_the_kind_of_the_question(run):
    bad = {"a": "maybe", "b": "3", "c": "perhaps", "d": "green", "e": "none at all"}
    run.say = lambda question: reply(bad[question.row.id])
    assert main(["build", "--config", run.write()]) == 2
    lines = [json.loads(line) for line in (run.cot() / "rejected.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"] for line in lines} == {
        "a": "not_an_answer", "b": "wrong_answer", "c": "not_an_answer", "d": "wrong_answer", "e": "not_an_answer"
    }  # fmt: skip


def test_an_option_of_the_row_itself_is_another_conclusion(run):
    wrong = "So the spoon is left of the cup."
    run.say = lambda question: reply(question.row.gold, end=wrong if question.row.id == "a" else "So it follows.")
    assert main(["build", "--config", run.write(filters={"near_duplicate": None})]) == 0
    assert run.manifest()["rejected_replies_by_reason"] == {"other_conclusion": 1}


def test_votes_count_what_is_equal_and_not_what_is_spelled_alike(run):
    run.say = lambda question: reply("2.0" if question.row.id == "b" else question.row.gold)
    own = {"teachers": [str(run.folder / "a.yaml"), str(run.folder / "b.yaml")], "teachers_per_row": 2}
    assert main(["build", "--config", run.write(filters={"near_duplicate": None}, **own)]) == 0
    assert {row["agreement"] for row in run.built().values()} == {1.0}


def test_a_second_teacher_reads_without_the_conclusion_and_answers_with_the_kind(run):
    def say(question):
        return (
            question.row.gold
            if question.mode.startswith("check")
            else reply(question.row.gold, f"{SEEN} More is seen.")
        )

    run.say = say
    own = {"teachers": [str(run.folder / "a.yaml"), str(run.folder / "b.yaml")], "cross_check": {"views": ["text"]}}
    assert main(["build", "--config", run.write(filters={"near_duplicate": None}, **own)]) == 0
    checks = {question.row.id: question for question in run.asked if question.mode == "check_text"}
    assert "So it follows" not in checks["b"].text
    assert "Reply with the number and nothing else." in checks["b"].text
    assert {row: checks[row].choices for row in "abc"} == {"a": ("A", "B"), "b": (), "c": ("yes", "no")}


def test_policies_may_be_a_kinds_own(run):
    run.say = lambda question: reply(question.row.gold if question.attempt else "7")
    config = run.write(per_class={"number": {"attempts": 2}}, filters={"near_duplicate": None})
    assert main(["build", "--config", config]) == 0
    assert {row["id"] for row in run.built().values()} == {"b", "e"}
    misspelt = load(run.write(per_class={"numbers": {"attempts": 2}}))
    with pytest.raises(UserError, match="'numbers' is not a kind of answer of task mine"):
        plan(misspelt)


def test_rows_of_own_questions_are_taken_over_and_trained_on_as_they_were_asked(run):
    run.say = lambda question: reply(question.row.gold, f"{SEEN} {question.row.id * 9}.")
    assert main(["build", "--config", run.write()]) == 0
    assert main(["build", "--config", run.write("other", **{"from": str(run.folder / "runs" / "mine")})]) == 0
    assert (run.cot() / "train.parquet").read_bytes() == (run.cot("other") / "train.parquet").read_bytes()
    columns = cot_columns(run.task, tuple(run.rows.values()), run.cot("other"))
    at = columns["id"].index("b")
    # Picture 1 has no mark, so it comes first; picture 2 stands in the text.
    assert [Path(path).name for path in columns["images"][at]] == ["two.png", "one.png"]
    assert [part["type"] for part in columns["prompt"][at][0]["content"]] == ["image", "text", "image", "text"]


def test_rows_that_are_asked_otherwise_today_are_no_source(run, monkeypatch):
    run.say = lambda question: reply(question.row.gold, f"{SEEN} {question.row.id * 9}.")
    assert main(["build", "--config", run.write()]) == 0
    monkeypatch.setattr(
        "pipeline.data.questions.prompting._WANTED", {"number": "a count", "yes_no": "yes or no", "text": "a word"}
    )
    config = load(run.write("other", **{"from": str(run.folder / "runs" / "mine")}))

    with pytest.raises(UserError, match="3 of 5 rows are asked otherwise here"):
        taken.check(config)


def test_pictures_stand_at_their_marks_in_a_request(run):
    teacher = OpenAITeacher("a", plan(load(run.write())).teachers["a"], 0, 1)
    assert main(["build", "--config", run.write()]) in (0, 2)
    question = next(question for question in run.asked if question.row.id == "b")
    record = teacher.request(question).record
    content = json.loads(_body(record, ["data:two", "data:one"]))["messages"][0]["content"]
    assert [part.get("image_url", {}).get("url") for part in content] == ["data:two", None, "data:one", None]
    assert content[1]["text"].endswith("How many cups are in")
    assert len(record["image_sha256"]) == 2


def test_a_server_that_takes_fewer_pictures_than_a_row_has_is_refused(run):
    config = run.write()
    served = yaml.safe_load((run.folder / "a.yaml").read_text())
    (run.folder / "a.yaml").write_text(yaml.safe_dump({**served, "serve": {"limit-mm-per-prompt": {"image": 1}}}))
    with pytest.raises(UserError, match=r"a is served with 1 pictures a request at most .* and a row has 2"):
        plan(load(config))


def test_extraction_observes_once_per_question_and_makes_statements_of_options_in_words(run):
    def say(question):
        told = {"observe": question.text.split("?")[0].splitlines()[-1], "statements": "The spoon is there."}
        return told.get(question.mode, f"{SEEN} A spoon lies beside it, and {question.row.id * 9}.")

    run.say = say
    assert main(["build", "--config", run.write(recipe="extraction", filters={"near_duplicate": None})]) == 0
    observed = [question.text for question in run.asked if question.mode == "observe"]
    stated = {question.row.id: question.text for question in run.asked if question.mode == "statements"}
    assert len(observed) == len({*observed}) == 4
    assert "Answer: right of the cup\n" in stated["a"]
    assert "How many cups are in image 2?" in stated["b"]
    rows = run.built()
    assert run.manifest()["distinct_prompts"] == len({row["prompt"] for row in rows.values()}) == 4
    assert rows["b"]["prompt"].startswith("Describe these pictures in fine detail: their scenes")
    assert rows["a"]["prompt"].startswith("Describe this picture in fine detail: its scenes")
    # There is nothing to describe.
    assert run.manifest()["rejected_rows_by_reason"] == {"no_picture": 1}


def test_the_dry_run_and_the_preview_show_the_rows_own_questions(run, capsys):
    run.say = lambda question: reply(question.row.gold, f"{SEEN} {question.row.id * 9}.")
    config = run.write()
    assert main(["build", "--config", config, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "letter 1, number 2, text 1, yes_no 1" in said
    assert "5 different ones, such as " in said
    assert main(["preview", "--config", config, "--rows", "5"]) == 0
    assert "What colour is the cup?" in (run.cot() / "preview.html").read_text()
