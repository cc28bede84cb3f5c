"""Where the reference of a quantised stage is measured: on the device it is verified on, as far as that has room."""

from __future__ import annotations

import pytest
import torch

from stages.checkpoints import handover


@pytest.mark.parametrize("room", [True, False])
def test_a_plain_model_stays_on_the_cpu_only_where_there_is_no_room_beside_the_trainers(room: bool) -> None:
    class Model:
        def __init__(self) -> None:
            self.places: list[str] = []

        def to(self, device: object) -> Model:
            self.places.append(str(device))
            if not room and str(device) != "cpu":
                raise torch.OutOfMemoryError
            return self

    model = Model()
    assert handover._beside(model, torch.device("cuda", 1)) is model
    assert model.places == (["cuda:1"] if room else ["cuda:1", "cpu"])
