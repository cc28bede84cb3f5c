"""Learning rates per part of the model: optimizer groups in a fixed order, and each part's rate in the log."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from pipeline.config.families import PART_PREFIXES, part_of
from pipeline.errors import UserError

OTHER = "other"
"""What belongs to no named part; it keeps the trainer's rate."""


def set_learning_rates(trainer: Any, rates: dict[str, float]) -> None:
    """Have the trainer's optimizer train some parts at rates of their own; the schedule multiplies all alike.

    Args:
        trainer: before training.
        rates: part to learning rate; the other parts keep the trainer's. Empty: the trainer's own groups.

    Raises:
        UserError: when nothing of a named part trains.
    """
    if not rates:
        return
    groups = part_groups(trainer, rates)
    for part in rates:
        if part not in {group["part"] for group in groups}:
            raise UserError(
                f"learning_rates.{part}: nothing of this part trains (it is absent, frozen, or reached by no adapter)"
            )
    optimizer, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    trainer.optimizer_cls_and_kwargs = optimizer, {**arguments, "params": groups}
    trainer.add_callback(LoggedRates())


def part_groups(trainer: Any, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Return optimizer groups of what trains, by part and weight decay. Parts at the trainer's own rate come first:
    it is logged.
    """
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    trained = [(name, tensor) for name, tensor in trainer.model.named_parameters() if tensor.requires_grad]
    groups = []
    for part in sorted([*PART_PREFIXES, OTHER], key=lambda part: part in rates):
        for decay in (True, False):
            found = [tensor for name, tensor in trained if (part_of(name) or OTHER, name in decayed) == (part, decay)]
            if found:
                rate = rates.get(part, trainer.args.learning_rate)
                weight_decay = trainer.args.weight_decay if decay else 0.0
                groups.append({"params": found, "lr": rate, "weight_decay": weight_decay, "part": part})
    return groups


class LoggedRates(TrainerCallback):
    """Logs `learning_rate/<part>`: the rate that the last step was taken with, from the optimizer itself."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates = {f"learning_rate/{group['part']}": group["lr"] for group in optimizer.param_groups}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is not None and "learning_rate" in logs:
            logs |= self.rates
