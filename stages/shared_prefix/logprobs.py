"""A prompt and its image go through the model once for all completions of the prompt: log-probabilities and gradients.

TRL carries a copy of them for each completion. What is computed here is the same (docs/performance.md), with
``P − 1 + V + G·C`` tokens in place of ``G·(P + V + C)`` for G completions of C tokens, a prompt of P, and an image that costs V.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import shuffle_sequence_dict

from stages.models.loading import FIELDS, image_token_id, plain
from stages.shared_prefix.attention import enable, why_not
from stages.shared_prefix.packing import Packed
from stages.shared_prefix.row_groups import Row, count_token, of_text, same_rows, split_rows

log = logging.getLogger(__name__)

LEAST_GAIN = 1.1
"""Tokens TRL computes, as a multiple of those of shared prompts, below which a batch is left to TRL."""

Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""(log-probabilities, entropies, auxiliary loss) as TRL gives them: of the completions' tokens, (rows, `logits_to_keep`)."""


@dataclass(frozen=True)
class ScoredRows:
    """Rows whose completions a model scores."""

    input_ids: torch.Tensor
    """(rows, tokens), prompts padded on the left, completions on the right."""
    attention_mask: torch.Tensor
    """The same shape."""
    logits_to_keep: int
    """Tokens of a completion with its padding."""
    fields: Sequence[Row]
    """Of each row: what the model takes beside its tokens."""
    num_images: list[int] | None
    num_tiles: list[int] | None
    image_token: int | None
    """That stands for a piece of picture; None where a model tells none."""

    @property
    def shown(self) -> Sequence[Row]:
        """What the model takes of each row. Where no row shows a picture, no empty tensors of pictures: families refuse them."""
        if self.image_token is None or "pixel_values" not in self.fields[0]:
            return self.fields
        prompts = self.input_ids[:, : -self.logits_to_keep]
        return self.fields if (prompts == self.image_token).any() else [of_text(row) for row in self.fields]

    def __getitem__(self, rows: slice) -> ScoredRows:
        return ScoredRows(
            self.input_ids[rows],
            self.attention_mask[rows],
            self.logits_to_keep,
            self.fields[rows],
            self.num_images and self.num_images[rows],
            self.num_tiles and self.num_tiles[rows],
            self.image_token,
        )

    def __len__(self) -> int:
        return len(self.input_ids)


def enable_sharing(trainer: Any) -> bool:
    """Let a trainer's models share prompts where it is exact; say so where it is not. Return whether they do.

    Args:
        trainer: a trl.GRPOTrainer.
    """
    reason = why_not(trainer.accelerator.unwrap_model(trainer.model))
    if trainer.args.neftune_noise_alpha:
        reason = "the noise of neftune_noise_alpha would be the same for all completions of a prompt"
    if reason:
        log.info(f"  shared_prefix: off, {reason}")
        return False
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            enable(trainer.accelerator.unwrap_model(model))
    return True


def split_batch(trainer: Any, tokens: torch.Tensor, fields: dict[str, Any], num_images: list[int] | None) -> list[Row]:
    """Split what a batch has beside its tokens into rows.

    Args:
        trainer: a trl.GRPOTrainer.
        tokens: (rows, tokens) of the prompts; padding is -1.
        fields: name: tensor of the batch, or a list of one tensor per row; None is left out.
        num_images: of each row.
    """
    token = image_token_id(trainer.accelerator.unwrap_model(trainer.model))
    return split_rows(fields, count_token(tokens, token), num_images)


