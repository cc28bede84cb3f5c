"""A prompt and its image go through the model once for all completions of the prompt: log-probabilities and gradients.

TRL carries a copy of them for each completion. What is computed here is the same (docs/performance.md), with
``P − 1 + V + G·C`` tokens in place of ``G·(P + V + C)`` for G completions of C tokens, a prompt of P, and an image that costs V.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import shuffle_sequence_dict

from stages.models.loading import FIELDS, image_token_id, plain
from stages.shared_prefix.attention import enable, why_not
from stages.shared_prefix.packing import Packed
from stages.shared_prefix.rollouts import SharedRollouts
from stages.shared_prefix.row_groups import Row, count_token, join_rows, same_rows, split_rows

log = logging.getLogger(__name__)

TOLERANCE = {False: 1e-4, True: 2e-2}
"""Mean difference of log-probabilities, in nats per token, from which the first batch is said to be computed otherwise than by
TRL; in float32, and in bfloat16, whose rounding alone makes some thousandths. On a card where TRL itself differs by more when it
takes two rows at once instead of one, `NOISES` times that."""
NOISES = 3.0
LEAST_GAIN = 1.1
"""Tokens TRL computes, as a multiple of those of shared prompts, below which a batch is left to TRL."""


class SharedPrefix(SharedRollouts):
    """What of trl.GRPOTrainer changes when completions share their prompt; until `share_prefixes` nothing does."""

    _compared = False

    def share_prefixes(self: Any) -> None:
        """Share from now on where it is exact; say so where it is not."""
        reason = why_not(self.accelerator.unwrap_model(self.model))
        if self.args.neftune_noise_alpha:
            reason = "the noise of neftune_noise_alpha would be the same for all completions of a prompt"
        if reason:
            log.info(f"  shared_prefix: off, {reason}")
            return
        for model in (self.model, self.ref_model):
            if model is not None:
                enable(self.accelerator.unwrap_model(model))
        self.sharing = True

    def _prepare_inputs(self: Any, generation_batch: Any) -> Any:
        """As TRL's, with the rows of an optimizer step sorted by prompt: the same rows in each step, drawn alike."""
        if not self.sharing or not self.model.training:
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            rollout = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self._micro_batches(rollout, steps)
        return self._buffered_inputs[self._step % steps]

    def _micro_batches(self: Any, rollout: dict[str, Any], steps: int) -> list[dict[str, Any]]:
        """A rollout in `steps` equal parts. Pixels are lists of one tensor per row, the same tensor for rows of a group."""
        prompts = torch.where(rollout["prompt_mask"].bool(), rollout["prompt_ids"], -1)
        rows = split_rows(
            {name: rollout.get(name) for name in FIELDS}, self._image_tokens(prompts), rollout.get("num_images")
        )
        groups = same_rows(prompts.tolist(), rows)
        group_of = {row: number for number, group in enumerate(groups) for row in group}
        for group in groups:
            kept = {name: value.clone() for name, value in rows[group[0]].items()}
            for row in group:
                rows[row] = kept
        per_row = {name: [row[name] for row in rows] for name in rows[0]}
        order = shuffle_sequence_dict({"row": torch.arange(len(rows))})["row"].tolist()  # Draws as TRL does.
        # Rows move within an optimizer step, or within what of a rollout is in it.
        window = len(rows) // steps * math.gcd(steps, self.args.gradient_accumulation_steps)
        size = len(rows) // steps
        ordered: list[int] = []
        for start in range(0, len(rows), window):
            part = order[start : start + window]
            seen = {number: place for place, number in reversed(list(enumerate(map(group_of.__getitem__, part))))}
            ordered += sorted(part, key=lambda row: seen[group_of[row]])
        return [
            _selected({**rollout, **per_row}, ordered[start : start + size]) for start in range(0, size * steps, size)
        ]

    def _get_per_token_logps_and_entropies(
        self: Any,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        num_images: list[int] | None = None,
        num_tiles: list[int] | None = None,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """As TRL's: (log-probabilities, entropies) of the completions' tokens, (rows, `logits_to_keep`); 0 at padding."""
        how = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        if not self.sharing and not isinstance(fields.get("pixel_values"), list):
            media = {**fields, "num_images": num_images, "num_tiles": num_tiles}
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, batch_size, **how, **media
            )
        prompts = torch.where(attention_mask.bool(), input_ids, -1)[:, :-logits_to_keep]
        rows = split_rows(fields, self._image_tokens(prompts), num_images)
        size = batch_size or len(rows)

        def by_trl(start: int, stop: int, at_once: int = size) -> Any:
            return super(
                SharedPrefix, self
            )._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model,
                input_ids[start:stop],
                attention_mask[start:stop],
                logits_to_keep,
                at_once,
                **how,
                num_images=num_images and num_images[start:stop],
                num_tiles=num_tiles and num_tiles[start:stop],
                **join_rows(rows[start:stop]),
            )

        def once(start: int, stop: int) -> Any:
            """None where sharing gains nothing."""
            tokens, mask = input_ids[start:stop], attention_mask[start:stop]
            groups = same_rows(prompts[start:stop].tolist(), rows[start:stop])
            if not self.sharing or gain(groups, mask, logits_to_keep) < LEAST_GAIN:
                return None
            return self._shared(model, tokens, mask, logits_to_keep, groups, rows[start:stop], compute_entropy)

        if self.sharing and not self._compared:
            self._compare(once, by_trl, min(size, len(rows)), attention_mask[:, -logits_to_keep:])
        parts, shared = [], 0
        for start in range(0, len(rows), size):
            stop = min(start + size, len(rows))
            part = once(start, stop)
            shared += (stop - start) * (part is not None)
            parts.append(part or by_trl(start, stop))
        if self.model.training:
            self._metrics["train"]["shared_prefix/rows_ratio"].append(shared / len(rows))
        logps, entropies, _ = zip(*parts, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _shared(
        self: Any,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        groups: list[list[int]],
        rows: Sequence[Row],
        compute_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probabilities and entropies of one batch, each prompt in it once."""
        packed = Packed.of(input_ids, attention_mask, logits_to_keep, groups, rows)
        with self.accelerator.autocast():
            output = model(
                input_ids=packed.tokens,
                attention_mask=torch.ones_like(packed.tokens),
                position_ids=packed.positions(self._positions(model, packed)),
                groups=packed.groups(),
                shift_labels=packed.labels,
                fused_lm_head=True,
                **packed.fields,
            )
        entropies = packed.by_row(output.entropy, logits_to_keep) if compute_entropy else None
        return packed.by_row(output.log_probs, logits_to_keep), entropies, None

    def _positions(self: Any, model: Any, packed: Packed) -> torch.Tensor:
        """Of prompts' tokens, as the model gives them to them: (prompts, tokens), or (3, prompts, tokens) of Qwen-VL."""
        count, tokens = packed.prompts.shape
        if "image_grid_thw" not in packed.fields:
            return torch.arange(packed.padding, packed.padding + tokens, device=packed.prompts.device).expand(count, -1)
        positions, _ = plain(self.accelerator.unwrap_model(model)).model.get_rope_index(
            packed.prompts,
            packed.fields["mm_token_type_ids"][:, :tokens],
            packed.fields["image_grid_thw"],
            attention_mask=packed.prompt_mask,
        )
        return positions

    def _compare(self: Any, once: Any, by_trl: Any, rows: int, mask: torch.Tensor) -> None:
        """Hold the first shared batch against TRL's own log-probabilities; share no longer when they differ."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            expected, _, _ = by_trl(0, rows, 1)  # Row by row: the memory that sharing saves may not be there.
            again, _, _ = by_trl(0, rows, 2)  # Kernels of another shape: what rounding alone makes on this device.
            shared = once(0, rows)
            found = shared or by_trl(0, rows)  # All processes compute as often, for the sake of ZeRO-3.
        difference, noise = (((one - expected) * mask[:rows]).abs().sum() for one in (found[0], again))
        figures = torch.stack([difference, noise, mask[:rows].sum(), difference.new_tensor(shared is not None)]).float()
        total, own, tokens, anywhere = self.accelerator.reduce(figures, reduction="sum").tolist()
        if not anywhere:
            return
        self._compared = True
        mean, of_trl = total / max(1, tokens), own / max(1, tokens)
        limit = max(TOLERANCE[self.args.bf16 or self.args.fp16], NOISES * of_trl)
        self._metrics["train"]["shared_prefix/difference"].append(mean)
        self._metrics["train"]["shared_prefix/difference_of_trl"].append(of_trl)
        if not mean <= limit:
            self.sharing = False
            log.info(
                f"  warning: shared_prefix: off, as log-probabilities of the first batch are {mean:.1e} nats per token away from "
                f"TRL's (limit {limit:.0e}; TRL's own of one row and of two at a time are {of_trl:.1e} apart)"
            )

    def _image_tokens(self: Any, prompts: torch.Tensor) -> list[int]:
        return count_token(prompts, image_token_id(self.accelerator.unwrap_model(self.model)))


def gain(groups: list[list[int]], attention_mask: torch.Tensor, logits_to_keep: int) -> float:
    """Tokens that TRL computes, as a multiple of those of shared prompts; images, which can only add to it, aside."""
    prompt, rows, most = attention_mask.shape[1] - logits_to_keep, len(attention_mask), max(map(len, groups))
    if prompt < 2 or most < 2:
        return 0.0
    return rows * (prompt + logits_to_keep) / (len(groups) * (prompt - 1 + most * logits_to_keep))


def _selected(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Rows of a batch; numbers that count the whole of it stay."""

    def of_rows(value: Any) -> Any:
        if isinstance(value, list):
            return [value[row] for row in rows]
        return value if value is None or value.dim() == 0 else value[rows]

    return {name: of_rows(value) for name, value in batch.items()}
