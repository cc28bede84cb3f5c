"""Rows of several tasks in one: drawn by weight, asked and judged as their own task has it, told apart in every table."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.schema import TaskConfig
from pipeline.data.conversations import grpo_columns
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.tasks.mixture import shares
from rewards import load_rewards


def write_rows(root: Path, split: str, rows: list[dict[str, Any]]) -> None:
    root.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(root / "a.png")
    (root / f"{split}.jsonl").write_text("".join(json.dumps({"image": "a.png", **row}) + "\n" for row in rows))


def folder(root: Path) -> Path:
    for label in ("cat", "dog"):
        for number in range(4):
            file = root / "train" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    return root


def mixture(root: Path, weights: tuple[Any, Any] = (None, None), **options: Any) -> Task:
    counts = [{"question": f"How many are there, {number}?", "answer": number} for number in range(6)]
    write_rows(root / "counts", "train", counts)
    write_rows(root / "counts", "test", counts[:2])
    blocks = {
        "counts": {"name": "questions", "path": str(root / "counts")},
        "pets": {"name": "imagefolder", "path": str(folder(root / "pets")), "question": "Which pet is it?"},
    }
    for block, weight in zip(blocks.values(), weights, strict=True):
        block |= {} if weight is None else {"weight": weight}
    return load_task(TaskConfig(name="mixture", options={"of": blocks, **options}), root / "cache")


def test_without_weights_all_rows_of_all_sources_are_there(tmp_path):
    task = mixture(tmp_path)
    rows = task.read("train").rows
    assert Counter(row.groups["source"] for row in rows) == {"counts": 6, "pets": 8}
    assert all(row.id.startswith(f"{row.groups['source']}/") for row in rows)
    assert (task.splits, task.labels, task.question) == (("train", "test"), None, None)
    assert task.read("test").problem_counts == {"missing_split": 1}


def test_weights_draw_as_many_rows_as_there_can_be_in_their_shares(tmp_path):
    task = mixture(tmp_path, (3, 1))
    found = task.read("train")
    assert Counter(row.groups["source"] for row in found.rows) == {"counts": 6, "pets": 2}
    assert found.problem_counts == {"not_drawn": 6}
    assert [row.id for row in found.rows] == [row.id for row in mixture(tmp_path, (3, 1)).read("train").rows]
    assert shares({"a": 100, "b": 10}, {"a": Fraction(1), "b": Fraction(2)}) == {"a": 5, "b": 10}


def test_only_the_named_splits_are_drawn_by_weight(tmp_path):
    assert len(mixture(tmp_path, (3, 1), weighted=[]).read("train").rows) == 14


def test_further_splits_are_of_slices_of_the_sources(tmp_path):
    splits = {"pets_alone": {"pets": "train[:6]"}, "both": {"pets": "train[:4]", "counts": "train[:2]"}}
    task = mixture(tmp_path, (3, 1), splits=splits)
    assert task.splits == ("train", "test", "pets_alone", "both")
    found = {name: task.read(name) for name in ("train", *splits)}
    assert [row.id for row in found["both"].rows][:4] == [row.id for row in found["pets_alone"].rows][:4]
    assert Counter(row.groups["source"] for row in found["both"].rows) == {"pets": 4, "counts": 2}
    assert Counter(row.groups["source"] for row in found["pets_alone"].rows) == {"pets": 6}
    # A row has one id, so that chains of thought built for `train` are found for these.
    assert {row.id for row in found["both"].rows if row.groups["source"] == "counts"} <= {
        row.id for row in found["train"].rows
    }
    assert not found["both"].problems
    assert "both: train[:4] of pets, train[:2] of counts" in list(task.told())


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["both"], r"options\.splits: \['both'\] names no split"),
        ({"test": {"pets": "train"}}, r"options\.splits\.test: the sources have a split of this name"),
        ({"a b": {"pets": "train"}}, r"options\.splits\.a b: split 'a b\[:\]' is not of the form"),
        ({"both": "train"}, r"options\.splits\.both: 'train' must be slices of sources"),
        ({"both": {"pest": "train"}}, r"options\.splits\.both\.pest: is no source; did you mean pets"),
        ({"both": {"pets": "trian"}}, r"options\.splits\.both\.pets: .*split 'trian' does not exist"),
        ({"both": {"pets": "train[4"}}, r"options\.splits\.both\.pets: split 'train\[4' is not of the form"),
    ],
)
def test_what_is_wrong_with_a_further_split_is_named(tmp_path, splits, words):
    with pytest.raises(UserError, match=words):
        mixture(tmp_path, splits=splits)


def test_no_stage_trains_on_what_a_source_keeps_for_judging(tmp_path):
    (tmp_path / "cv").mkdir()
    columns = {"idx": [0], "question": ["Which?"], "choices": [["a", "b"]], "answer": ["(A)"], "image": ["a.png"]}
    write_rows(tmp_path / "counts", "train", [{"question": "How many?", "answer": 1}])
    of = {
        "counts": {"name": "questions", "path": str(tmp_path / "counts")},
        "held": {"name": "cv_bench", "path": str(tmp_path / "cv")},
    }
    pq.write_table(pa.table(columns), tmp_path / "cv" / "test-00000-of-00001.parquet")
    splits = {"leaked": {"counts": "train", "held": "test"}, "clean": {"counts": "train"}}
    task = load_task(TaskConfig(name="mixture", options={"of": of, "splits": splits}), tmp_path / "cache")
    assert "leaked" in task.untrainable
    assert "clean" not in task.untrainable


def test_each_row_is_asked_and_judged_as_its_own_task_has_it(tmp_path):
    task = mixture(tmp_path)
    rows = {row.id: row for row in task.read("train").rows}
    count = next(row for row in rows.values() if row.gold == "4")
    cat = next(row for row in rows.values() if row.gold == "cat")
    assert task.prompt(count, "direct") == "How many are there, 4?\nAnswer with the number and nothing else."
    assert task.prompt(cat, "direct") == "Which pet is it? Options: cat, dog. Answer with one of them and nothing else."
    assert task.judge(count, "There are four.", "direct").correct
    assert task.judge(cat, "A cat.", "direct").correct
    assert not task.judge(cat, "4", "direct").correct
    assert (task.chance(count), task.chance(cat)) == (0.0, 0.5)
    assert task.groups_of(cat) == {"kind": "label", "source": "pets"}


def test_rewards_judge_rows_of_every_source(tmp_path):
    task = mixture(tmp_path)
    rows = [next(row for row in task.read("train").rows if row.gold == gold) for gold in ("4", "cat")]
    columns = grpo_columns(task, rows, "direct")
    columns.pop("prompt")
    (reward,) = load_rewards(["accuracy"], task)
    assert reward(completions=["4", "cat"], **columns) == [1.0, 1.0]
    assert reward(completions=["cat", "4"], **columns) == [0.0, 0.0]


def test_scores_are_each_source_s_own(tmp_path):
    task = mixture(tmp_path)
    rows = [
        {"id": "counts/1", "groups": {"source": "counts", "kind": "number"}, "correct": True},
        {"id": "counts/2", "groups": {"source": "counts", "kind": "number"}, "correct": False},
    ]
    assert task.official(rows) == {"counts: accuracy": 50.0}


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({}, "must name two sources or more"),
        ({"a": {"name": "scenes"}, "b": {"path": "x"}}, r"of\.b: must be a task block"),
        ({"a": {"name": "scenes"}, "b": {"name": "scenes", "wieght": 1}}, "did you mean"),
        ({"a": {"name": "scenes"}, "b": {"name": "mixture"}}, "a mixture holds no mixture"),
        ({"a": {"name": "scenes", "weight": 0}, "b": {"name": "scenes", "weight": 1}}, "must be a number above 0"),
        ({"a": {"name": "scenes", "weight": 1}, "b": {"name": "scenes"}}, r"of\.b\.weight: is not set"),
        ({"a": {"name": "scenes"}, "b": {"name": "scnes"}}, "is not a file of pipeline/tasks"),
    ],
)
def test_what_is_wrong_with_a_source_is_named(tmp_path, of, words):
    with pytest.raises(UserError, match=words):
        load_task(TaskConfig(name="mixture", options={"of": of}), tmp_path)


@pytest.mark.parametrize(
    ("weighted", "words"),
    [("train", "'train' is not a list of names"), (["trian"], "no source has a split trian; did you mean train")],
)
def test_splits_to_draw_that_there_are_not_are_refused(tmp_path, weighted, words):
    of = {name: {"name": "scenes", "weight": 1} for name in ("a", "b")}
    with pytest.raises(UserError, match=words):
        load_task(TaskConfig(name="mixture", options={"of": of, "weighted": weighted}), tmp_path)
