"""Pictures that change between the CoT build and the training on it are told by plan, run and the stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from cot_builder.__main__ import main as build
from pipeline.__main__ import main as pipeline
from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.data.training_rows import training_columns
from pipeline.errors import UserError
from pipeline.run_dir import RunDir


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
