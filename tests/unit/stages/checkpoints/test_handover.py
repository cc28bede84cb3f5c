"""Where the reference of a quantised stage is measured, and which weights are the best."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.config.schema import RunConfig
from pipeline.files import write_json
from pipeline.run_dir import RunDir
from stages.checkpoints import handover
from stages.checkpoints.accept import FIGURES
from stages.processes.work import Work


@pytest.mark.parametrize(
    ("fails", "measured_on"), [(None, ["cuda:1"]), ("to", ["cpu"]), ("measure", ["cuda:1", "cpu"])]
)
def test_a_plain_model_is_measured_on_the_cpu_only_where_there_is_no_room_beside_the_trainers(
    fails: str | None, measured_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    class Model:
        place = "cpu"

        def to(self, device: object) -> Model:
            if fails == "to" and str(device) != "cpu":
                raise torch.OutOfMemoryError
            self.place = str(device)
            return self

    def measure(model: Model, *_: object) -> str:
        measured.append(model.place)
        if fails == "measure" and model.place != "cpu":
            raise torch.OutOfMemoryError
        return model.place

    monkeypatch.setattr(handover, "measure", measure)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cuda", 1)), processing_class=None)
    assert handover._measure_beside(Model(), trainer, None, "test", "think") == measured_on[-1]
    assert measured == measured_on


@pytest.mark.parametrize("named", [False, True])
def test_the_best_of_several_that_a_kill_left_is_handed_over(tmp_path: Path, named: bool) -> None:
    """Killed before the second best was deleted, or within that; and again once the best had its name."""
    work = Work(RunConfig(name="r", output_dir=str(tmp_path)), "stage1_sft", RunDir(tmp_path, "r"))
    for step, accuracy in ((50, 0.9), (100, 0.5), (5, 0.9), (30, 0.2)):
        folder = work.folder / f"best-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(f"weights of {step}".encode())
        write_json(folder / FIGURES, {"step": step, "eval_accuracy": accuracy})
    (work.folder / "best-30" / FIGURES).unlink()
    (work.folder / "best-100" / "model.safetensors").unlink()
    # Of two that are as good the first one was kept.
    best = handover.settle_best(work)
    assert (best["step"], set(best["files"])) == (5, {"model.safetensors", FIGURES})
    if named:
        assert handover.settle_best(work) == best
    assert (work.folder / "best" / "model.safetensors").read_bytes() == b"weights of 5"
    assert list(work.folder.glob("best-*")) == []
