"""Prompts that are asked several times: the processor makes each into tensors once, and `generate` reads each once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from stages.models.finished_rows import can_decode, decode
from stages.models.loading import image_token_id, plain
from stages.shared_prefix.row_groups import Row, join_rows, pad_kinds, same_rows, split_rows


@dataclass(frozen=True)
class ProcessedPrompts:
    """The prompts of a rollout as the processor made them, row by row."""

    ids: list[list[int]]
    """Tokens of each row, without padding."""
    fields: list[Row]
    """What the model takes of each row beside its tokens; rows that ask the same have the same tensors."""


def process_once(trainer: Any, prompts: Sequence[Any]) -> ProcessedPrompts:
    """Process prompts, each distinct one once.

    Args:
        trainer: a trl.GRPOTrainer; its own method makes templates, tokens and pixels.
        prompts: messages with pictures in them; a group's rows have the same picture object.
    """
    firsts, back = distinct([_asked(prompt) for prompt in prompts])
    ids, images, fields = trainer._tokenize_prompts([prompts[first] for first in firsts])
    stacked = {
        name: torch.stack(value) if isinstance(value, list) and isinstance(value[0], torch.Tensor) else value
        for name, value in fields.items()
    }
    token = image_token_id(trainer.accelerator.unwrap_model(trainer.model))
    counts = None if images is None else [len(one or ()) for one in images]
    rows = split_rows(stacked, [list(one).count(token) for one in ids], counts)
    made = [
        {
            name: value if isinstance(value, torch.Tensor) else torch.tensor([value])
            for name, value in trainer._prepare_input(row).items()
        }
        for row in rows
    ]
    return ProcessedPrompts([list(ids[one]) for one in back], [made[one] for one in back])


def complete_once(trainer: Any, prompts: ProcessedPrompts, num_generations: int) -> list[list[int]]:
    """Return complete prompts with transformers' `generate`, which reads each distinct one once.

    Generation settings that `decode` does not know, such as beams, are left to trl, which reads each row's prompt.

    Returns:
        Tokens of each row's completion, the one that ends it among them.
    """
    groups = same_rows(prompts.ids, prompts.fields)
    ours = can_decode(plain(trainer.accelerator.unwrap_model(trainer.model)), trainer.generation_config)
    rows = [group[0] for group in groups] if ours else list(range(len(prompts.ids)))
    tokens = [torch.tensor(prompts.ids[row]) for row in rows]
    padded = {"padding_side": "left", "pad_to_multiple_of": trainer.pad_to_multiple_of}
    input_ids = pad(tokens, padding_value=trainer.processing_class.tokenizer.pad_token_id, **padded)
    width = input_ids.shape[1]
    fields = join_rows([pad_kinds(prompts.fields[row], width) for row in rows])
    if not ours:
        completions: list[list[int]] = trainer._generate_single_turn(prompts.ids, None, fields, num_generations)[0]
        return completions
    mask = pad([torch.ones_like(one) for one in tokens], padding_value=0, **padded)
    inputs = trainer._prepare_input({"input_ids": input_ids, "attention_mask": mask, **fields})
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    repeats = torch.tensor([group_of[row] for row in range(len(prompts.ids))], device=inputs["input_ids"].device)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        torch.no_grad(),
    ):
        sequences = model.generate(
            **inputs, generation_config=trainer.generation_config, custom_generate=decode, repeats=repeats
        )
    return [cut(completion, trainer.eos_token_ids) for completion in sequences[:, width:].tolist()]


def cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Return tokens up to the first that ends a completion, with it; all, where none does."""
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return (places of the first of each key, for each place the number of its key among them)."""
    numbers: dict[Hashable, int] = {}
    back = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [back.index(number) for number in range(len(numbers))], back


def _asked(prompt: Sequence[Mapping[str, Any]]) -> Hashable:
    """Return what a prompt says; its pictures are the same when they are the same object, as those of a group's rows are."""

    def content(message: Mapping[str, Any]) -> Hashable:
        if isinstance(message["content"], str):
            return str(message["content"])
        return tuple(id(part["image"]) if part["type"] == "image" else str(part) for part in message["content"])

    return tuple((message["role"], content(message)) for message in prompt)
