"""The policy's weights as a plain checkpoint, while it trains: whatever DeepSpeed or LoRA make of them, and without a trace."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from stages.models.loading import compute_dtype, plain
from stages.processes.work import Work


def write_weights(trainer: Any, work: Work, folder: Path | None) -> int:
    """Write what the trainer's model computes with as safetensors. Called on all ranks; training goes on untouched.

    Args:
        trainer: while it trains.
        work: the stage.
        folder: where to write, overwriting; None on ranks that do not.

    Returns:
        Bytes of the weights that this rank wrote; 0 on ranks that do not.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = served_weights(model, getattr(torch, compute_dtype(work.config)), keep=folder is not None)
    if folder is None:
        return 0
    size = sum(tensor.nbytes for tensor in weights.values())
    plain(model).save_pretrained(folder, state_dict=weights)
    return size


@torch.no_grad()
def served_weights(model: Any, dtype: torch.dtype, *, keep: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a model as a checkpoint names them, on the CPU, adapters merged. Called on all ranks.

    Under ZeRO-1 and 2 a module holds all that it computes with, so one rank takes its own; under ZeRO-3 all ranks put together
    one parameter after the other. What is kept is rounded on its device, before it is copied: on a GPU that halves the bytes.

    Args:
        model: plain, with adapters of peft, or one that DeepSpeed trains.
        dtype: of floating-point weights.
        keep: whether this rank wants them; the others get nothing and hold none longer than it takes to put it together.
    """
    shared_out = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not (keep or shared_out):
        return {}
    weights = {}
    for name, tensor in _merged(model, keep) if hasattr(model, "peft_config") else _own(model):
        with _whole([tensor]):
            if keep:
                tensor = tensor.detach()
                weights[name] = (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu()
    return weights


def _own(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each weight, in the same order on all ranks; tied ones come once, as a checkpoint has them."""
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _merged(model: Any, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a peft model with its adapter merged in, under the base model's names.

    A copy of one layer at a time is merged, because merging and unmerging the layer itself would leave rounding errors in it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    wrapped = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)
    }
    for part, module in wrapped.items():
        if isinstance(module, ModulesToSaveWrapper):
            inner = module.modules_to_save[module.active_adapters[0]].state_dict(keep_vars=True)
            yield from ((f"{part}.{name}", tensor) for name, tensor in inner.items())
            continue
        with _whole(module.parameters()):
            if not keep:
                continue
            layer = copy.deepcopy(module)
        layer.merge()
        yield from ((f"{part}.{name}", tensor) for name, tensor in layer.get_base_layer().state_dict().items())
    for name, tensor in _own(base):
        if not any(name.startswith(f"{part}.") for part in wrapped):
            yield name, tensor


@contextlib.contextmanager
def _whole(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within the block, those of the tensors that DeepSpeed shares out among ranks are whole on each of them."""
    parts = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    if not parts:
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(parts):
        yield
