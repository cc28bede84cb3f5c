"""Pictures the student's processor refuses are problems, and its control tokens in rows are refused, before it trains."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.schema import CotConfig, ModelConfig, RunConfig, StageConfig, TaskConfig, TinyConfig
from pipeline.data.conversations import grpo_columns
from pipeline.data.student import fit_task, load_run_task
from pipeline.data.task import Task
from pipeline.data.training_rows import training_columns
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from pipeline.types import Question, Split


def config(
    tmp_path: Path, family: str = "qwen2_5_vl", data: str = "task", sizes: tuple[tuple[int, int], ...] = ()
) -> RunConfig:
    for number, size in enumerate(((16, 16), (16, 16), (16, 16), *sizes)):
        folder = tmp_path / "data" / "train" / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / f"{number}.png")
    algorithm = "grpo" if data == "task" else "sft"
    return RunConfig(
        name="r",
        output_dir=str(tmp_path / "runs"),
        task=TaskConfig("imagefolder", str(tmp_path / "data")),
        model=ModelConfig(tiny=TinyConfig(family=family)),
        cot=CotConfig(),
        stages={"stage1_x": StageConfig(algorithm=algorithm, init_from="base", data=data)},
    )


def rows(config: RunConfig) -> tuple[list[str], dict[str, int]]:
    run = RunDir(config.output_dir, config.name)
    columns, split = training_columns(config, run, "stage1_x", load_run_task(config, run))
    return sorted(columns["id"]), split.problem_counts


@pytest.mark.parametrize(("family", "asked"), [("llava", "Is image 2 like image 1?"), ("qwen3_vl", None)])
def test_marks_are_words_to_a_family_that_is_shown_its_pictures_first(tmp_path: Path, family: str, asked: str) -> None:
    text = "Is <image 2> like <image 1>?"
    row = Question("1", (Path("a.png"), Path("b.png")), text, answer="A")
    task = fit_task(Task("own", ("train",), lambda split: Split((row,))), family, tmp_path)
    (images,) = grpo_columns(task, [row], "direct")["images"]
    assert task.prompt(row, "direct").startswith(asked or text)
    assert images == (["a.png", "b.png"] if asked else ["b.png", "a.png"])


STRIPS = ((2000, 9), (1, 300), (300, 1), (1, 201), (4000, 19))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("data", ["task", "labels"])
def test_pictures_above_the_family_s_aspect_ratio_are_problems_of_every_stage(
    tmp_path: Path, family: str, data: str
) -> None:
    found, problems = rows(config(tmp_path, family, data, STRIPS))
    assert [Path(row).stem for row in found] == ["0", "2", "1"]
    assert problems == {"unfit_image": len(STRIPS)}


def test_pictures_at_the_limit_and_other_families_are_taken(tmp_path: Path) -> None:
    found, problems = rows(config(tmp_path, sizes=((200, 1), (1, 200), (2000, 10))))
    assert (len(found), problems) == (6, {})
    found, problems = rows(config(tmp_path / "other", "idefics3", sizes=STRIPS))
    assert (len(found), problems) == (8, {})


def test_a_slice_is_cut_before_unfit_pictures_are_left_out(tmp_path: Path) -> None:
    whole = config(tmp_path, sizes=STRIPS)
    task = load_run_task(whole, RunDir(whole.output_dir, whole.name))
    first, second = task.select("train[:4]"), task.select("train[4:]")
    assert len(first.rows) + len(second.rows) == 3
    assert len(first.problems) + len(second.problems) == len(STRIPS)


def test_a_split_of_unfit_pictures_alone_says_so(tmp_path: Path) -> None:
    whole = config(tmp_path)
    for path in (tmp_path / "data").rglob("*.png"):
        Image.new("RGB", (900, 4)).save(path)
    with pytest.raises(UserError, match=r"no row is left; .*900 x 4 pixels: qwen2_5_vl takes pictures up to 200 times"):
        rows(whole)


def cot(config: RunConfig, completions: dict[str, str]) -> None:
    run = RunDir(config.output_dir, config.name)
    run.cot.mkdir(parents=True)
    labels = [row.split("/")[1] for row in completions]
    said = [
        f"<think>{text}</think><answer>{label}</answer>"
        for text, label in zip(completions.values(), labels, strict=True)
    ]
    table = {"id": list(completions), "label": labels, "completion": said}
    pq.write_table(pa.table(table), run.cot / "train.parquet")


def test_built_rows_about_unfit_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    whole = config(tmp_path, data="cot", sizes=((2000, 9),))
    cot(whole, {"train/blue/0.png": "a", "train/red/1.png": "b", "train/red/3.png": "c"})
    assert rows(whole) == (["train/blue/0.png", "train/red/1.png"], {"unfit_image": 1})


@pytest.mark.parametrize("token", ["<image>", "<|im_end|>", "<end_of_utterance>", "</s>", "<|vision_start|>"])
def test_built_rows_with_a_control_token_are_refused_by_name(tmp_path: Path, token: str) -> None:
    whole = config(tmp_path, data="cot")
    cot(whole, {"train/blue/0.png": "fine", "train/red/1.png": f"I see {token} here"})
    with pytest.raises(UserError, match=r"stage1_x: 1 of 2 rows hold a control token .*first: train/red/1\.png"):
        rows(whole)
