"""A checkpoint that answers prompts about images."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from pipeline.data.images import open_rgb
from pipeline.types import Question
from stages.models import loading
from stages.models.chat import prompt_text, read_completions
from stages.models.finished_rows import can_decode, decode

log = logging.getLogger(__name__)
Batch = tuple[Sequence[str], Sequence[Question], int, bool, int]
"""(what each row is asked, the rows, most tokens of an answer, whether to sample, the seed)."""
Given = TypeVar("Given")
Made = TypeVar("Made")


class Answerer:
    """A checkpoint that answers prompts about images with transformers' generate.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
        local_rank: the GPU to use, where there is one.
        dtype: of the weights in memory; None is what the run computes in.
        halves: whether a batch that does not fit is answered in halves.
    """

    def __init__(
        self, folder: Path, config: Any, local_rank: int, dtype: str | None = None, *, halves: bool = True
    ) -> None:
        self.halves = halves
        self.processor = loading.load_processor(folder, config)
        self.model, _ = loading.load_model(folder, config, dtype or loading.compute_dtype(config), local_rank)

    def __call__(
        self, prompts: Sequence[str], rows: Sequence[Question], max_new_tokens: int, sample: bool, seed: int
    ) -> list[tuple[str, int]]:
        """(text, number of tokens) per row; at temperature 1 without any truncation of the distribution when sampling."""
        (answers,) = self.each([(prompts, rows, max_new_tokens, sample, seed)])
        return answers

    def each(self, batches: Iterable[Batch]) -> Iterator[list[tuple[str, int]]]:
        """Yield what `__call__` says to each; while one batch is answered, the pictures of the next are made into tensors."""
        read = read_ahead(lambda batch: (batch, tensors(self.processor, *batch[:2])), batches, 1)
        for batch, inputs in read:
            torch.manual_seed(batch[-1] % 2**63)
            yield self._answer(batch, inputs)

    @torch.inference_mode()
    def _answer(self, batch: Batch, inputs: Any) -> list[tuple[str, int]]:
        prompts, rows, max_new_tokens, sample, _ = batch
        how: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}

        def answer(some: Sequence[tuple[str, Question]]) -> list[tuple[str, int]]:
            read = inputs if len(some) == len(rows) else tensors(self.processor, *zip(*some, strict=True))
            return complete(self.model, self.processor.tokenizer, to_model(read, self.model), max_new_tokens, **how)

        asked = list(zip(prompts, rows, strict=True))
        return whole_or_halves(answer, asked) if self.halves else answer(asked)


def generate(
    model: Any, processor: Any, prompts: Sequence[str], rows: Sequence[Question], max_new_tokens: int
) -> list[tuple[str, int]]:
    """Return (text, number of tokens) that a model answers greedily per row.

    Args:
        model: in evaluation mode, on the device it is to run on.
        processor: padding on the left.
        prompts: what each row is asked.
    """
    inputs = to_model(tensors(processor, prompts, rows), model)
    return complete(model, processor.tokenizer, inputs, max_new_tokens)


def tensors(processor: Any, prompts: Sequence[str], rows: Sequence[Question]) -> Any:
    """Return what a model reads of prompts that are asked about each row's pictures."""
    from pipeline.data.conversations import in_order, user_turn

    asked = [(prompt, len(row.images)) for prompt, row in zip(prompts, rows, strict=True)]
    texts = {one: prompt_text(processor, user_turn(*one)) for one in dict.fromkeys(asked)}
    images = [[open_rgb(image) for image in in_order(one, row.images)] for one, row in zip(prompts, rows, strict=True)]
    how = {"return_tensors": "pt", "padding": True, "add_special_tokens": False}
    return processor(text=[texts[one] for one in asked], images=images if any(images) else None, **how)


def to_model(inputs: Any, model: Any) -> Any:
    """Return what a processor made, as the model takes it; only pixels are floats."""
    return inputs.to(model.device, dtype=model.dtype)


def complete(
    model: Any, tokenizer: Any, inputs: Any, max_new_tokens: int, processors: Sequence[Any] = (), **how: Any
) -> list[tuple[str, int]]:
    """Return (text, number of tokens) with which a model goes on from `inputs`, (batch, length) padded on the left.

    Greedy, and without the penalties of the checkpoint's own generation config, unless `how` says otherwise.
    """
    # Said in full, as rollouts are: a checkpoint's own generation config may penalise repetition (Qwen2.5-VL's does). Said as an
    # object: given words, generate builds and prints a default configuration of the model at every call.
    image_token = loading.image_token_id(model)
    asked = GenerationConfig(
        max_new_tokens=max_new_tokens,
        # A model near random would write it.
        suppress_tokens=None if image_token is None else [image_token],
        **{"do_sample": False, "repetition_penalty": 1.0, **how},
    )
    # Under ZeRO-3 generate would have all processes agree on every token, and each may have another number of batches here.
    # No layer is gathered while it is passed: who asks a model in training has gathered all of it (`validation`).
    loop = {"custom_generate": decode, "in_step": False} if can_decode(model, asked) else {"synced_gpus": False}
    written = model.generate(**inputs, generation_config=asked, logits_processor=[*processors], **loop)
    tokens = written[:, inputs["input_ids"].shape[1] :]
    texts = read_completions(tokenizer, inputs["input_ids"].tolist(), tokens.tolist())
    lengths = (tokens != tokenizer.pad_token_id).sum(dim=1).tolist()
    return list(zip(texts, lengths, strict=True))


def whole_or_halves(answer: Callable[[Sequence[Given]], list[Made]], rows: Sequence[Given]) -> list[Made]:
    """Return what `answer` says to rows, asked in halves where they do not fit in the GPU's memory at once.

    Raises:
        torch.OutOfMemoryError: when one row alone does not fit.
    """
    try:
        return answer(rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    # Outside of the handler, whose traceback holds the tensors.
    torch.cuda.empty_cache()
    log.warning("a batch of %d rows does not fit in the GPU's memory; asked in halves", len(rows))
    middle = len(rows) // 2
    return [said for half in (rows[:middle], rows[middle:]) for said in whole_or_halves(answer, half)]


def read_ahead(make: Callable[[Given], Made], given: Iterable[Given], count: int) -> Iterator[Made]:
    """Yield what `make` makes of each, in order, made in a thread up to `count` ahead of its use.

    One thread makes them: a fast tokenizer serves one at a time.
    """
    with ThreadPoolExecutor(1) as maker:
        made: deque[Future[Made]] = deque()
        for one in given:
            made.append(maker.submit(make, one))
            if len(made) > count:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
