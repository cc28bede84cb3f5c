"""Steps that DeepSpeed skipped are told apart from weights that are not finite, and leave no NaN in later rows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from stages.training.skipped_steps import SkippedSteps, finite


class Trainer:
    """A trainer whose last step was skipped, with other processes whose weights are broken as `others` says."""

    def __init__(self, skipped: bool = True, others: float = 0.0) -> None:
        self._tr_loss = torch.tensor(math.nan)
        self.accelerator = SimpleNamespace(
            optimizer_step_was_skipped=skipped,
            device=torch.device("cpu"),
            reduce=lambda mine, reduction: mine + others,
        )


def figures(trainer: Trainer, model: torch.nn.Module, steps: int = 1) -> dict[str, float]:
    journal = SimpleNamespace(figures={})
    callback = SkippedSteps(trainer, journal)  # type: ignore[arg-type]
    for _ in range(steps):
        callback.on_step_end(None, None, None, model=model)
    return dict(journal.figures)


def broken(value: float = math.nan) -> torch.nn.Module:
    model = torch.nn.Linear(2, 2)
    model.weight.data[1, 1] = value
    return model


def test_skipped_steps_are_counted_until_they_are_logged() -> None:
    assert figures(Trainer(), torch.nn.Linear(2, 2), steps=3) == {"skipped_steps": 3.0}
    assert figures(Trainer(skipped=False), broken()) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_steps_that_are_skipped_since_the_weights_are_broken_are_not(value: float) -> None:
    assert figures(Trainer(), broken(value)) == {}
    # In another process's part of them.
    assert figures(Trainer(others=1.0), torch.nn.Linear(2, 2)) == {}


def test_a_part_of_zero_3_is_looked_at_where_it_lies() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.ds_tensor = torch.tensor([1.0, math.nan])
    assert not finite(model)


def test_the_loss_of_a_skipped_step_is_in_no_later_row() -> None:
    trainer = Trainer()
    callback = SkippedSteps(trainer, SimpleNamespace(figures={}))  # type: ignore[arg-type]
    callback.on_log(None, None, None, {"eval_loss": 1.0})
    assert trainer._tr_loss.isnan()
    callback.on_log(None, None, None, {"loss": math.nan})
    assert trainer._tr_loss == 0
