"""A checkpoint that answers with transformers' generate, in this process.

While one batch is generated, the pictures of the next ones are decoded and made into tensors in threads. Rows of like length
share a batch, the longest first, so that little is padded and what does not fit in memory shows at once. A row's answer does
not depend on the rows beside it (but for the rounding of floats): padding is masked, and draws have a generator per row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from pipeline.config.schema import ModelConfig, RunConfig
from pipeline.data.images import ImageError, open_rgb, picture_size
from pipeline.data.student import UNFIT
from pipeline.errors import UserError
from pipeline.scoring.response import opens_thought
from stages.evaluation.backends.base import (
    Checkpoint,
    Generation,
    GenerationRequest,
    SamplingParams,
    as_words,
    in_order,
    special_tokens,
)
from stages.models import loading
from stages.models.generate import complete, read_ahead, whole_or_halves
from stages.models.memory_usage import peak_memory
from stages.models.row_sampling import Draws

_AHEAD = 3
"""Batches whose tensors are ready before they are needed."""
_DECODERS = min(4, os.cpu_count() or 1)


@dataclass
class _Batch:
    """Asks whose pictures could be read, their tensors, and what became of the others."""

    asks: list[GenerationRequest]
    inputs: Any
    failed: list[Generation]


class Local:
    """See the module.

    Args:
        checkpoint: a VLM, or a model of text alone, which is then asked text alone.
        batch_size: rows generated at once; halved for a batch that does not fit in the GPU's memory.

    Raises:
        UserError: when weights are missing or left over, or the processor needs a package that is not installed.
    """

    def __init__(self, checkpoint: Checkpoint, batch_size: int) -> None:
        # Its warnings are of checkpoints' files, which a person who judges them did not write.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        assert checkpoint.folder is not None
        folder, model = checkpoint.folder, checkpoint.model
        processor = {**checkpoint.identity["processor"]}
        config = RunConfig(model=ModelConfig(trust_remote_code=model.trust_remote_code, processor=processor))
        precision = checkpoint.precision
        dtype = precision if precision in ("float32", "bfloat16", "float16") else loading.compute_dtype(config)
        kind = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        self.sees = type(kind) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        self.model, problems = loading.load_model(
            folder,
            config,
            dtype,
            quantization=precision if precision in ("8bit", "4bit") else None,
            auto_class=AutoModelForImageTextToText if self.sees else AutoModelForCausalLM,
        )
        if problems:
            raise UserError([f"{checkpoint.name}: {problem}" for problem in problems])
        self.dtype = getattr(torch, dtype)
        if self.sees:
            self.processor = loading.load_processor(folder, config)
            self.tokenizer = self.processor.tokenizer
        else:
            self.processor = self.tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=model.trust_remote_code, padding_side="left"
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.name, self.batch_size = checkpoint.name, batch_size
        self._special = special_tokens(self.tokenizer)

    def answer(self, asks: Sequence[GenerationRequest], how: SamplingParams) -> Iterator[list[Generation]]:
        """See `Backend`."""
        if not self.sees and any(ask.images for ask in asks):
            raise UserError(f"{self.name} reads text alone, and this task shows pictures; it can only be a reasoner")
        for batch in self._prepared(self._batches(asks)):
            yield [*batch.failed, *(self._generate(batch, how) if batch.asks else [])]

    def peak_memory(self) -> int | None:
        """See `Backend`."""
        return peak_memory()

    def _batches(self, asks: Sequence[GenerationRequest]) -> list[list[GenerationRequest]]:
        """Rows of like length together, the longest first; rows with and without pictures apart, as processors want it."""
        texts = self.tokenizer([ask.text + ask.said for ask in asks], add_special_tokens=False)["input_ids"]
        with ThreadPoolExecutor(_DECODERS) as readers:
            images = list(readers.map(self._image_tokens, asks))
        lengths = {ask.id: len(ids) + tokens for ask, ids, tokens in zip(asks, texts, images, strict=True)}
        batches = []
        for some in (True, False):
            rows = sorted((ask for ask in asks if bool(ask.images) == some), key=lambda ask: -lengths[ask.id])
            batches += [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return batches

    def _image_tokens(self, ask: GenerationRequest) -> int:
        """About how many tokens the pictures of a row become, from their headers; 0 where that cannot be told."""
        # What vLLM sizes its batches by.
        count = getattr(self.processor, "_get_num_multimodal_tokens", None)
        try:
            sizes = [picture_size(image) for image in ask.images]
            return sum(count([(height, width) for width, height in sizes]).num_image_tokens) if count and sizes else 0
        except Exception:
            # It only orders rows; a damaged picture is told of when it is decoded.
            return 0

    def _prepared(self, batches: Sequence[list[GenerationRequest]]) -> Iterator[_Batch]:
        """Batches as tensors, in order, made a few ahead."""
        with ThreadPoolExecutor(_DECODERS) as decoders:
            yield from read_ahead(lambda batch: self._prepare(batch, decoders), batches, _AHEAD)

    def _prepare(self, asks: list[GenerationRequest], decoders: ThreadPoolExecutor) -> _Batch:
        opened = list(decoders.map(_open, asks))
        failed = [found for found in opened if isinstance(found, Generation)]
        rows = [(ask, found) for ask, found in zip(asks, opened, strict=True) if not isinstance(found, Generation)]
        try:
            inputs = self._tensors([ask for ask, _ in rows], [images for _, images in rows]) if rows else None
        except ValueError:
            unfit = {ask.id: why for ask, images in rows if images and (why := self._unfit(ask, images))}
            # It is not one of the pictures.
            if not unfit:
                raise
            failed += [Generation(row_id, "", failed=UNFIT, detail=why) for row_id, why in unfit.items()]
            rows = [(ask, images) for ask, images in rows if ask.id not in unfit]
            inputs = self._tensors([ask for ask, _ in rows], [images for _, images in rows]) if rows else None
        return _Batch([ask for ask, _ in rows], inputs, failed)

    def _unfit(self, ask: GenerationRequest, images: list[Any]) -> str:
        """Why the processor refuses the pictures of a row; "" when it takes them."""
        try:
            self._tensors([ask], [images])
        except ValueError as error:
            return str(error)[:500] or "refused by the processor"
        return ""

    def _tensors(self, asks: list[GenerationRequest], images: list[list[Any]]) -> Any:
        texts, shown = [], []
        for ask, pictures in zip(asks, images, strict=True):
            text, order = self.render(ask)
            texts.append(text)
            shown.append([pictures[index] for index in order])
        how = {"return_tensors": "pt", "padding": True, "add_special_tokens": False}
        if not self.sees:
            return self.processor(texts, **how)
        return self.processor(text=texts, images=shown if any(shown) else None, **how)

    def render(self, ask: GenerationRequest) -> tuple[str, list[int]]:
        """Return (the prompt as the model reads it, the order in which it meets the pictures)."""
        pieces = [
            piece if isinstance(piece, int) else as_words(piece, self._special)
            for piece in in_order(ask, self.model.config.model_type)
        ]
        said = as_words(ask.said, self._special)
        if self.tokenizer.chat_template is None and getattr(self.processor, "chat_template", None) is None:
            if ask.images:
                raise UserError(f"{self.name} has no chat template, so there is no telling where a picture belongs")
            return f"{''.join(map(str, pieces))}\n{said}", []
        content: Any = [
            {"type": "image"} if isinstance(piece, int) else {"type": "text", "text": piece} for piece in pieces
        ]
        # Templates of text models take a plain string.
        if not self.sees:
            content = "".join(map(str, pieces))
        turn = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        # What was said begins with a thought that the prompt has opened already.
        if opens_thought(text):
            said = said.removeprefix("<think>")
        return text + said, [piece for piece in pieces if isinstance(piece, int)]

    @torch.inference_mode()
    def _generate(self, batch: _Batch, how: SamplingParams) -> list[Generation]:
        def answer(asks: Sequence[GenerationRequest]) -> list[Generation]:
            inputs = batch.inputs
            if len(asks) < len(batch.asks):
                with ThreadPoolExecutor(1) as decoders:
                    inputs = self._prepare(list(asks), decoders).inputs
            try:
                return self._answer(asks, inputs, how)
            except torch.OutOfMemoryError as error:
                if len(asks) > 1:
                    raise
                raise UserError(
                    f"{self.name}: one row ({asks[0].id}) does not fit in the GPU's memory; take 8bit or 4bit, fewer "
                    "max_new_tokens, or limit the tokens of a picture with processor"
                ) from error

        return whole_or_halves(answer, batch.asks)

    def _answer(self, asks: Sequence[GenerationRequest], inputs: Any, how: SamplingParams) -> list[Generation]:
        began = time.monotonic()
        moved = inputs.to(self.model.device)
        for name, value in moved.items():
            if torch.is_floating_point(value):
                moved[name] = value.to(self.dtype)
        draws = Draws([ask.seed for ask in asks], how.temperature, how.top_p)
        answers = complete(self.model, self.tokenizer, moved, how.max_new_tokens, [draws])
        seconds = time.monotonic() - began
        read = inputs["attention_mask"].sum(dim=1).tolist()
        logprobs = draws.means([length for _, length in answers])
        return [
            Generation(
                ask.id,
                text,
                tokens=length,
                prompt_tokens=int(prompt),
                truncated=length >= how.max_new_tokens,
                seconds=seconds,
                logprob=logprob,
            )
            for ask, (text, length), prompt, logprob in zip(asks, answers, read, logprobs, strict=True)
        ]


def _open(ask: GenerationRequest) -> list[Any] | Generation:
    try:
        return [open_rgb(image) for image in ask.images]
    except ImageError as error:
        return Generation(ask.id, "", failed=error.reason, detail=str(error))
