"""Pictures that a run is judged on and trained on, or has under two labels, are told in plan, run, report and summary.json."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from pipeline.conductor.own_pictures import compare_own_pictures, shared_lines
from pipeline.config.schema import EvaluationConfig, RunConfig, StageConfig, TaskConfig, ValidationConfig
from pipeline.data.shared_pictures import SharedPictures, equal_pictures, read_shared
from pipeline.data.student import load_run_task
from pipeline.reports.summary import summarise
from pipeline.run_dir import RunDir
from pipeline.types import Question, labelled_image
from tests.pictures import photograph

ROOT = Path(__file__).resolve().parents[4]


def test_another_question_about_one_picture_is_no_second_label() -> None:
    picture, other = Path("a.png"), Path("b.png")
    training = [
        Question("1", (picture,), "How many?", answer="2", kind="number"),
        Question("2", (picture,), "Which colour?", answer="red", kind="text"),
        Question("3", (), "What is 1 + 1?", answer="2", kind="number"),
    ]
    pixels = {picture: "p", other: "q"}
    assert equal_pictures(training, {}, pixels) == []
    judged = {"evaluation.split": ("test", [Question("9", (other, picture), "Which is red?", answer="1")])}
    (found,) = equal_pictures(training, judged, pixels)
    assert (found.equal, found.first) == (1, "9 is 1")


def rows(*named: str) -> list[Question]:
    """Rows given as digest:label."""
    return [labelled_image(f"{n}/{one}", Path(f"{n}/{one}"), one.split(":")[1]) for n, one in enumerate(named)]


@pytest.mark.parametrize(
    ("training", "test", "told"),
    [
        (["a:x", "b:y"], ["c:x", "d:y"], []),
        (["a:x", "b:y"], ["a:x", "d:y"], ["1 of 2 pictures of test (evaluation.split) are also in training"]),
        (["a:x", "a:x", "b:y"], ["a:x", "a:x", "b:y"], ["3 of 3 pictures of test"]),
        (["a:x", "b:y"], ["a:y", "d:y"], ["1 of 2 pictures of test", "1 of 4 pictures are there under two labels"]),
        (["a:x", "a:y"], ["c:x"], ["1 of 3 pictures are there under two labels"]),
        (["a:x"], ["b:x", "b:y"], ["1 of 3 pictures are there under two labels"]),
        (["?:x"], ["?:x"], []),
    ],
)
def test_equal_pictures_are_counted_across_splits_and_labels(training, test, told) -> None:
    trained, judged = rows(*training), rows(*test)
    judged = [dataclasses.replace(row, images=(Path("test") / row.images[0],)) for row in judged]
    digests = {row.images[0]: None if "?" in row.id else row.id.split("/")[1][0] for row in [*trained, *judged]}
    found = equal_pictures(trained, {"evaluation.split": ("test", judged)}, digests)
    assert len(found) == len(told)
    assert all(str(one).startswith(words) for one, words in zip(found, told, strict=True)), list(map(str, found))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Six training pictures, four of the test, of which one is a copy, one was saved anew and one has another label."""
    for split, seeds in (("train", range(6)), ("test", range(100, 104)), ("val", range(200, 202))):
        for seed in seeds:
            path = tmp_path / "own" / split / ("cat" if seed % 2 else "dog") / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(seed).save(path)
    photograph(0).save(tmp_path / "own" / "test" / "dog" / "100.png")
    photograph(1).resize((64, 64)).save(tmp_path / "own" / "test" / "cat" / "101.png")
    photograph(2).save(tmp_path / "own" / "test" / "cat" / "103.png")
    stage = StageConfig("sft", "base", data="labels", prompt="direct", validation=ValidationConfig("val"))
    return RunConfig(
        name="own",
        output_dir=str(tmp_path / "runs"),
        task=TaskConfig("imagefolder", str(tmp_path / "own")),
        stages={"stage1_sft": stage},
        evaluation=EvaluationConfig("test"),
    )


def told(config: RunConfig) -> list[str]:
    run = RunDir(config.output_dir, config.name)
    return list(shared_lines(config, run, load_run_task(config, run)))


def test_a_plan_tells_equal_files(config: RunConfig) -> None:
    test, labels = told(config)
    assert test.startswith("warning: 2 of 4 pictures of test (evaluation.split) are also in training (first: test/")
    first = "(first: test/cat/103.png is cat, train/dog/2.png is dog)"
    assert labels == f"warning: 1 of 12 pictures are there under two labels {first}"


def test_a_run_keeps_near_ones_too_and_its_report_warns(config: RunConfig) -> None:
    run = RunDir(config.output_dir, config.name)
    found = compare_own_pictures(config, run)
    assert [(one.key, one.rows, one.equal, one.near) for one in found] == [
        ("evaluation.split", 4, 2, 1),
        ("", 12, 1, None),
    ]
    assert read_shared(run.root) == tuple(found)
    summary = summarise("own", [], ["cat", "dog"], None, found)
    assert summary.shared_pictures == tuple(found)
    assert [remark.text for remark in summary.warnings] == [f"{one}." for one in found]
    assert "2 of 4 pictures of test (evaluation.split) are also in training, 1 more nearly (first: " in str(found[0])


def test_a_run_that_trains_on_what_it_is_judged_on_says_so(config: RunConfig) -> None:
    same = dataclasses.replace(config, evaluation=EvaluationConfig("train[:3]"))
    lines = told(same)
    assert lines[0].startswith("warning: 3 of 3 pictures of train[:3] (evaluation.split) are also in training")


def test_what_a_plan_cannot_tell_at_once_is_said(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checks.splits.FEW", 3)
    (line,) = told(config)
    assert line.startswith("equal pictures of the splits are looked for when the run begins")


def test_the_summary_s_keys_are_documented() -> None:
    text = (ROOT / "docs" / "reports.md").read_text()
    keys = set(re.findall(r"^\| `(\w+)` \|", text.split("`shared_pictures`", 1)[1], re.MULTILINE))
    assert {field.name for field in dataclasses.fields(SharedPictures)} <= keys
