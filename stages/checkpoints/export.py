"""A trained model as plain float32 weights: its parent, with what was trained put in place and adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stages.models.loading import load_processor, peft_config, whole_weights
from stages.processes.work import Work

ADAPTER = "default"
"""peft's name for the one adapter; a component of the name of every tensor that belongs to it."""


def export(trainer: Any, work: Work, parent: Path, folder: Path) -> Any:
    """Write the model that a trainer holds, and its parent's processor, as a plain Hugging Face folder.

    Called on all ranks; rank 0 writes.

    What was not trained comes from the parent's own files: the module may hold it rounded to bf16, quantised or in parts.

    Args:
        trainer: after training, plain or under DeepSpeed.
        work: the stage.
        parent: the checkpoint it started from.
        folder: where to write.

    Returns:
        The model as it was written, on rank 0; None elsewhere.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = trained_tensors(model, main=trainer.accelerator.is_main_process)
    if not trainer.accelerator.is_main_process:
        return None
    whole = load_parent(model, work, parent)
    load_tensors(whole, trained)
    if work.config.model.peft is not None:
        whole = whole.merge_and_unload()
    whole.save_pretrained(folder)
    load_processor(parent, work.config).save_pretrained(folder)
    return whole


def load_parent(model: Any, work: Work, parent: Path) -> Any:
    """Return the checkpoint that a stage started from in float32 on the CPU, with names as in the model that trains: new adapters
    stand where that has its own.
    """
    config = work.config
    kind = type(model if config.model.peft is None else model.get_base_model())
    with whole_weights():
        whole = kind.from_pretrained(parent, dtype=torch.float32, trust_remote_code=config.model.trust_remote_code)
    if config.model.peft is None:
        return whole
    from peft import get_peft_model

    return get_peft_model(whole, peft_config(work, load_processor(parent, config).tokenizer))


def trained_tensors(model: torch.nn.Module, main: bool) -> dict[str, torch.Tensor]:
    """Return the float32 masters of all that trained, buffers, and an adapter's fixed parts, on the CPU of rank 0;
    empty elsewhere.

    Called on all ranks. Under bf16 a module that DeepSpeed trains holds rounded copies, in which most of a short stage at a
    learning rate of 1e-6 would be lost; under ZeRO-3 it holds parts.
    """
    tensors = {}
    # Tied weights come once, as a checkpoint has them.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or ADAPTER in name.split("."):
            value = full_tensor(parameter)
            if main:
                tensors[name] = value
    if main:
        # A buffer that is not in it is not part of a checkpoint.
        kept = model.state_dict().keys()
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept or ADAPTER in name.split(".")}
        tensors |= {name: buffer.detach().cpu().clone() for name, buffer in buffers.items()}
    return tensors


def full_tensor(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a parameter's float32 values, gathered from all ranks when DeepSpeed shares it out."""
    partitioned = hasattr(parameter, "ds_id")
    if partitioned or hasattr(parameter, "_hp_mapping"):
        from deepspeed import zero
        from deepspeed.utils import safe_get_full_fp32_param

        master = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        if master is not None:
            return master.detach().float().cpu().clone()
        with zero.GatheredParameters([parameter], enabled=partitioned):
            return parameter.detach().float().cpu().clone()
    return parameter.detach().float().cpu().clone()


@torch.no_grad()
def load_tensors(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give a model's tensors new values, by name. A buffer that is the model's own but rounded, as DeepSpeed has it, stays."""
    buffers = dict(model.named_buffers())
    own = dict(model.named_parameters()) | buffers
    strange = {name for name, tensor in tensors.items() if name not in own or own[name].shape != tensor.shape}
    assert not strange, f"not in the parent, or of another shape there: {sorted(strange)}"
    for name, tensor in tensors.items():
        if name not in buffers or not torch.equal(own[name].to(tensor.dtype), tensor):
            own[name].copy_(tensor)
