"""Float32 masters as the parent has them: under DeepSpeed in bfloat16 they begin as the module's rounded weights otherwise.

DeepSpeed rounds the module first and takes its copies for the masters. So every stage would begin on the grid of bfloat16, and
what a short stage at a rate of 1e-6 has learned, less than half a step of that grid for most weights, would be gone at the start
of the next one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from stages.checkpoints.export import load_parent
from stages.processes.work import Work


class FullMasters(TrainerCallback):
    """Gives a stage that begins the float32 weights of its parent; one that goes on has its own in the checkpoint.

    Args:
        accelerator: the trainer's.
        work: the stage.
        parent: the checkpoint it starts from.
    """

    def __init__(self, accelerator: Any, work: Work, parent: Path) -> None:
        self.accelerator, self.work, self.parent = accelerator, work, parent

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step:
            return
        values: dict[str, torch.Tensor] = {}
        if self.accelerator.is_main_process:
            # The adapters it makes draw random numbers.
            with torch.random.fork_rng(devices=[]):
                values = dict(load_parent(model, self.work, self.parent).named_parameters())
        fill_masters(model, values, self.accelerator)


@torch.no_grad()
def fill_masters(model: Any, values: dict[str, torch.Tensor], accelerator: Any) -> None:
    """Give the float32 masters of DeepSpeed the values they are rounded from. Called on all ranks.

    Args:
        model: in training.
        values: on rank 0, by name. What a master is no rounding of stays as it is: new adapters begin at random.
        accelerator: the trainer's.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rounded = safe_get_full_fp32_param(parameter)
        value = torch.empty_like(rounded)
        if accelerator.is_main_process:
            value.copy_(values[name])
        torch.distributed.broadcast(value, 0)
        if torch.equal(value.bfloat16().float(), rounded):
            _set_master(parameter, value)


def _set_master(parameter: Any, value: torch.Tensor) -> None:
    """Set what this process holds of a parameter's master."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    if not hasattr(parameter, "ds_id"):
        safe_set_full_fp32_param(parameter, value)
        return
    # DeepSpeed's own sharing out fails where the parts are not equal.
    size = parameter.ds_tensor.numel()
    start = torch.distributed.get_rank(parameter.ds_process_group) * size
    part = value.flatten()[start : start + size]
    safe_set_local_fp32_param(parameter, torch.nn.functional.pad(part, (0, size - len(part))))
