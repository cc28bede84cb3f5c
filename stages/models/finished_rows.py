"""Decoding for transformers' `generate` in which a finished row is computed no longer and a new token copies none before it.

`generate` computes every row until the longest is finished. It takes a decoding loop of one's own (`custom_generate`): `decode`
below is transformers' loop for greedy and sampled decoding, in which each forward pass is given the unfinished rows alone.
Logits processors, random draws and stopping criteria still see the whole batch, with zeros for the logits of finished rows,
whose tokens are padding anyway; so tokens and random numbers are those of `generate` itself.

What transformers 5.17 leaves to this file: it has neither a cache with room set aside that can shrink, nor a hook between two
forward passes; and it does not hand `synced_gpus` to such a loop, which asks DeepSpeed for itself therefore.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.integrations import is_deepspeed_zero3_enabled

from pipeline.config.families import FAMILIES
from stages.models.loading import FIELDS

AHEAD = 64
"""Tokens that room is set aside for at once."""
PER_ROW = {"input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"}
"""Tensors that a step of decoding takes, beside the cache."""
PICTURES = set(FIELDS) - PER_ROW
"""Tensors that some families are given at every step and read at the first alone."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "use_cache": (None, True),
    "cache_implementation": (None, "dynamic"),
    "return_dict_in_generate": (None, False),
    "prefill_chunk_size": (None,),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
}
"""Options of generation that `decode` does not know, and the values at which they ask for nothing."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache that writes each new token into room set aside, where transformers' own copies all of them each time.

    Args:
        keys: (rows, heads, tokens, width), of the prompts.
        values: as keys.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.room = (keys, values)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Add the keys and values of new tokens; return all, the new ones last: (rows, heads, tokens, width)."""
        begun, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self.room[0].shape[-2]:
            self.room = (self._copy(self.keys, end + AHEAD), self._copy(self.values, end + AHEAD))
        keys, values = self.room
        keys[..., begun:end, :], values[..., begun:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def keep(self, count: int, holes: torch.Tensor, fillers: torch.Tensor) -> None:
        """Let go of all rows but the first `count`, after the rows `fillers` have taken the places `holes` among them."""
        for states in (self.keys, self.values):
            states[holes] = states[fillers]
        self.keys, self.values = self.keys[:count], self.values[:count]
        self.room = (self.room[0][:count], self.room[1][:count])

    @staticmethod
    def _copy(states: torch.Tensor, tokens: int) -> torch.Tensor:
        copy = states.new_empty(*states.shape[:-2], tokens, states.shape[-1])
        copy[..., : states.shape[-2], :] = states
        return copy


class RoomyCache(DynamicCache):
    """A cache of `RoomyLayer`s.

    Args:
        cache: after the prompts have been read.
        repeats: (rows,) which prompt each row goes on from; None: row by row.
    """

    layers: list[Any]

    def __init__(self, cache: DynamicCache, repeats: torch.Tensor | None) -> None:
        super().__init__()
        if repeats is not None:
            cache.batch_select_indices(repeats)
        self.layers = [RoomyLayer(layer.keys, layer.values) for layer in cache.layers]


class LiveRows:
    """The rows of a batch that are still computed.

    Args:
        rows: of the batch.
        cache: of all of them.
        device: of their tokens.
    """

    def __init__(self, rows: int, cache: RoomyCache, device: torch.device) -> None:
        self.rows, self.cache = rows, cache
        self.order = torch.arange(rows, device=device)
        """Places in the batch, in the order the cache has them in."""

    def drop_finished(self, unfinished: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take finished rows out of the cache and of what the next forward pass is given.

        Of none left, as when ZeRO-3's other processes still decode, the last are kept.

        Args:
            unfinished: (rows of the batch,) 1 where tokens are still to come.
            kwargs: of the model, for the rows that are computed.

        Returns:
            The same for those that are left.
        """
        live = unfinished[self.order].bool()
        count = int(live.sum())
        if not 0 < count < len(live):
            return kwargs
        holes, fillers = (~live[:count]).nonzero()[:, 0], live[count:].nonzero()[:, 0] + count
        for layer in self.cache.layers:
            layer.keep(count, holes, fillers)
        places = torch.arange(count, device=live.device)
        places[holes] = fillers
        self.order = self.order[places]
        return select_rows(kwargs, places)

    def spread(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits of all rows of the batch, (rows, vocabulary) in float32; zeros for those that are finished."""
        if len(self.order) == self.rows:
            return logits.to(copy=True, dtype=torch.float32)
        return logits.new_zeros(self.rows, logits.shape[-1], dtype=torch.float32).index_copy_(
            0, self.order, logits.float()
        )


def can_decode(model: Any, generation_config: GenerationConfig) -> bool:
    """Check whether `decode` gives what transformers' own loop gives.

    It does not know beams, caches that are not of full attention or not `generate`'s own, and models that are neither of
    `FAMILIES` nor of text alone.

    Args:
        model: as transformers loads it, or with adapters of peft.
        generation_config: what `generate` is to be given; the rest is the model's own.
    """
    for name, neutral in NEUTRAL.items():
        asked = getattr(generation_config, name, None)
        if (getattr(model.generation_config, name, None) if asked is None else asked) not in neutral:
            return False
    text = model.config.get_text_config(decoder=True)
    return (model.config.model_type in FAMILIES or text is model.config) and all(
        type(layer) is DynamicLayer for layer in DynamicCache(config=text).layers
    )


def decode(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    repeats: torch.Tensor | None = None,
    in_step: bool | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Decode a batch, greedily or by draws; `generate` calls this when it is its `custom_generate`.

    Args:
        model: as transformers loads it.
        input_ids: (prompts, tokens), padded on the left.
        logits_processor: as `generate` prepares it.
        stopping_criteria: as `generate` prepares it.
        generation_config: as `generate` prepares it.
        repeats: (rows,) which prompt each row goes on from: a prompt is read once for all its rows. None: each once.
        in_step: whether all processes take as many forward passes; None: with ZeRO-3.
        kwargs: of the model.

    Returns:
        (rows, tokens of a prompt and of its completion), padded on the right.
    """
    ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    padding = generation_config._pad_token_tensor
    if in_step is None:
        in_step = is_deepspeed_zero3_enabled() and torch.distributed.is_initialized()
    drops = ends and {"attention_mask", "position_ids"} <= tensor_names(kwargs) - PICTURES <= PER_ROW
    output = read_prompts(model, input_ids, kwargs)
    kwargs = model._update_model_kwargs_for_generation(output, kwargs)
    logits = output.logits[:, -1]
    if repeats is not None:
        input_ids, logits, kwargs = input_ids[repeats], logits[repeats], select_rows(kwargs, repeats)
    kwargs["past_key_values"] = RoomyCache(output.past_key_values, repeats)
    live = LiveRows(len(input_ids), kwargs["past_key_values"], input_ids.device)
    unfinished, done = torch.ones_like(input_ids[:, 0]), False
    with model._optimize_model_for_decode():
        while model._has_unfinished_sequences(done, in_step, device=input_ids.device):
            if output is None:
                inputs = model.prepare_inputs_for_generation(input_ids[live.order], next_sequence_length=1, **kwargs)
                output = model(**inputs, return_dict=True)
                kwargs = model._update_model_kwargs_for_generation(output, kwargs)
                logits = output.logits[:, -1]
            output = None
            if done:
                continue
            scores = logits_processor(input_ids, live.spread(logits))
            if generation_config.do_sample:
                tokens = torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)
            else:
                tokens = scores.argmax(dim=-1)
            if ends:
                tokens = tokens * unfinished + padding * (1 - unfinished)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            unfinished = unfinished & ~stopping_criteria(input_ids, None)
            done = not unfinished.any()
            if drops:
                kwargs = live.drop_finished(unfinished, kwargs)
    return input_ids


def read_prompts(model: Any, input_ids: torch.Tensor, kwargs: dict[str, Any]) -> Any:
    """Pass prompts, (prompts, tokens), through a model; return its output, the filled cache in it."""
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    return model(**inputs, return_dict=True)


def tensor_names(kwargs: dict[str, Any]) -> set[str]:
    """Return the names of a model's keyword arguments that are tensors."""
    return {name for name, value in kwargs.items() if isinstance(value, torch.Tensor)}


def select_rows(kwargs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Return a model's keyword arguments for some rows. Positions may be (rows, tokens) or (3, rows, tokens)."""
    chosen = {
        name: kwargs[name].index_select(-2 if name == "position_ids" else 0, rows)
        for name in tensor_names(kwargs) & PER_ROW
    }
    return {**kwargs, **chosen}
