"""Decoding with transformers' `generate`, in which a finished row is computed no longer and a new token copies none before it.

`generate` computes every row until the longest is finished. Its own loop, which sees all rows, is left as it is: it still draws
the random numbers, asks logits processors, ends rows and counts the forward passes that ZeRO-3's processes take together. Only
the model's forward pass is given the unfinished rows; zeros stand for the logits of the others, whose tokens are padding anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.config.families import FAMILIES
from stages.models.loading import FIELDS, plain

AHEAD = 64
"""Tokens that room is set aside for at once."""
PER_ROW = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
"""Tensors that a step of decoding takes, beside the cache."""
PICTURES = set(FIELDS) - PER_ROW
"""Tensors that some families are given at every step and read at the first alone."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache that writes each new token into room set aside, where transformers' own copies all of them each time."""

    keys: torch.Tensor
    values: torch.Tensor
    room: tuple[torch.Tensor, torch.Tensor]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """All keys and values, the new ones last: (rows, heads, tokens, width)."""
        begun, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        keys, values = self.room
        if end > keys.shape[-2] or self.keys.data_ptr() != keys.data_ptr():  # It is full, or rows were selected since.
            keys, values = self.room = self._copies(end + AHEAD)
        keys[..., begun:end, :], values[..., begun:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def keep(self, count: int, holes: torch.Tensor, fillers: torch.Tensor) -> None:
        """Let go of all rows but the first `count`, after the rows `fillers` have taken the places `holes` among them."""
        for states in (self.keys, self.values):
            states[holes] = states[fillers]
        self.keys, self.values = self.keys[:count], self.values[:count]
        self.room = (self.room[0][:count], self.room[1][:count])

    def _copies(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (one.new_empty(*one.shape[:-2], tokens, one.shape[-1]) for one in (self.keys, self.values))
        held = self.keys.shape[-2]
        keys[..., :held, :], values[..., :held, :] = self.keys, self.values
        return keys, values


class LiveRows:
    """Hooks around a model's forward pass that take the finished rows of a batch out of it.

    Args:
        cache: after the prefill, of `RoomyLayer`s.
        rows: of the batch.
        ends: the tokens that finish a row.
    """

    def __init__(self, cache: DynamicCache, rows: int, ends: torch.Tensor) -> None:
        self.cache, self.ends = cache, ends
        self.finished = torch.zeros(rows, dtype=torch.bool, device=ends.device)
        self.rows = torch.arange(rows, device=ends.device)  # Of the batch, in the order the cache has them in.

    def select(self, model: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What of the batch the forward pass is given."""
        tensors = {name: one for name, one in given.items() if isinstance(one, torch.Tensor) and name not in PICTURES}
        if not {"attention_mask", "position_ids"} <= tensors.keys() <= PER_ROW:
            return args, given
        self.finished |= torch.isin(given["input_ids"][:, -1], self.ends)
        live = ~self.finished[self.rows]
        count = int(live.sum())
        if 0 < count < len(live):  # With ZeRO-3 a process without live rows takes part until all processes are done.
            holes, fillers = (~live[:count]).nonzero()[:, 0], live[count:].nonzero()[:, 0] + count
            for layer in self.cache.layers:
                layer.keep(count, holes, fillers)
            self.rows[holes] = self.rows[fillers]
            self.rows = self.rows[:count]
        if len(self.rows) == len(self.finished):
            return args, given
        chosen = {
            name: one.index_select(-2 if name == "position_ids" else 0, self.rows) for name, one in tensors.items()
        }
        return args, {**given, **chosen}

    def spread(self, model: Any, args: Any, given: dict[str, Any], output: Any) -> Any:
        """Logits of all rows of the batch."""
        if len(self.rows) < len(self.finished):
            full = output.logits.new_zeros(len(self.finished), *output.logits.shape[1:])
            output.logits = full.index_copy_(0, self.rows, output.logits)
        return output


@contextlib.contextmanager
def live_rows(model: Any) -> Iterator[None]:
    """Within the block, `generate` gives what it gives outside of it, without computing finished rows.

    Beam search, caches that are not of full attention or not `generate`'s own, and models that are neither of `FAMILIES` nor of
    text alone are left to transformers.

    Args:
        model: as transformers loads it, or with adapters of peft.
    """
    model = plain(model)
    prefill, hooks = model._prefill, contextlib.ExitStack()

    def then_decode(input_ids: torch.Tensor, generation_config: Any, model_kwargs: dict[str, Any], **how: Any) -> Any:
        hooks.close()
        output = prefill(input_ids, generation_config, model_kwargs, **how)
        cache = output.get("past_key_values")
        if _knows(model, generation_config, cache):
            for layer in cache.layers:
                layer.__class__, layer.room = RoomyLayer, (layer.keys, layer.values)
            live = LiveRows(cache, len(input_ids), generation_config._eos_token_tensor)
            hooks.callback(model.register_forward_pre_hook(live.select, with_kwargs=True).remove)
            hooks.callback(model.register_forward_hook(live.spread, with_kwargs=True).remove)
        return output

    with hooks, replaced(model, "_prefill", then_decode):
        yield


def _knows(model: Any, generation_config: Any, cache: Any) -> bool:
    """Whether a step of decoding takes nothing of a row but its last token, mask and position, and layers of `cache`."""
    return (
        (model.config.model_type in FAMILIES or model.config.get_text_config() is model.config)
        and generation_config.num_beams == 1
        and not generation_config.return_dict_in_generate
        and generation_config._eos_token_tensor is not None
        and type(cache) is DynamicCache
        and not (cache.offloading or getattr(cache, "_is_user_defined", False))
        and all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
    )


@contextlib.contextmanager
def replaced(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Within the block, this object alone has another method; blocks may lie in one another."""
    before = vars(owner).get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)
