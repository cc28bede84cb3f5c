"""Attention of several completions to one prompt, which lies in the sequence once.

A packed sequence is ``[all of the prompt but its last token][that token, completion 1][that token, completion 2] …``: every
token whose successor is scored is in a segment, and no token of the prompt but the last is there twice. A segment sees the
prompt and itself. That is two dense attentions, the prompt's own, and all segments as one batch over [prompt, segment], in place
of one over a square mask that would be mostly empty. The idea is Prefix Grouper's (arXiv 2506.05433).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.checks.adapters import PRICE_OF_DROPOUT, dropped
from pipeline.config.families import FAMILIES

NAME = "sdpa_of_groups"
"""Under which a text model's configuration asks transformers for it; without `groups` it is sdpa."""


@dataclass(frozen=True)
class Groups:
    """How the packed sequences of a batch are divided. It travels in the model's keyword arguments, as layers that gradient
    checkpointing runs again have nothing else."""

    prefix: int
    """Tokens of a prompt but its last."""
    segments: int
    """Of each sequence; all are as long."""
    prefix_mask: torch.Tensor | None
    """(sequences, 1, prefix, prefix), True where it may look; None: causal."""
    segment_mask: torch.Tensor
    """(sequences × segments, 1, tokens of a segment, prefix + tokens of a segment), True where it may look. Where no prompt is
    padded, torch's `CausalBias` of the last two: flash attention takes it on a GPU, where no kernel but slower ones take a mask.
    """

    @classmethod
    def of(cls, prompt_mask: torch.Tensor, segments: int, length: int) -> Groups:
        """Return the division of sequences with `segments` segments of `length` tokens.

        Args:
            prompt_mask: (sequences, tokens of a prompt), 0 where it is padded; its last token is real.
        """
        real = prompt_mask[:, :-1].bool()
        prefix = real.shape[1]
        if real.all():
            return cls(prefix, segments, None, causal_lower_right(length, prefix + length))
        own = torch.ones(length, length, dtype=torch.bool, device=prompt_mask.device).tril()
        causal = own.new_ones(prefix, prefix).tril()
        # Padding sees itself: a softmax needs something.
        nothing = torch.eye(prefix, dtype=torch.bool, device=real.device)
        seen = real.repeat_interleave(segments, dim=0)[:, None, :].expand(-1, length, -1)
        segment_mask = torch.cat([seen, own.expand(len(seen), -1, -1)], dim=2)
        return cls(prefix, segments, ((causal & real[:, None, :]) | nothing)[:, None], segment_mask[:, None])


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    groups: Groups | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention as transformers calls it; query, key, value: (sequences, heads, tokens, width)."""
    if groups is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Autocast would do so later; the causal bias wants one dtype at once.
    device = query.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (states.to(dtype) for states in (query, key, value))
    first = groups.prefix
    prompt, _ = sdpa_attention_forward(
        module, query[:, :, :first], key[:, :, :first], value[:, :, :first], groups.prefix_mask, **kwargs
    )
    keys, values = (
        torch.cat([_repeated(one[:, :, :first], groups), _segments(one, groups)], dim=2) for one in (key, value)
    )
    completions, _ = sdpa_attention_forward(
        module, _segments(query, groups), keys, values, groups.segment_mask, **kwargs
    )
    # (sequences × segments, tokens, heads, width) -> (sequences, tokens of all segments, heads, width)
    return torch.cat([prompt, completions.reshape(len(prompt), -1, *prompt.shape[2:])], dim=1), None


def _segments(states: torch.Tensor, groups: Groups) -> torch.Tensor:
    """(sequences, heads, tokens, width) -> (sequences × segments, heads, tokens of a segment, width)."""
    own = states[:, :, groups.prefix :].unflatten(2, (groups.segments, -1))
    return own.transpose(1, 2).flatten(0, 1)


def _repeated(states: torch.Tensor, groups: Groups) -> torch.Tensor:
    """(sequences, …) -> (sequences × segments, …)."""
    return states[:, None].expand(-1, groups.segments, *states.shape[1:]).flatten(0, 1)


def why_not(model: Any) -> str | None:
    """Return why prompts cannot be shared in a model, or None when sharing is exact.

    Args:
        model: as transformers loads it, or with adapters of peft.
    """
    config = model.config
    text = config.get_text_config()
    if config.model_type not in FAMILIES:
        return f"no test holds that it is exact for {config.model_type}"
    if getattr(getattr(config, "vision_config", None), "model_type", None) == "pixtral":
        return "pixtral pads pictures to the widest of a batch, and no test holds that it is exact"
    if text._attn_implementation not in ("sdpa", NAME):
        return f"model.attn_implementation is {text._attn_implementation}; it needs sdpa"
    layers = set(
        getattr(text, "layer_types", None) or (["sliding_window"] if getattr(text, "sliding_window", None) else [])
    )
    if other := layers - {"full_attention"}:
        return f"layers of the text model attend otherwise ({', '.join(sorted(other))})"
    if getattr(text, "output_router_logits", False):
        return "its auxiliary loss counts each prompt as often as it is asked"
    adapters = getattr(model, "peft_config", {}).values()
    if found := next(filter(None, (dropped(vars(adapter)) for adapter in adapters)), None):
        return f"model.peft.{found} would drop the same of all completions of a prompt; {PRICE_OF_DROPOUT}"
    within = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    if within or any(
        getattr(part, "attention_dropout", None) for part in (text, getattr(config, "vision_config", None))
    ):
        return "dropout would be the same for all completions of a prompt"
    return None


def enable(model: Any) -> None:
    """Let a model take `groups`, a `Groups`, as a keyword argument of its forward pass. Nothing else changes."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config.get_text_config()._attn_implementation = NAME
