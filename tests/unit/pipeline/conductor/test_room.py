"""A model that no GPU here holds is told by its files, before rows are paid for or anything is deleted."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import fake_gpus
import pytest

from pipeline.conductor.room import room_problems
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.system import hardware
from tests.unit.pipeline.checks.test_model_folder import tensors

STAGE = "stage1_sft"
SMALL, LARGE = "HuggingFaceTB/SmolVLM-500M-Instruct", "OpenGVLab/InternVL3-8B-hf"
"""Of the shipped table: 1.0 GB and 15.9 GB in bfloat16."""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "runs", "demo_scenes")


@pytest.fixture(autouse=True)
def _gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards that hold the first, and not the second."""
    (tmp_path / "bin").mkdir()
    fake_gpus.put_on_path(monkeypatch, tmp_path / "bin", 2, total=15000)


def told(run: RunDir, *words: str, names: tuple[str, ...] = (BASE, STAGE)) -> list[str]:
    return list(room_problems(load("demo_scenes", [f"output_dir={run.root.parent}", *words]), run, names))


def test_a_student_that_no_gpu_holds_is_told_once(run: RunDir) -> None:
    (problem,) = told(run, f"model.name_or_path={LARGE}")
    assert problem.startswith(f"model.name_or_path: the weights of {LARGE} take 15.9 GB, and a GPU has 15.7 GB")
    assert told(run, f"model.name_or_path={SMALL}") == []


@pytest.mark.parametrize(
    "words",
    [
        ["model.quantization=4bit", "model.peft={r: 4, target_modules: [q_proj]}"],
        # Several cards share it.
        ["launch.deepspeed=zero3"],
    ],
)
def test_one_that_is_held_in_part_is_not(run: RunDir, words: list[str]) -> None:
    assert told(run, f"model.name_or_path={LARGE}", *words) == []


def test_a_teacher_of_the_hub_is_counted_beside_the_student(run: RunDir) -> None:
    words = [f"model.name_or_path={SMALL}", f"stages.1.distill.teacher={LARGE}@main"]
    (problem,) = told(run, *words)
    assert problem.startswith(f"stages.{STAGE}.distill.teacher: the weights of {LARGE}@main take ")
    assert "beside the student's" in problem
    # Nothing of it is trained again.
    assert told(run, *words, names=("stage4_clgrpo",)) == []


def test_of_a_student_that_is_here_its_files_tell(run: RunDir) -> None:
    final = run.phase(BASE) / "final"
    final.mkdir(parents=True)
    tensors(final / "model.safetensors")
    write_json(final / "config.json", {"model_type": "idefics3"})
    write_json(run.record_path(BASE), {"status": "complete", "checkpoint": "final"})
    assert told(run, f"model.name_or_path={LARGE}", names=(STAGE,)) == []
    assert len(told(run, f"model.name_or_path={LARGE}")) == 1


def huge(file: Path, dtype: str = "BF16", width: int = 2) -> None:
    """Write the header of weights that no card here holds in bfloat16, and a file of their size that takes no room."""
    end = 8 * 10**9 * width
    header = json.dumps({"b": {"dtype": dtype, "shape": [8 * 10**9], "data_offsets": [0, end]}}).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(header)) + header)
        opened.truncate(8 + len(header) + end)


def test_what_is_composed_anew_is_not_judged_by_what_was_composed_before(run: RunDir) -> None:
    words = ["model.compose.vision=google/siglip-base-patch16-224", f"model.compose.language={SMALL}"]
    final = run.phase(BASE) / "final"
    final.mkdir(parents=True)
    huge(final / "model.safetensors")
    write_json(final / "config.json", {"model_type": "idefics3"})
    write_json(run.record_path(BASE), {"status": "trained", "checkpoint": "final"})
    (problem,) = told(run, *words, names=(STAGE,))
    assert problem.startswith("model: the weights of ")
    # As after `--clean base`, with a smaller part in the place of the one that was told.
    assert told(run, *words) == []


def test_weights_that_lie_there_once_more_for_other_tools_are_counted_once(run: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors(folder / "model-00001-of-00001.safetensors")
    huge(folder / "consolidated.safetensors")
    write_json(folder / "config.json", {"model_type": "mistral3"})
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    assert told(run, f"model.name_or_path={folder}") == []


@pytest.mark.parametrize(("dtype", "width", "held"), [("BF16", 2, False), ("F8_E4M3", 1, True), ("U8", 1, True)])
def test_weights_stored_in_one_byte_are_held_in_one(
    run: RunDir, tmp_path: Path, dtype: str, width: int, held: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    huge(folder / "model.safetensors", dtype, width)
    write_json(folder / "config.json", {"model_type": "mistral3"})
    assert (told(run, f"model.name_or_path={folder}", "model.dtype=bfloat16") == []) == held


def test_a_model_of_which_nothing_can_be_known_is_told_before_anything_is_deleted(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"nobody/nothing: its shapes are not to be had from the hub"):
        told(run, "model.name_or_path=nobody/nothing")
    # It is not asked for where nothing is made from it.
    assert told(run, "model.name_or_path=nobody/nothing", names=("cot",)) == []


def test_a_machine_without_gpus_and_a_tiny_student_have_room(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(run) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware.visible_gpus.cache_clear()
    assert told(run, f"model.name_or_path={LARGE}") == []
