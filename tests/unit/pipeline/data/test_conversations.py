"""Examples as trainer columns: the right picture under every completion."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.conversations import cot_columns, grpo_columns, in_order, label_columns, user_turn
from pipeline.data.questions.image_marks import pictures_first
from pipeline.data.task import labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Split, labelled_image

TRAIN = (labelled_image("1", Path("train/1.png"), "cat"), labelled_image("2", Path("train/2.png"), "dog"))
TEST = (labelled_image("1", Path("test/1.png"), "dog"),)
SPLITS = {"train": TRAIN, "test": TEST}
TASK = labelled_task("t", LabelSet.of(["cat", "dog"]), "Which?", ("train", "test"), lambda name: Split(SPLITS[name]))
TRAIN, TEST = TASK.read("train").rows, TASK.read("test").rows


def built(folder: Path, rows: list[tuple[str, str]]) -> Path:
    said = [f"<think>a {row[1]}</think><answer>{row[1]}</answer>" for row in rows]
    columns = {"id": [row[0] for row in rows], "label": [row[1] for row in rows], "completion": said}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return folder


def test_a_cot_row_keeps_its_picture_when_another_split_has_the_same_id(tmp_path: Path) -> None:
    columns = cot_columns(TASK, TRAIN, built(tmp_path, [("2", "dog"), ("1", "cat")]))
    assert columns["images"] == [["train/2.png"], ["train/1.png"]]
    texts = [turn[0]["content"][0]["text"] for turn in columns["completion"]]
    assert [text[7:12] for text in texts] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("Whiskers.", r"1 of 1 rows do not answer with their label, .*first: 1, no_think"),
        ("<think>a dog</think><answer>dog</answer>", r"first: 1, dog\), and bring no prompt"),
    ],
)
def test_rows_that_bring_no_prompt_and_do_not_answer_the_question_are_refused(tmp_path: Path, said, part) -> None:
    pq.write_table(pa.table({"id": ["1"], "label": ["cat"], "completion": [said]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=part):
        cot_columns(TASK, TRAIN, tmp_path)


def test_a_row_that_brings_its_own_prompt_is_asked_that_one(tmp_path: Path) -> None:
    columns = {"id": ["1"], "label": ["cat"], "completion": ["Whiskers."], "prompt": ["Describe the picture."]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    built_rows = cot_columns(TASK, TRAIN, tmp_path)
    assert [turn[0]["content"][1]["text"] for turn in built_rows["prompt"]] == ["Describe the picture."]


@pytest.mark.parametrize("row", [("3", "cat"), ("1", "dog")])
def test_a_cot_row_without_its_picture_or_with_another_label_is_refused(tmp_path: Path, row: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=f"1 rows .*first: {row[0]}"):
        cot_columns(TASK, TRAIN, built(tmp_path, [("2", "dog"), row]))


def test_the_baseline_learns_the_bare_label_and_rewards_see_the_gold_one() -> None:
    labels = label_columns(TASK, TRAIN)
    assert [turn[0]["content"][0]["text"] for turn in labels["completion"]] == ["cat", "dog"]
    assert "<think>" not in labels["prompt"][0][0]["content"][1]["text"]
    rewards = grpo_columns(TASK, TRAIN, "think")
    assert rewards["answer"] == ["cat", "dog"]
    assert json.loads(rewards["question"][0]) == {"text": "Which?", "options": [], "kind": "label", "facts": {}}
    assert rewards["style"] == ["think", "think"]
    assert "<think>" in rewards["prompt"][0][0]["content"][1]["text"]


def test_pictures_are_put_at_their_marks_and_listed_in_that_order() -> None:
    (turn,) = user_turn("Is <image 2> like <image 1>? <image 3>", 2)
    image, texts = {"type": "image"}, [{"type": "text", "text": text} for text in ("Is", "like", "? image 3")]
    assert turn["content"] == [texts[0], image, texts[1], image, texts[2]]
    assert in_order("Is <image 2> like <image 1>?", ["a", "b"]) == ["b", "a"]
    assert user_turn(" Which?\n", 2)[0]["content"] == [image, image, {"type": "text", "text": " Which?\n"}]
    assert user_turn("Which?", 0)[0]["content"] == [{"type": "text", "text": "Which?"}]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<image 1> <image 2>\nAre they alike?", "Are they alike?"),
        ("<image 2> Is it <image 1>?", "image 2 Is it image 1?"),
        ("<image 1> Is <image 1> a dog?", "Is image 1 a dog?"),
        (" Which?\n", " Which?\n"),
    ],
)
def test_marks_are_words_where_a_template_writes_pictures_first(text: str, read: str) -> None:
    assert pictures_first(text) == read


def test_rows_that_were_not_built_yet_say_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.parquet does not exist; build the rows first"):
        cot_columns(TASK, TRAIN, tmp_path)
