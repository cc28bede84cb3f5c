"""Where the reference of a quantised stage is measured: on the device it is verified on, as far as that has room."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stages.checkpoints import handover


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
