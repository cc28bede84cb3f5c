"""Optimizer groups per part: what is in them, in which order, at which rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from pipeline.errors import UserError
from stages.checkpoints import export
from stages.models import loading
from stages.training import learning_rates


class Parts(torch.nn.Module):
    """A weight and a bias in each part, and one in none."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model, self.connector, self.vision_model = (torch.nn.Linear(2, 2) for _ in range(3))
        self.scale = torch.nn.Parameter(torch.ones(1))


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, learning_rate=0.5, weight_decay=0.1, report_to="none")
    return Trainer(model=Parts(), args=arguments)


def test_parts_without_a_rate_come_first_and_every_weight_comes_once(trainer: Trainer) -> None:
    learning_rates.set_learning_rates(trainer, {"vision": 0.1, "connector": 0.2})
    groups = trainer.create_optimizer().param_groups
    assert [(group["part"], group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        ("language", 0.5, 0.1, 1),
        ("language", 0.5, 0.0, 1),
        ("other", 0.5, 0.1, 1),
        ("vision", 0.1, 0.1, 1),
        ("vision", 0.1, 0.0, 1),
        ("connector", 0.2, 0.1, 1),
        ("connector", 0.2, 0.0, 1),
    ]


def test_without_rates_the_trainer_s_own_groups_stay(trainer: Trainer) -> None:
    learning_rates.set_learning_rates(trainer, {})
    assert [len(group["params"]) for group in trainer.create_optimizer().param_groups] == [4, 3]


def test_a_rate_for_a_part_that_does_not_train_is_refused(trainer: Trainer) -> None:
    loading.freeze(trainer.model, ["vision"])
    with pytest.raises(UserError, match=r"learning_rates\.vision: nothing of this part trains"):
        learning_rates.set_learning_rates(trainer, {"vision": 0.1})


def test_a_trained_tensor_that_the_parent_lacks_is_never_dropped() -> None:
    with pytest.raises(AssertionError, match=r"not in the parent.*'gone'"):
        export.load_tensors(Parts(), {"gone": torch.ones(1), "scale": torch.zeros(1)})
