"""One finished row as a model reads it, prompt, pictures and an answer behind them, and the logits at its end."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from pipeline.data.conversations import user_turn
from pipeline.data.task import Task
from pipeline.scoring.response import render
from pipeline.types import Question
from stages.models.chat import answer_text, prompt_text
from stages.models.loading import plain

POSITIONS = 8
"""Last positions of a row whose logits are taken: the answer and the end of its turn. A vocabulary of 150,000 makes them 38 MB
for 8 rows."""


def finished_row(processor: Any, task: Task, row: Question, style: str, pictures: Sequence[Image.Image]) -> Any:
    """Return the tensors of one row: its prompt, pictures and a fixed short completion. Nothing is padded.

    Args:
        processor: of the model.
        task: how the row is asked.
        row: what is asked.
        style: think or direct.
        pictures: in the order of `pipeline.data.conversations.in_order`.
    """
    # Every row of a labelled image set is given the first label, so that all read one text.
    answer = task.labels.names[0] if task.labels is not None else row.gold
    completion = render("The picture shows it.", answer) if style == "think" else answer
    turns = user_turn(task.prompt(row, style), len(row.images))
    text = prompt_text(processor, turns) + answer_text(processor, turns, completion)
    images = [list(pictures)] if pictures else None
    return processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)


@torch.no_grad()
def last_logits(model: Any, inputs: Any) -> torch.Tensor:
    """Return the logits of the last `POSITIONS` of one row, (positions, vocabulary) in float32 on the CPU.

    They are of the weights as they stand, in their precision and on their device. Under ZeRO-3 every rank must call it: each
    layer is gathered while it is passed.
    """
    return _end_logits(model, inputs, POSITIONS)[0].float().cpu().clone()


@torch.no_grad()
def end_logprobs(model: Any, inputs: Any, length: int) -> list[float]:
    """Return how probable the last tokens of each row are, given all that stands before each: sums of natural logarithms.

    Args:
        model: in evaluation mode.
        inputs: of rows of one length, (rows, tokens), nothing padded.
        length: tokens at the end of a row that are asked about.
    """
    logits = _end_logits(model, inputs, length + 1)[:, :-1].float()
    written = inputs["input_ids"][:, -length:, None].to(logits.device)
    found: list[float] = (logits.gather(-1, written)[..., 0] - logits.logsumexp(-1)).sum(-1).tolist()
    return found


def _end_logits(model: Any, inputs: Any, positions: int) -> torch.Tensor:
    """The logits of the last positions of all rows, (rows, positions, vocabulary), where and as the model computes them."""
    # Only the pixels are floats.
    inputs = inputs.to(model.device, dtype=model.dtype)
    # peft's forward names no argument.
    base = plain(model)
    few = {"logits_to_keep": positions} if "logits_to_keep" in inspect.signature(type(base).forward).parameters else {}
    flash = _is_flash(base)
    # In a trainer accelerate has wrapped forward in its autocast; the process that verifies has no such wrapper.
    forward = vars(model).get("_original_forward", model)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=flash), _without_tf32():
        logits: torch.Tensor = forward(**inputs, **few, use_cache=False).logits
    return logits[:, -positions:]


def computed_in(model: Any) -> torch.dtype:
    """Return the coarsest precision that `last_logits` of a model go through."""
    base = plain(model)
    coarse = _is_flash(base) or getattr(base, "is_quantized", False)
    return torch.bfloat16 if coarse else model.dtype


def _is_flash(base: Any) -> bool:
    """Whether its attention has no float32 kernel."""
    return "flash" in str(getattr(base.config, "_attn_implementation", ""))


def share_moved(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of two tensors as a share of the largest figure of `other`; infinite where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Float32 arithmetic that is float32, whatever the trainer was told: trainer and verifier must not differ in that."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.fp32_precision = was
