"""Vision towers with batch norms: what training may not do to them, and how their buffers reach a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch

from stages.checkpoints.export import load_tensors, trained_tensors
from stages.models.loading import hold_batch_norms


@pytest.fixture
def tower() -> torch.nn.Module:
    """A convolution and a batch norm that has seen pictures."""
    torch.manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))
    for _ in range(3):
        tower(torch.randn(8, 3, 8, 8) * 3 + 1)
    return tower


@pytest.mark.parametrize("frozen", [True, False])
def test_training_answers_as_evaluation_does_and_moves_no_statistic(tower: torch.nn.Module, frozen: bool) -> None:
    tower.requires_grad_(not frozen)
    before = copy.deepcopy(tower.state_dict())
    pictures = torch.randn(4, 3, 8, 8)
    expected = tower.eval()(pictures)
    hold_batch_norms(tower)
    for mode in (True, False, True):
        tower.train(mode)
    assert [module.training for module in tower] == [True, False, True]
    out = tower[:2](pictures)
    assert torch.equal(out, expected)
    if not frozen:
        out.sum().backward()
        assert tower[1].weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_buffers_are_handed_over_and_those_that_are_only_rounded_stay_as_they_were(tower: torch.nn.Module) -> None:
    parent = copy.deepcopy(tower)
    # As a module that DeepSpeed trains in bfloat16.
    rounded = copy.deepcopy(tower).bfloat16()
    load_tensors(tower, trained_tensors(rounded, main=True) | dict(parent.named_parameters()))
    assert all(torch.equal(value, parent.state_dict()[name]) for name, value in tower.state_dict().items())

    moved = copy.deepcopy(parent)
    moved[1].running_mean += 1.0
    load_tensors(tower, trained_tensors(moved, main=True))
    assert torch.equal(tower[1].running_mean, moved[1].running_mean)
    assert trained_tensors(moved, main=False) == {}


def test_a_buffer_that_no_checkpoint_holds_is_not_handed_over(tower: torch.nn.Module) -> None:
    tower.register_buffer("table", torch.arange(4), persistent=False)
    assert "table" not in trained_tensors(tower, main=True)
