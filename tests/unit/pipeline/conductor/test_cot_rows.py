"""Pictures that change between the CoT build and the training on it are told by plan, run and the stage."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from cot_builder.__main__ import main as build
from pipeline.__main__ import main as pipeline
from pipeline.conductor import run as conductor_run
from pipeline.conductor.cot_rows import slice_lines
from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.data.training_rows import changes, data_lines, training_columns, training_examples
from pipeline.errors import UserError
from pipeline.files import file_digest, read_json, write_json
from pipeline.run_dir import RunDir
from pipeline.runs.phases import stale_reasons, start_record


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A built run on twenty pictures in two folders."""
    for label, color in (("red", 200), ("blue", 40)):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for number in range(10):
            picture = Image.new("RGB", (16, 16), (color, number, 255 - color))
            picture.save(tmp_path / "data" / "train" / label / f"{number}.png")
    run = {
        "name": "r",
        "output_dir": str(tmp_path / "runs"),
        "task": {
            "name": "imagefolder",
            "path": str(tmp_path / "data"),
            "descriptions": {"red": "warm light", "blue": "cold light"},
        },
        "cot": {"teachers": [str(tmp_path / "t.yaml")]},
        "evaluation": {"split": "train"},
        "stages": {"stage1_sft": {"algorithm": "sft", "init_from": "base", "data": "cot"}},
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"kind": "attribute", "attributes": ["description"]}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    assert build(["build", "--config", str(tmp_path / "run.yaml")]) == 0
    return tmp_path / "run.yaml"


def swap(data: Path, count: int) -> None:
    for number in range(count):
        red, blue = data / f"train/red/{number}.png", data / f"train/blue/{number}.png"
        first, second = red.read_bytes(), blue.read_bytes()
        red.write_bytes(second)
        blue.write_bytes(first)


def test_swapped_pictures_are_told_by_plan_and_refused_by_run_and_stage(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(["plan", "--config", str(config)])
    assert "other pictures" not in capsys.readouterr().out
    swap(config.parent / "data", 3)
    pipeline(["plan", "--config", str(config)])
    assert "6 of 20 rows are about other pictures (first: " in capsys.readouterr().out
    with pytest.raises(UserError, match="cot: 6 of 20 rows are about other pictures"):
        pipeline(["run", "--config", str(config)])
    loaded = load(config)
    run = RunDir(loaded.output_dir, loaded.name)
    with pytest.raises(UserError, match="stage1_sft: 6 of 20 rows are about other pictures"):
        training_columns(loaded, run, "stage1_sft", load_task(loaded.task, run.cache))
    # The cure that the message names.
    assert build(["build", "--config", str(config)]) == 0
    pipeline(["plan", "--config", str(config)])
    assert "other pictures" not in capsys.readouterr().out


def test_pictures_that_came_later_are_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (16, 16), "red").save(config.parent / "data" / "train" / "red" / "new.png")
    pipeline(["plan", "--config", str(config)])
    assert "1 pictures came after the rows were built and are not among them (first: train/red/new.png)" in (
        capsys.readouterr().out
    )


def test_pictures_that_cannot_be_used_are_told_by_plan_build_stats_and_card(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (config.parent / "data" / "train" / "red" / f"{number}.txt").write_text("no picture")
    (config.parent / "data" / "train" / "red" / "0.png").write_bytes(b"broken")
    told = (
        "19 of 23 pictures usable: not_an_image 3 (first: train/red/0.txt), unreadable_image 1 (first: train/red/0.png)"
    )
    pipeline(["plan", "--config", str(config)])
    assert f"warning: train: {told}" in capsys.readouterr().out
    assert build(["build", "--config", str(config)]) == 0
    assert told in capsys.readouterr().out
    assert build(["stats", "--config", str(config)]) == 0
    assert told in capsys.readouterr().out
    assert "19 of 23 pictures usable" in (config.parent / "runs" / "r" / "cot" / "README.md").read_text()


def test_an_offline_teacher_that_has_nothing_to_write_from_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "t.yaml").write_text(yaml.safe_dump({"kind": "attribute"}))
    assert build(["build", "--config", str(config)]) == 2
    assert "none of the 20 rows of imagefolder has one; name a served teacher" in capsys.readouterr().err
    (config.parent / "t.yaml").write_text(yaml.safe_dump({"kind": "attribute", "attributes": ["description"]}))
    text = config.read_text().replace("    blue: cold light\n", "")
    config.write_text(text)
    assert build(["build", "--config", str(config)]) == 0
    assert "10 of 20 rows have none it names" in capsys.readouterr().err


