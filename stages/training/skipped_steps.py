"""Steps that DeepSpeed skips because their gradient is not finite: counted, and told apart from weights that are not."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from pipeline.metrics.alarm_measures import SKIPPED
from stages.training.metrics_log import MetricsCallback


class SkippedSteps(TrainerCallback):
    """Writes the number of skipped steps into the log row they belong to, where the weights are finite after them.

    In bfloat16 and float32, ZeRO-1 to 3 agree over all ranks that a gradient is not finite, report its norm as inf, and take no
    step: weights, moments and the learning rate's schedule stay as they were. Without DeepSpeed such a step is taken, and
    makes NaN of the weights.

    Args:
        trainer: of the stage.
        journal: what keeps its log rows.
    """

    def __init__(self, trainer: Any, journal: MetricsCallback) -> None:
        self.trainer, self.journal = trainer, journal

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        accelerator = self.trainer.accelerator
        if not accelerator.optimizer_step_was_skipped:
            return
        # Steps are skipped too, all of them, when an earlier one has broken the weights.
        broken = torch.tensor(float(not finite(model)), device=accelerator.device)
        if not accelerator.reduce(broken, reduction="sum"):
            self.journal.figures[SKIPPED] = self.journal.figures.get(SKIPPED, 0.0) + 1.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            # transformers subtracts what it has logged from itself; of NaN that leaves NaN in every later row.
            self.trainer._tr_loss.zero_()


def finite(model: torch.nn.Module) -> bool:
    """Check whether what this process holds of a model's weights is finite."""
    # Under ZeRO-3 a parameter is empty, and this process's part lies beside it.
    return all(bool(torch.isfinite(getattr(one, "ds_tensor", one)).all()) for one in model.parameters())


def add(trainer: Any, journal: MetricsCallback) -> None:
    """Have the trainer tell which of its steps were skipped."""
    trainer.add_callback(SkippedSteps(trainer, journal))
