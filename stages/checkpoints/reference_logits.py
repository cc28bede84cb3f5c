"""The logits a trainer's model gives on a few fixed inputs, kept beside final/ for the process that verifies it."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.data.conversations import in_order, user_turn
from pipeline.data.images import open_rgb
from pipeline.data.task import Task
from pipeline.scoring.response import render
from pipeline.types import Question
from stages.models.chat import answer_text, prompt_text
from stages.models.loading import plain

ROWS = 8
"""Rows of the evaluation split that are asked: its first ones."""
POSITIONS = 8
"""Last positions of each row whose logits are kept. A vocabulary of 150,000 makes them 38 MB for all rows."""


@dataclass(frozen=True)
class Reference:
    """What a model was given and what it said.

    Args:
        rows: per row its id and the sha256 of every tensor the processor made of it.
        logits: per row [positions, vocabulary], float32.
        dtype: of the weights behind them.
        asked: how the rows were made: split and prompt style.
    """

    rows: list[dict[str, Any]]
    logits: list[torch.Tensor]
    dtype: str
    asked: dict[str, str]

    def write(self, path: Path) -> None:
        facts = {"rows": self.rows, "dtype": self.dtype, "asked": self.asked}
        tensors = {str(number): logits for number, logits in enumerate(self.logits)}
        save_file(tensors, path, metadata={"reference": json.dumps(facts)})

    @classmethod
    def read(cls, path: Path) -> Reference:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["reference"])
            logits = [file.get_tensor(str(number)) for number in range(len(facts["rows"]))]
        return cls(logits=logits, **facts)


def measure(model: Any, processor: Any, task: Task, split: str, style: str) -> Reference:
    """Return the reference of a model as it stands, on the device it is on and in the precision of its weights.

    Under ZeRO-3 every rank must call it: each layer is gathered while it is passed.
    """
    model.eval()
    rows, logits = [], []
    for row, inputs in inputs_of(processor, task, split, style):
        rows.append(row)
        logits.append(_logits(model, inputs))
    return Reference(rows, logits, str(model.dtype).removeprefix("torch."), {"split": split, "style": style})


def examples(task: Task, split: str) -> Sequence[Question]:
    """Return the rows that are asked."""
    return task.select(split).rows[:ROWS]


def inputs_of(processor: Any, task: Task, split: str, style: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each row as (its id and the digests of its tensors, the tensors): pictures, prompt and a fixed short completion.

    They come one by one, so that nothing is padded.
    """
    for row in examples(task, split):
        # Every row of a labelled image set is given the first label, so that all read one text.
        answer = task.labels.names[0] if task.labels is not None else row.gold
        completion = render("The picture shows it.", answer) if style == "think" else answer
        prompt = task.prompt(row, style)
        turns = user_turn(prompt, len(row.images))
        text = prompt_text(processor, turns) + answer_text(processor, turns, completion)
        images = [[open_rgb(image) for image in in_order(prompt, row.images)]]
        inputs = processor(
            text=[text], images=images if images[0] else None, return_tensors="pt", add_special_tokens=False
        )
        yield {"id": row.id, "tensors": {key: _digest(value) for key, value in inputs.items()}}, inputs


@torch.no_grad()
def _logits(model: Any, inputs: Any) -> torch.Tensor:
    # Only the pixels are floats.
    inputs = inputs.to(model.device, dtype=model.dtype)
    # peft's forward names no argument.
    base = plain(model)
    few = {"logits_to_keep": POSITIONS} if "logits_to_keep" in inspect.signature(type(base).forward).parameters else {}
    # It has no float32 kernel.
    flash = "flash" in str(getattr(base.config, "_attn_implementation", ""))
    # In a trainer accelerate has wrapped forward in its autocast; the process that verifies has no such wrapper.
    forward = vars(model).get("_original_forward", model)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=flash), _without_tf32():
        logits = forward(**inputs, **few, use_cache=False).logits
    return logits[0, -POSITIONS:].float().cpu().clone()


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


def _digest(tensor: torch.Tensor) -> str:
    shape = f"{tensor.dtype} {tuple(tensor.shape)} "
    return hashlib.sha256(shape.encode() + tensor.contiguous().numpy().tobytes()).hexdigest()