def selected(config: Path, *overrides: str) -> list[str]:
    """The ids that stage 1 trains on."""
    loaded = load(config, overrides)
    run = RunDir(loaded.output_dir, loaded.name)
    return training_columns(loaded, run, "stage1_sft", load_task(loaded.task, run.cache))[0]["id"]


def test_a_stage_trains_on_the_built_rows_of_its_slice_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = selected(config)
    loaded = load(config)
    wanted = {row.id for row in load_task(loaded.task, RunDir(loaded.output_dir, "r").cache).select("train[:8]").rows}
    assert len(every) == 20
    assert selected(config, "stages.1.split=train") == every
    assert selected(config, "stages.1.split=train[:8]") == [row_id for row_id in every if row_id in wanted]
    assert sorted(
        selected(config, "stages.1.split=train[8:]") + selected(config, "stages.1.split=train[:8]")
    ) == sorted(every)
    pipeline(["plan", "--config", str(config), "stages.1.split=train[:8]"])
    printed = capsys.readouterr().out
    assert "sft from base on cot within train[:8]" in printed
    assert "stage1_sft: 8 of 20 built rows lie in train[:8]" in printed
    pipeline(["plan", "--config", str(config)])
    assert "built rows lie" not in capsys.readouterr().out


def keep_alone(config: Path, kept: list[str]) -> None:
    """Leave a build of which all other rows were rejected."""
    cot = config.parent / "runs" / "r" / "cot"
    table = pq.read_table(cot / "train.parquet")
    pq.write_table(table.filter(pa.compute.is_in(table["id"], pa.array(kept))), cot / "train.parquet")
    write_json(
        cot / "manifest.json", {**read_json(cot / "manifest.json"), "data_digest": file_digest(cot / "train.parquet")}
    )


def test_a_slice_of_which_every_row_was_rejected_is_refused_by_plan_run_and_stage(config: Path) -> None:
    keep_alone(config, selected(config, "stages.1.split=train[8:]"))
    words = r"stage1_sft: its split 'train\[:8\]' selects 8 rows of the task and none of the 12 built rows"
    for command in ("plan", "run"):
        with pytest.raises(UserError, match=words):
            pipeline([command, "--config", str(config), "stages.1.split=train[:8]"])
    with pytest.raises(UserError, match=words):
        selected(config, "stages.1.split=train[:8]")


