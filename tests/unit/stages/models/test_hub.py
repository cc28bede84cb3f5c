"""What is told of a model that the hub keeps from this user."""

from __future__ import annotations

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from pipeline.config.evaluation import LabModel
from pipeline.config.schema import ModelConfig
from pipeline.errors import UserError
from pipeline.sweeps.memory import read_shapes
from stages.models.hub import find_model


@pytest.mark.parametrize(
    ("kind", "run", "lab"),
    [
        (GatedRepoError, *["is gated: accept its licence at https://huggingface.co/org/model, then set HF_TOKEN"] * 2),
        (RepositoryNotFoundError, *["is not on the hub, or private: check the name, or set the HF_TOKEN"] * 2),
        (HfHubHTTPError, "check the name and the connection", "its shapes are not to be had from the hub: 401 Client"),
    ],
)
def test_a_model_that_is_kept_from_this_user_is_told_with_the_way_to_it(
    kind: type[HfHubHTTPError], run: str, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        request = httpx.Request("GET", "https://huggingface.co/org/model")
        raise kind("401 Client Error.\n\nCannot access.", response=httpx.Response(401, request=request))

    for name in ("snapshot_download", "get_safetensors_metadata"):
        monkeypatch.setattr(f"huggingface_hub.{name}", refuse)
    with pytest.raises(UserError) as told:
        find_model(ModelConfig(name_or_path="org/model"))
    assert str(told.value).startswith("model.name_or_path: 'org/model' is ")
    assert run in str(told.value)
    with pytest.raises(UserError) as told:
        read_shapes(LabModel(name_or_path="org/model"))
    assert lab in str(told.value)
