"""The policy's weights as a plain checkpoint, while it trains: whatever DeepSpeed or LoRA make of them, and without a trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from stages.checkpoints.export import full
from stages.models.loading import compute_dtype
from stages.processes.work import Work


def write_weights(trainer: Any, work: Work, folder: Path | None) -> None:
    """Write what the trainer's model computes with as safetensors. Called on all ranks; training goes on untouched.

    Args:
        trainer: while it trains.
        work: the stage.
        folder: where to write, overwriting; None on ranks that do not.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if work.config.model.peft is not None:
        weights: dict[str, torch.Tensor] | None = merged_weights(model)
        model = model.get_base_model()
    elif work.config.launch.deepspeed:
        weights = gathered_weights(model)
    else:
        weights = model.state_dict()
    if folder is None:
        return
    assert weights is not None
    dtype = getattr(torch, compute_dtype(work.config))
    written: dict[int, str] = {}  # Tied weights come once, as a checkpoint has them.
    weights = {
        name: tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in weights.items()
        if written.setdefault(tensor.data_ptr(), name) == name
    }
    model.save_pretrained(folder, state_dict=weights)


def gathered_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The float32 weights of a model that DeepSpeed trains, on the CPU. Called on all ranks, which share them out."""
    weights = {name: full(parameter) for name, parameter in model.named_parameters()}
    kept = model.state_dict().keys()  # A buffer that is not in it is not part of a checkpoint.
    return weights | {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in kept}


@torch.no_grad()
def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a peft model with its adapter merged in, under the base model's names.

    A copy of one layer at a time is merged, because merging and unmerging the layer itself would leave rounding errors in it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    wrapped = {}
    for name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            layer = copy.deepcopy(module)
            layer.merge()
            wrapped[name] = layer.get_base_layer().state_dict()
        elif isinstance(module, ModulesToSaveWrapper):
            wrapped[name] = module.modules_to_save[module.active_adapters[0]].state_dict()
    plain = base.state_dict().items()
    weights = {name: tensor for name, tensor in plain if not any(name.startswith(f"{part}.") for part in wrapped)}
    for part, own in wrapped.items():
        weights |= {f"{part}.{name}": tensor for name, tensor in own.items()}
    return weights
