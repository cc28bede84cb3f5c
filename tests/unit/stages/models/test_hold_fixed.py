"""Adapters of a fixed part stay fixed when the reference of a KL divergence is asked."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import use_adapter

from stages.models.loading import hold_fixed


def adapted() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["0", "1"]))
    for name, one in model.named_parameters():
        if ".0." in name:
            one.requires_grad_(False)
    return model


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("held", [True, False])
def test_what_is_fixed_stays_so_after_the_reference_is_asked(held: bool) -> None:
    model = adapted()
    if held:
        hold_fixed(model)
    before = trained(model)
    assert before
    assert all(".1." in name for name in before)
    with use_adapter(model, None):
        assert torch.equal(model(torch.ones(1, 4)), model.get_base_model()(torch.ones(1, 4)))
    # Else what is asked of peft here would be needless.
    assert (trained(model) == before) is held


def test_a_model_without_adapters_is_left_alone() -> None:
    model = torch.nn.Linear(2, 2)
    hold_fixed(model)
    assert not hasattr(model, "disable_adapter")