def test_it_is_refused_right_after_the_build_and_before_any_stage(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later stage's slice holds none of what was kept, which only the build could tell."""
    started = []

    def pretend(command: list[str], **_: object) -> int:
        started.append(command[2])
        assert build(["build", *command[command.index("--config") :]]) == 0
        keep_alone(config, later)
        return 0

    later = selected(config, "stages.1.split=train[8:]")
    text = yaml.safe_load(config.read_text())
    text["stages"]["stage2_sft"] = {**text["stages"]["stage1_sft"], "init_from": "stage1", "split": "train[:8]"}
    config.write_text(yaml.safe_dump(text))
    (config.parent / "runs" / "r" / "cot" / "manifest.json").unlink()
    monkeypatch.setattr(conductor_run, "run_child", pretend)
    with pytest.raises(
        UserError, match=r"stage2_sft: its split 'train\[:8\]' selects 8 rows of the task and none of the 12"
    ):
        pipeline(["run", "--config", str(config)])
    assert started == ["cot_builder"]


def test_a_finished_stage_that_names_no_slice_stays_fresh(config: Path) -> None:
    loaded = load(config)
    run = RunDir(loaded.output_dir, loaded.name)
    # As every record of before says, whatever it was trained on.
    assert start_record(loaded, run, "stage1_sft")["inputs"]["stage"]["split"] == "train"
    write_json(run.record_path("stage1_sft"), start_record(loaded, run, "stage1_sft"))
    assert stale_reasons(loaded, run, "stage1_sft") == []
    (told,) = stale_reasons(load(config, ["stages.1.split=train[:8]"]), run, "stage1_sft") or []
    assert told == "stage.split: 'train' -> 'train[:8]'"


def test_pictures_outside_of_the_slices_are_not_trained_on(config: Path) -> None:
    loaded = load(config, ["stages.1.split=train[:8]", "cot.split=train[4:]"])
    task = load_task(loaded.task, RunDir(loaded.output_dir, loaded.name).cache)
    assert {row.id for row in training_examples(loaded, task)} == {row.id for row in task.select("train[4:8]").rows}
    assert len(training_examples(load(config), task)) == 20


def test_a_curriculum_shares_the_built_rows_out_and_a_baseline_takes_a_part_too(config: Path) -> None:
    text = yaml.safe_load(config.read_text())
    first = {**text["stages"]["stage1_sft"], "split": "train[:50%]"}
    text["stages"] = {"stage1_sft": first, "stage2_sft": {**first, "init_from": "stage1", "split": "train[50%:]"}}
    text["baselines"] = {"part": {**first, "split": "train[:3]"}}
    config.write_text(yaml.safe_dump(text))
    loaded = load(config)
    run = RunDir(loaded.output_dir, loaded.name)
    task = load_task(loaded.task, run.cache)
    taken = {
        name: set(training_columns(loaded, run, name, task)[0]["id"])
        for name in ("stage1_sft", "stage2_sft", "baseline_part")
    }
    assert {name: len(ids) for name, ids in taken.items()} == {"stage1_sft": 10, "stage2_sft": 10, "baseline_part": 3}
    assert not taken["stage1_sft"] & taken["stage2_sft"]
    assert taken["baseline_part"] < taken["stage1_sft"]
    assert slice_lines(loaded, run) == [
        "baseline_part: 3 of 20 built rows lie in train[:3]",
        "stage1_sft: 10 of 20 built rows lie in train[:50%]",
        "stage2_sft: 10 of 20 built rows lie in train[50%:]",
    ]


def test_a_row_without_its_picture_is_refused_whatever_the_slice(config: Path) -> None:
    """It lies in no slice, so a slice must not lose it in silence."""
    (config.parent / "data" / "train" / "red" / "0.png").unlink()
    with pytest.raises(UserError, match=r"1 rows have no image, or one with another label.*first: train/red/0.png"):
        selected(config, "stages.1.split=train[:8]")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("train[8", "split 'train[8' is not of the form"),
        ("dev[:8]", "stages.stage1_sft.split: 'dev[:8]' holds no built row, for cot.split is 'train'"),
        ("train[20:]", "stages.stage1_sft.split: 'train[20:]' holds none of the 20 rows of 'train'"),
        ("train[8:2]", "stages.stage1_sft.split: 'train[8:2]' holds none of the 20 rows of 'train'"),
    ],
)
def test_a_slice_that_cannot_be_meant_is_told_by_the_plan(config: Path, spec: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        pipeline(["plan", "--config", str(config), f"stages.1.split={spec}"])


def test_the_slice_of_a_stage_that_is_begun_is_kept_to(config: Path) -> None:
    """Its rows are compared with those it began with, so another slice is told before it goes on."""
    loaded = load(config, ["stages.1.split=train[:8]"])
    run = RunDir(loaded.output_dir, loaded.name)
    task = load_task(loaded.task, run.cache)
    begun = data_lines(training_columns(loaded, run, "stage1_sft", task)[0], run.cache)
    assert data_lines(training_columns(loaded, run, "stage1_sft", task)[0], run.cache) == begun
    later = data_lines(training_columns(load(config), run, "stage1_sft", task)[0], run.cache)
    assert changes(begun, later)[0].startswith("12 of 20 rows are new")
