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
    """Compares the trained weights of all processes after the first step that moves some, at every save and at the end; ends a
    stage that trains apart. With a warm-up the first step moves nothing.

    Each tensor is held against its own move: a part with a lower rate may be the one whose gradients are not shared. Under
    ZeRO-3, whose processes hold different parts of one model, nothing is compared.

    Args:
        accelerator: the trainer's.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.held: list[torch.Tensor] = []
        self.begun: list[torch.Tensor] = []
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

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._compare(state.global_step)

    def _compare(self, step: int) -> None:
        if not self.held:
            return
        now = self.accelerator.gather(torch.cat(some_of(self.held))[None])
        for all_of_one, begun in zip(now.split([len(one) for one in self.begun], dim=1), self.begun, strict=True):
            moved = float((all_of_one - begun).abs().max())
            self.moved |= moved > 0
            apart = (all_of_one - all_of_one[0]).abs().amax(1)
            if float(apart.max()) > APART * moved:
                raise UserError(
                    f"processes 0 and {int(apart.argmax())} train apart: after step {step} their weights differ by "
                    f"{float(apart.max()):.2g}, and training has moved these weights by {moved:.2g}. Gradients are not shared, "
                    "so this stage is of no use; train it anew with launch.deepspeed: zero2, or in one process, and report it"
                )


@torch.no_grad()
def some_of(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies of numbers spread over each of some tensors, as float32: of each a tensor of shape (numbers,)."""
    flat = [one.detach().flatten() for one in tensors if one.numel()]
    return [one[:: -(-len(one) // OF_A_TENSOR)].float().clone() for one in flat]
