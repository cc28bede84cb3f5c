"""Whether the processes of a stage train one model: where gradients are not shared each trains its own, unnoticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from pipeline.errors import UserError

OF_A_TENSOR = 256
"""Numbers of a weight tensor that are compared, spread over it."""
APART = 0.05
"""Largest difference between two processes, as a share of what training has moved. GPUs of two kinds round apart by a thousandth
of the first step's move; processes that train alone are as far from each other as from where they began."""


class Together(TrainerCallback):
    """Compares the trained weights of all processes after the first step that moves some and at every save, and ends a stage that
    trains apart. With a warm-up the first step moves nothing.

    Under ZeRO-3, whose processes hold different parts of one model, nothing is compared.

    Args:
        accelerator: the trainer's.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.held: list[torch.Tensor] = []
        self.begun = torch.empty(0)
        self.moved = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        # Once: what asks for gradients may change while a reference is asked. What ZeRO-3 shares out comes and goes.
        self.held = [one for one in model.parameters() if one.requires_grad and not hasattr(one, "ds_id")]
        self.begun, self.moved = some_of(self.held), False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.moved:
            self._compare(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._compare(state.global_step)

    def _compare(self, step: int) -> None:
        if not len(self.begun):
            return
        now = self.accelerator.gather(some_of(self.held)[None])
        moved = float((now - self.begun).abs().max())
        self.moved = moved > 0
        apart = (now - now[0]).abs().amax(1)
        if float(apart.max()) > APART * moved:
            raise UserError(
                f"processes 0 and {int(apart.argmax())} train apart: after step {step} their weights differ by "
                f"{float(apart.max()):.2g}, and training has moved weights by {moved:.2g}. Gradients are not shared, so this "
                "stage is of no use; train it anew with launch.deepspeed: zero2, or in one process, and report it"
            )


@torch.no_grad()
def some_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return numbers spread over each of some tensors, as float32: shape (numbers,)."""
    flat = [one.detach().flatten() for one in tensors]
    return torch.cat([one[:: -(-len(one) // OF_A_TENSOR)].float() for one in flat]) if flat else torch.empty(0)
