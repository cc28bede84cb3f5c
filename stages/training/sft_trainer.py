"""trl.SFTTrainer as the stages use it: every batch is counted."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from stages.training import batch_checks


class SupervisedTrainer(SFTTrainer):
    """trl.SFTTrainer whose log rows also hold the figures of `batch_checks.count_supervised`."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return TRL's loss; count the batch where TRL has just waited for the device to count its own."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        batch_checks.count_supervised(self, inputs)
        return loss