def shared_logps(trainer: Any, model: Any, batch: ScoredRows, compute_entropy: bool) -> Scores | None:
    """Score completions, each prompt in the batch once; None where that gains nothing.

    Args:
        trainer: a trl.GRPOTrainer, whose models `enable_sharing` has prepared.
        model: the policy or the reference.
        batch: what is computed at once.
        compute_entropy: whether entropies are wanted.
    """
    prompts = torch.where(batch.attention_mask.bool(), batch.input_ids, -1)[:, : -batch.logits_to_keep]
    groups = same_rows(prompts.tolist(), batch.fields)
    if gain(groups, batch.attention_mask, batch.logits_to_keep) < LEAST_GAIN:
        return None
    packed = Packed.of(batch.input_ids, batch.attention_mask, batch.logits_to_keep, groups, batch.shown)
    with trainer.accelerator.autocast():
        output = model(
            input_ids=packed.tokens,
            attention_mask=torch.ones_like(packed.tokens),
            position_ids=packed.positions(prompt_positions(plain(trainer.accelerator.unwrap_model(model)), packed)),
            groups=packed.groups(),
            shift_labels=packed.labels,
            fused_lm_head=True,
            **packed.fields,
        )
    entropies = packed.by_row(output.entropy, batch.logits_to_keep) if compute_entropy else None
    return packed.by_row(output.log_probs, batch.logits_to_keep), entropies, None


log = logging.getLogger(__name__)


def prompt_positions(model: Any, packed: Packed) -> torch.Tensor:
    """Return positions of prompts' tokens as the model gives them: (prompts, tokens), or (3, prompts, tokens) of Qwen-VL."""
    count, tokens = packed.prompts.shape
    if "image_grid_thw" not in packed.fields:
        return torch.arange(packed.padding, packed.padding + tokens, device=packed.prompts.device).expand(count, -1)
    positions, _ = model.model.get_rope_index(
        packed.prompts,
        packed.fields["mm_token_type_ids"][:, :tokens],
        packed.fields["image_grid_thw"],
        attention_mask=packed.prompt_mask,
    )
    return positions


def split_rollout(trainer: Any, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a rollout into as many micro-batches as TRL does: the same rows in each optimizer step, drawn alike.

    Within an optimizer step the rows are sorted by prompt. Pixels become lists of one tensor per row, the same tensor for rows
    that ask the same.
    """
    steps = trainer.args.steps_per_generation
    prompts = torch.where(rollout["prompt_mask"].bool(), rollout["prompt_ids"], -1)
    fields = {name: rollout.get(name) for name in FIELDS}
    rows = split_batch(trainer, prompts, fields, rollout.get("num_images"))
    groups = same_rows(prompts.tolist(), rows)
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    for group in groups:
        kept = {name: value.clone() for name, value in rows[group[0]].items()}
        for row in group:
            rows[row] = kept
    per_row = {name: [row[name] for row in rows] for name in rows[0]}
    # Draws as TRL does.
    order = shuffle_sequence_dict({"row": torch.arange(len(rows))})["row"].tolist()
    # Rows move within an optimizer step, or within what of a rollout is in it.
    window = len(rows) // steps * math.gcd(steps, trainer.args.gradient_accumulation_steps)
    size = len(rows) // steps
    ordered: list[int] = []
    for start in range(0, len(rows), window):
        part = order[start : start + window]
        seen = {number: place for place, number in reversed(list(enumerate(map(group_of.__getitem__, part))))}
        ordered += sorted(part, key=lambda row: seen[group_of[row]])
    return [_selected({**rollout, **per_row}, ordered[start : start + size]) for start in range(0, size * steps, size)]


def gain(groups: list[list[int]], attention_mask: torch.Tensor, logits_to_keep: int) -> float:
    """Return the tokens TRL computes, as a multiple of those of shared prompts; images, which can only add to it, aside."""
    prompt, rows, most = attention_mask.shape[1] - logits_to_keep, len(attention_mask), max(map(len, groups))
    if prompt < 2 or most < 2:
        return 0.0
    return rows * (prompt + logits_to_keep) / (len(groups) * (prompt - 1 + most * logits_to_keep))


def _selected(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Return rows of a batch; numbers that count the whole of it stay."""

    def of_rows(value: Any) -> Any:
        if isinstance(value, list):
            return [value[row] for row in rows]
        return value if value is None or value.dim() == 0 else value[rows]

    return {name: of_rows(value) for name, value in batch.items()}
