"""Before a sweep starts: what cannot fit is refused, what has not changed is known, and the smoke lab asks a few rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.config.schema import TaskConfig
from pipeline.sweeps import plan as sweep_plan
from pipeline.sweeps.memory import CONTEXT, estimate, read_shapes
from pipeline.sweeps.plan import describe, key, make_plan, named_size, smoke_lab
from pipeline.sweeps.results import Cells
from pipeline.system import hardware
from tests.unit.pipeline.sweeps.test_memory import CONFIG, TENSORS, write


@pytest.fixture
def lab(tmp_path: Path) -> LabConfig:
    """A small and a large model whose files have headers alone."""
    large = {name: [side * 64 for side in shape] for name, shape in TENSORS.items()}
    models = {
        "small": LabModel(name_or_path=str(write(tmp_path / "small", TENSORS, CONFIG))),
        "large": LabModel(name_or_path=str(write(tmp_path / "large", large, CONFIG))),
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text("a")
    task = LabTask(TaskConfig("imagefolder", str(tmp_path / "data")), "val[10%:]")
    return LabConfig("trial", str(tmp_path / "out"), models=models, tasks={"t": task}, precisions=["bfloat16"])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_plan, "visible_gpus", lambda: 2)
    monkeypatch.setattr(sweep_plan, "free_memory", lambda *_: [10**12, 700 * 10**6])


@pytest.mark.usefixtures("gpu")
def test_a_cell_is_refused_where_the_gpu_with_least_room_cannot_hold_it(lab: LabConfig, tmp_path: Path) -> None:
    plan = make_plan(lab)
    small, large = (plan.planned[cell.id] for cell in cells(lab))
    assert small.refused is None
    assert "of which 700 MB are free" in (large.refused or "").replace("\u202f", " ")
    assert make_plan(lab, ignore_memory=True).planned[cells(lab)[1].id].refused is None
    shapes = read_shapes(lab.models["large"])
    needed = estimate(shapes, "bfloat16", gpu=True, rows=lab.batch_size, new_tokens=512).total
    assert large.bytes == needed
    assert needed + CONTEXT > 700 * 10**6 > (small.bytes or 0) + CONTEXT
    told = describe(lab, plan, Cells(lab, plan.planned), tmp_path)
    assert "refused: 1" in told
    assert "pending: 1" in told


def test_a_model_that_cannot_be_looked_at_is_told_and_not_refused(lab: LabConfig) -> None:
    models = {"served": LabModel("m", backend="openai", base_url="http://x/v1"), "hub": LabModel("none-such/m")}
    plan = make_plan(dataclasses.replace(lab, models=models))
    assert plan.unknown["served"] == "a server has it"
    assert "not to be had from the hub" in plan.unknown["hub"]
    assert all(one.bytes is None and one.refused is None for one in plan.planned.values())


def test_a_model_s_size_is_that_of_its_files_or_else_of_its_name(lab: LabConfig) -> None:
    assert named_size("HuggingFaceTB/SmolVLM-500M-Instruct") == 500 * 10**6
    assert named_size("Qwen/Qwen2.5-VL-7B-Instruct") == 7 * 10**9
    assert named_size("qwen3-1.7b") == 1_700_000_000
    assert named_size("runs/4bit-v2.5/final") is None
    assert named_size("gpt-5") is None
    served = LabModel("Qwen/Qwen2-VL-2B-Instruct", backend="openai", base_url="http://x/v1")
    config = dataclasses.replace(lab, models={**lab.models, "served": served})
    plan = make_plan(config)
    sizes = {cell.model: Cells(config, plan.planned).row(cell).parameters_m for cell in cells(config)}
    of_files = {name: sum(plan.estimates[name, "bfloat16"].parameters.values()) for name in ("small", "large")}
    assert sizes == {**{name: round(size / 1e6, 1) for name, size in of_files.items()}, "served": 2000.0}


def test_the_key_of_a_cell_changes_with_weights_data_and_settings_alone(lab: LabConfig, tmp_path: Path) -> None:
    small, large = cells(lab)
    before = key(lab, small), key(lab, large)
    assert key(dataclasses.replace(lab, batch_size=3, smoke=0, name="other"), small) == before[0]
    models = {name: dataclasses.replace(model, precisions=["bfloat16"]) for name, model in lab.models.items()}
    assert key(dataclasses.replace(lab, models=models), small) == before[0]
    (tmp_path / "small" / "model.safetensors").write_bytes(b"other")
    assert key(lab, small) != before[0]
    assert key(lab, large) == before[1]
    (tmp_path / "data" / "rows").write_text("ab")
    assert key(lab, large) != before[1]
    assert key(dataclasses.replace(lab, seed=1), large) != key(lab, large)


def test_a_smoke_lab_asks_the_first_rows_of_each_split_elsewhere(lab: LabConfig) -> None:
    smoke = smoke_lab(dataclasses.replace(lab, smoke=3))
    assert (smoke.name, smoke.tasks["t"].split) == ("trial-smoke", "val[:3]")
    assert smoke_lab(dataclasses.replace(lab, smoke=0)).tasks["t"].split == "val[:2]"


def test_gpus_are_named_and_measured_as_cuda_visible_devices_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = -L ]; then printf "GPU 0: x\\nGPU 1: x\\nGPU 2: x\\n"\n'
        'else printf "0, GPU-a0, 1\\n1, GPU-b1, 2\\n2, GPU-c2, 3\\n"; fi\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for visible, names, free in (
        ("2,0", ["2", "0"], [3, 1]),
        ("GPU-c2, GPU-a", ["GPU-c2", "GPU-a"], [3, 1]),
        ("MIG-c2", ["MIG-c2"], []),
        (None, ["0", "1", "2"], [1, 2, 3]),
    ):
        hardware.visible_gpus.cache_clear()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible else monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert hardware.gpu_names() == names
        assert hardware.free_memory() == [number << 20 for number in free]
    hardware.visible_gpus.cache_clear()
