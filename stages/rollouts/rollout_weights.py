"""A model that trains in mixed precision, while it samples: bfloat16 weights with adapters merged, and so a bfloat16 cache.

Between updates weights do not change, but under autocast every token reads them all in float32 and rounds them anew, keeps its
keys and values in float32, and computes each adapter beside its layer. Here they are rounded, and merged, once for a rollout.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any

import torch

from stages.models.loading import FIELDS, plain


def weights_of_rollouts(trainer: Any) -> contextlib.AbstractContextManager[None]:
    """Return what `rounded_weights` is for a trainer's model; nothing where the model computes in its own precision anyway.

    That is in float32, under DeepSpeed, whose modules hold rounded weights, and with quantized weights, which are not merged.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    mixed = trainer.args.bf16 and not trainer.is_deepspeed_enabled
    if not mixed or getattr(plain(model), "is_quantized", False):
        return contextlib.nullcontext()
    return rounded_weights(model, torch.bfloat16)


@contextlib.contextmanager
def rounded_weights(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Within the block, a model generates as one does that transformers loads in `dtype`; after it all is as it was, bit for bit.

    Args:
        model: with or without adapters of peft and accelerate's autocast around its forward pass; nothing of it is in a graph.
        dtype: of weights, activations and the cache.
    """
    base = plain(model)
    with contextlib.ExitStack() as until_the_end:
        # In the place of the masters, not as their data: data of another type cuts a parameter from its gradient accumulator, on
        # which DistributedDataParallel has its hook, and from then on each process would train alone.
        rounded = {id(tensor): _like(tensor, value.to(dtype)) for tensor, value in _values(model)}
        for module in base.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and id(tensor) in rounded:
                        until_the_end.callback(held.__setitem__, name, tensor)
                        held[name] = rounded[id(tensor)]
        for layer in _adapted(base).values():
            until_the_end.callback(setattr, layer, "_disable_adapters", layer._disable_adapters)
            layer._disable_adapters = True
        if (forward := vars(model).get("_original_forward")) is not None:
            until_the_end.callback(setattr, model, "forward", model.forward)
            model.forward = forward
        until_the_end.callback(base.register_forward_pre_hook(_pictures_in(dtype), with_kwargs=True).remove)
        yield


def _like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A parameter of a parameter's value, a buffer of a buffer's."""
    return torch.nn.Parameter(value, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else value


@torch.no_grad()
def _values(model: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor that is rounded, once, with the value to round: an adapted layer's is with its adapters merged.

    A copy of one layer at a time is merged, because merging and unmerging the layer itself would leave rounding errors in it.
    """
    base = plain(model)
    adapted = _adapted(base)
    seen = set()
    for layer in adapted.values():
        merged = copy.deepcopy(layer)
        merged.merge()
        values = merged.get_base_layer().state_dict()
        for name, tensor in layer.get_base_layer().state_dict(keep_vars=True).items():
            seen.add(id(tensor))
            if tensor.is_floating_point():
                yield tensor, values[name]
    # What a checkpoint in `dtype` would hold rounded; buffers that are not in it stay, as do parts that a model keeps exact.
    exact = [re.compile(name) for name in getattr(base, "_keep_in_fp32_modules_strict", None) or ()]
    for name, tensor in base.state_dict(keep_vars=True).items():
        within = any(name.startswith(f"{part}.") for part in adapted)
        if within or id(tensor) in seen or any(one.search(name) for one in exact) or not tensor.is_floating_point():
            continue
        # Tied weights are one tensor.
        seen.add(id(tensor))
        yield tensor, tensor.data


def _adapted(base: Any) -> dict[str, Any]:
    """Layers with adapters of peft, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}


def _pictures_in(dtype: torch.dtype) -> Any:
    """A hook that gives a model its pictures in `dtype`: not every family rounds them itself."""

    def rounded(model: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        pixels = {name: given[name] for name in FIELDS if torch.is_tensor(given.get(name))}
        changed = {name: one.to(dtype) for name, one in pixels.items() if one.is_floating_point()}
        return args, {**given, **changed}

    return rounded
