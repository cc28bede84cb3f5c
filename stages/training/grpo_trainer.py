"""The trainer of the GRPO stages, top to bottom: sample, score, make a batch, share prompts, compare with TRL.

TRL's trainer does the mathematics of GRPO: advantages, reference, importance sampling, losses, logs. What is here decides what it
is given, and computes log-probabilities in less time. TRL 1.16 has a hook for sampling, `rollout_func`, which is used: it gives
token ids, logprobs and extra fields of its own to `_generate`, which decodes and counts them. It cannot give back more: the rows,
prompts and pictures of a batch are local variables of `_generate_and_score_completions`, so the further prompts of dynamic
sampling could not take the place of the step's own within it. Therefore a rollout is sampled and scored first, and TRL then
makes a batch of it, in which two of its methods hand over what is there already.

The private names of TRL and transformers that this needs are listed, with the digests their tests hold, in
`stages.training.private_names`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from stages.models.chat import read_completions
from stages.models.loading import image_token_id
from stages.processes.work import Work
from stages.rollouts.dynamic_sampling import replace_empty_groups, reward_metrics
from stages.rollouts.pending import PendingRollout, images_of, prompts_of
from stages.rollouts.rollout_weights import weights_of_rollouts
from stages.rollouts.vllm_rollouts import PolicyServer
from stages.shared_prefix.logprobs import (
    ScoredRows,
    Scores,
    enable_sharing,
    shared_logps,
    split_batch,
    split_rollout,
)
from stages.shared_prefix.rollouts import complete_once, process_once
from stages.shared_prefix.row_groups import Row, join_rows, pad_kinds
from stages.training import batch_checks

log = logging.getLogger(__name__)

TOLERANCE = {False: 1e-4, True: 2e-2}
"""Mean difference of log-probabilities, in nats per token, from which the first batch is said to be computed otherwise than by
TRL; in float32, and in bfloat16, whose rounding alone makes some thousandths. On a card where TRL itself differs by more when it
takes two rows at once instead of one, `NOISES` times that."""
NOISES = 3.0


class PolicyTrainer(GRPOTrainer):
    """trl.GRPOTrainer for one stage; with the defaults it trains as trl's own does, in less time.

    Its log rows also hold the figures of `batch_checks.count_rollout`.

    Args:
        work: the stage.
        kwargs: of trl.GRPOTrainer.
    """

    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, work: Work, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work
        self.rollout_func = lambda prompts, trainer: trainer.complete_prompts(prompts)
        self.server: PolicyServer | None = None
        """What samples in place of transformers, while `vllm_rollouts.policy_server` runs it."""
        self.sharing = work.stage.shared_prefix and enable_sharing(self)
        """Whether completions share their prompt."""
        self._compared = False
        self._pictures: list[int] = []
        """Of each row of the last batch."""
        self._mixed = False
        """Whether a rollout had rows that show pictures beside rows that show none."""
        self._rollouts: list[PendingRollout] | None = None
        """What TRL makes a batch of, while it does."""

    # Rows

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Read the rows of an optimizer step; with `rollouts_ahead` those of the next rollout besides."""
        if self.server is not None:
            epoch_iterator = self.server.read_rows(epoch_iterator, num_batches)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Return the next micro-batch; a new rollout is sampled when the last one is used up.

        As TRL's, but with the rows of an optimizer step sorted by prompt: the same rows in each step, drawn alike.
        """
        if not self.sharing or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_rollout(self, self._generate_and_score_completions(generation_batch))
        return self._buffered_inputs[self._step % steps]

    # A rollout

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Sample and score completions of these rows, and make a batch of them."""
        if self.server is not None:
            self.server.expect(inputs)
        rollouts = self.sample(inputs)
        if self.work.stage.dynamic_sampling and self.model.training:
            batch = self._batch_with_signal(rollouts)
        else:
            batch = self._batch(rollouts)
        batch_checks.count_rollout(self, batch, self._pictures)
        if self.server is not None:
            self.server.check_drift()
        return batch

    def sample(self, rows: list[dict[str, Any]], attempt: int = 0) -> list[PendingRollout]:
        """Return complete the prompts of rows and score the completions. Called on all ranks.

        Args:
            rows: of this process, each prompt in a row for each of its completions.
            attempt: round of dynamic sampling; 0 for a step's own prompts.
        """
        if self.server is not None:
            self.server.attempt = attempt
        prompts = prompts_of(rows)
        prompt_ids, completion_ids, _, completions, logprobs, extra, _, _ = super()._generate(prompts)
        # TRL leaves out tags that are special tokens, and a thought that the prompt opened.
        texts = read_completions(self.processing_class.tokenizer, prompt_ids, completion_ids)
        completions = [
            text if isinstance(one, str) else [{"role": "assistant", "content": text}]
            for one, text in zip(completions, texts, strict=True)
        ]
        rewards = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        first = self.accelerator.process_index * len(rows)
        nothing = [None] * len(rows)
        columns = (
            rows,
            prompts,
            prompt_ids,
            completion_ids,
            completions,
            logprobs or nothing,
            extra["fields"] or nothing,
        )
        own_rewards = rewards[first : first + len(rows)]
        return [PendingRollout(*values) for values in zip(*columns, own_rewards, strict=True)]

    def complete_prompts(self, prompts: list[Any]) -> dict[str, Any]:
        """Return complete prompts by the server or by transformers: TRL's `rollout_func`.

        Returns:
            Of each row `prompt_ids`, `completion_ids`, `logprobs` (None: not known) and `fields`, what the processor made of the
            prompt beside its tokens (None: it is TRL that shall ask it).
        """
        num_generations = self.num_generations if self.model.training else self.num_generations_eval
        fields, logprobs = None, None
        if self.sharing:
            processed = process_once(self, prompts)
            prompt_ids, fields = processed.ids, processed.fields
        else:
            prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)
        if self.server is not None:
            completion_ids, logprobs = self.server.complete(prompts, prompt_ids, num_generations)
        else:
            with weights_of_rollouts(self):
                if self.sharing:
                    completion_ids = complete_once(self, processed, num_generations)
                else:
                    completion_ids, _ = self._generate_single_turn(
                        prompt_ids, images, multimodal_fields, num_generations
                    )
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": logprobs, "fields": fields}

    def _batch_with_signal(self, rollouts: list[PendingRollout]) -> dict[str, Any]:
        """Make a batch in which groups that teach nothing are replaced; the logged rewards are the step's own prompts'."""
        own = reward_metrics(self, rollouts)
        rollouts, counts = replace_empty_groups(self, rollouts, self.work.stage.dynamic_sampling)
        # Of the step's own prompts, which are no longer those of the batch.
        self._pending_extra_logs.clear()
        batch = self._batch(rollouts)
        metrics = self._metrics["train"]
        for name in own:
            metrics[f"kept/{name}"].append(metrics[name].pop())
        for name, value in {**own, **counts}.items():
            metrics[name].append(value)
        return batch

    def _batch(self, rollouts: list[PendingRollout]) -> dict[str, Any]:
        """Have TRL make a batch of rollouts: advantages, log-probabilities of the old policy and the reference, logs.

        Where the processor has been asked already TRL is shown rows without pictures, and these join its batch here.
        """
        fields = [rollout.fields for rollout in rollouts if rollout.fields is not None]
        rows = [rollout.row for rollout in rollouts]
        if fields:
            rows = [
                {name: value for name, value in rollout.row.items() if name != "images"} | {"prompt": rollout.prompt}
                for rollout in rollouts
            ]
        images = [images_of(rollout.row) for rollout in rollouts]
        self._pictures = [len(own) for own in images]
        self._mixed |= any(images) and not all(images)
        self._rollouts = rollouts
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(rows)
        finally:
            self._rollouts = None
        if fields:
            width, completion = batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]
            batch |= join_rows([pad_kinds(row, width, completion) for row in fields])
            if any(images):
                batch |= count_pictures(fields, images)
        # Else TRL has kept them; a rollout of texts alone must not stand beside the pictures of the last one.
        if self.log_multimodal and (fields or not any(images)):
            self._logs["images"].extend(gather_object(images))
        if self._mixed and any(images) and batch["pixel_values"].dim() == 5 and sum(batch["num_images"]) == len(images):
            # As many pictures as rows: TRL would take a row's tiles for a picture's. It is told one entry per row.
            batch["num_images"] = [1] * len(batch["num_images"])
        return batch

    def _generate(self, prompts: list[Any]) -> Any:
        """Return what has been sampled of the prompts of a batch, in the form of TRL's method, which samples."""
        assert self._rollouts is not None
        columns = (
            [getattr(one, name) for one in self._rollouts] for name in ("prompt_ids", "completion_ids", "completion")
        )
        prompt_ids, completion_ids, completions = columns
        logprobs = [one.logprobs for one in self._rollouts if one.logprobs is not None] or None
        return prompt_ids, completion_ids, None, completions, logprobs, {}, None, []

    def _calculate_rewards(self, *columns: Any) -> torch.Tensor:
        """Return the rewards of a batch, (rows of all processes, functions); none is judged twice."""
        assert self._rollouts is not None
        rewards: torch.Tensor = gather(torch.stack([one.rewards for one in self._rollouts]))
        return rewards

    # Log-probabilities

    def _get_per_token_logps_and_entropies(
        self,
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
    ) -> Scores:
        """Score completions as TRL does, `batch_size` rows at once: (rows, `logits_to_keep`), 0 at padding."""
        options = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        rows: Sequence[Row]
        if self._rollouts is not None and self._rollouts[0].fields is not None:
            width = input_ids.shape[1] - logits_to_keep
            rows = [pad_kinds(one.fields or {}, width, logits_to_keep) for one in self._rollouts]
            counts = count_pictures(rows, [images_of(one.row) for one in self._rollouts])
            num_images, num_tiles = counts["num_images"], counts.get("num_tiles")
        elif self.sharing or self._mixed or any(isinstance(value, list) for value in fields.values()):
            prompts = torch.where(attention_mask.bool(), input_ids, -1)[:, :-logits_to_keep]
            rows = split_batch(self, prompts, fields, num_images)
        else:
            media = {**fields, "num_images": num_images, "num_tiles": num_tiles}
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **options, **media
            )
        token = image_token_id(self.accelerator.unwrap_model(self.model))
        batch = ScoredRows(input_ids, attention_mask, logits_to_keep, rows, num_images, num_tiles, token)
        size = batch_size or len(batch)
        if self.sharing and not self._compared:
            self._compare(model, batch[:size], options)
        parts, shared = [], 0
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            scores = shared_logps(self, model, part, compute_entropy) if self.sharing else None
            shared += len(part) * (scores is not None)
            parts.append(scores or self._trl_logps(model, part, len(part), options))
        if self.model.training:
            self._metrics["train"]["shared_prefix/rows_ratio"].append(shared / len(batch))
        logps, entropies, _ = zip(*parts, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _trl_logps(self, model: Any, batch: ScoredRows, at_once: int, options: dict[str, bool]) -> Scores:
        """Score completions by TRL's own method, each row with its prompt."""
        found = [
            super(PolicyTrainer, self)._get_per_token_logps_and_entropies(
                model,
                part.input_ids,
                part.attention_mask,
                part.logits_to_keep,
                **options,
                num_images=part.num_images,
                num_tiles=part.num_tiles,
                **join_rows(part.shown),
            )
            for part in (batch[start : start + at_once] for start in range(0, len(batch), at_once))
        ]
        logps, entropies, _ = zip(*found, strict=True)
        return torch.cat(logps), torch.cat(entropies) if options["compute_entropy"] else None, None

    def _compare(self, model: Any, batch: ScoredRows, options: dict[str, bool]) -> None:
        """Hold the first shared batch against TRL's own log-probabilities; share no longer when they differ."""
        mask = batch.attention_mask[:, -batch.logits_to_keep :]
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            # Row by row: the memory that sharing saves may not be there.
            expected, _, _ = self._trl_logps(model, batch, 1, options)
            # Kernels of another shape: what rounding alone makes on this device.
            again, _, _ = self._trl_logps(model, batch, 2, options)
            shared = shared_logps(self, model, batch, options["compute_entropy"])
            # All processes compute as often, for the sake of ZeRO-3.
            scores = shared or self._trl_logps(model, batch, len(batch), options)
        difference, noise = (((logps - expected) * mask).abs().sum() for logps in (scores[0], again))
        figures = torch.stack([difference, noise, mask.sum(), difference.new_tensor(shared is not None)]).float()
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


def count_pictures(fields: Sequence[Row], images: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Count pictures, and tiles where pixels are laid out by tile, of each row as TRL counts them.

    Args:
        fields: of each row: what the processor made.
        images: the pictures of each row.
    """
    if not any(images):
        return {"num_images": None}
    counts = {"num_images": [len(own) for own in images]}
    pixels = [row["pixel_values"] for row in fields]
    tiles = [len(one) for one in pixels]
    if pixels[0].dim() == 4 and sum(tiles) != sum(counts["num_images"]):
        counts["num_tiles"] = tiles
    return counts
