"""The first row of a stage as its trainer will see it, token by token, and what is wrong with it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pipeline.config.schema import RunConfig, StageConfig
from stages.models.chat import rollout_tokens
from stages.models.loading import image_token_id
from stages.trial.plan import completion_length

SHOWN = 40
"""Tokens shown at either end of a run of tokens; the middle is counted."""


def first_row_tokens(trainer: Any, stage: StageConfig) -> tuple[list[tuple[str, list[int]]], dict[str, Any]]:
    """Return the first row through the trainer's own collator (SFT) or its own tokenisation of prompts (GRPO).

    Returns:
        Runs of tokens, each with what happens to it ("prompt", "trained on", "not trained on"), and the batch of that one row.
    """
    row = dict(trainer.train_dataset[0])
    if stage.algorithm == "grpo":
        from trl.data_utils import prepare_multimodal_messages

        prompt = prepare_multimodal_messages(row["prompt"], images=row["images"])
        ids, _, fields = trainer._tokenize_prompts([prompt])
        return [("prompt", list(ids[0]))], {"input_ids": torch.tensor([ids[0]]), **fields}
    batch = trainer.data_collator([row])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    runs = itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100)
    return [
        ("trained on" if trained else "not trained on", [number for number, _ in pairs]) for trained, pairs in runs
    ], dict(batch)


def lines(runs: Sequence[tuple[str, list[int]]], tokenizer: Any, image_token: int | None) -> Iterator[str]:
    """Yield the runs for a person: every token as ``id 'text'``, image tokens counted, long runs shortened in the middle."""
    for kind, ids in runs:
        yield f"  {kind}, {len(ids)} tokens:"
        words = []
        for number, same in itertools.groupby(ids):
            count, word = len(list(same)), f"{number} {tokenizer.decode([number])!r}"
            words += [f"{word} x {count}"] if number == image_token and count > 1 else [word] * count
        if len(words) > 2 * SHOWN:
            words[SHOWN:-SHOWN] = [f"… {len(words) - 2 * SHOWN} more …"]
        yield from _wrapped(words)
        if kind == "prompt":
            yield "  ▶ generation begins here"


def _wrapped(words: Sequence[str], width: int = 112) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) + 3 > width:
            yield f"    {line}"
            line = ""
        line = f"{line} | {word}" if line else word
    if line:
        yield f"    {line}"


def problems(
    trainer: Any,
    config: RunConfig,
    stage: StageConfig,
    runs: Sequence[tuple[str, list[int]]],
    batch: dict[str, Any],
    lengths: dict[str, Any],
) -> Iterator[str]:
    """Yield what a person must know before this stage trains for hours, each with its cure."""
    tokenizer, model = trainer.processing_class.tokenizer, trainer.accelerator.unwrap_model(trainer.model)
    ids = [number for _, run in runs for number in run]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    eos = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
    if stage.algorithm == "sft":
        yield from _other_prompt(trainer, runs)
        trained = [number for kind, run in runs if kind == "trained on" for number in run]
        if not trained:
            yield "no token of the first row is trained on; the chat template gives an empty completion"
        elif not ends & set(trained):
            yield (
                f"the end token {tokenizer.eos_token!r} is not trained on, so the model would not learn to stop; "
                "use a chat template that ends the assistant's turn with it"
            )
        prompt = len(ids) - len(trained)
        longest = lengths.get("max", 0) if stage.data == "cot" else len(trained)
    else:
        prompt, longest = len(ids), completion_length(stage)
        if lengths.get("p99", 0) > longest and not lengths["stand_in"]:
            yield (
                f"max_completion_length {longest} is below the CoT rows' 99th percentile of {lengths['p99']} tokens: answers "
                f"like theirs would be cut and earn nothing; set it to {lengths['max']} or more"
            )
    if positions is not None and prompt + longest > positions:
        yield (
            f"{prompt} tokens of prompt and {longest} of completion are more than the model's {positions} positions; "
            "shorten the completions or the prompt, or use smaller images (model.processor)"
        )
    found, features = count_image_tokens(model, ids), expected_image_features(model, batch)
    if features is not None and found != features:
        yield (
            f"{found} image tokens stand for {features} image features: TRL would drop the images of such a batch without a "
            "word; the processor and the model do not belong together"
        )
    head = tokenizer.decode(ids[: max(8, prompt // 2)]).lower()
    if "system" in head.split("user")[0]:
        yield "note: the chat template adds a system prompt of its own; training and evaluation both have it"


def count_image_tokens(model: Any, ids: Sequence[int]) -> int:
    """Return how many tokens of a row stand for pieces of image."""
    return sum(number == image_token_id(model) for number in ids)


def _other_prompt(trainer: Any, runs: Sequence[tuple[str, list[int]]]) -> Iterator[str]:
    """Whether an SFT stage reads another prompt than a GRPO stage would of the same row."""
    row = trainer.train_dataset[0]
    sampled = rollout_tokens(trainer.processing_class, row["prompt"], row["images"])
    (_, read), *_ = runs
    if read[: len(sampled)] != sampled or len(read) > len(sampled):
        yield (
            f"the first row's prompt has {len(read)} tokens here and {len(sampled)} in a rollout, or other ones: SFT would "
            "teach another prompt than is asked; let the chat template begin with {{ bos_token }} where the tokenizer adds one"
        )


@torch.no_grad()
def expected_image_features(model: Any, batch: dict[str, Any]) -> int | None:
    """Return how many features the model makes of the row's image; None where this cannot be asked (ZeRO-3, an
    unknown family).
    """
    ask = getattr(model, "get_image_features", None)
    parameter = next(model.parameters())
    if ask is None or image_token_id(model) is None or hasattr(parameter, "ds_id"):
        return None
    wanted = inspect.signature(ask).parameters
    given = {
        key: value.to(parameter.device) for key, value in batch.items() if key in wanted and torch.is_tensor(value)
    }
    if "pixel_values" not in given:
        return None
    found = ask(**given)
    found = getattr(found, "pooler_output", found)
    parts = list(found) if isinstance(found, list | tuple) else [found]
    if not all(torch.is_tensor(part) for part in parts):
        return None
    return sum(part.numel() // part.shape[-1] for part in parts)
