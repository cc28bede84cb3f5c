"""The logits a trainer's model gives on a few fixed inputs, kept beside final/ for the process that verifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.data.conversations import in_order
from pipeline.data.images import open_rgb
from pipeline.data.task import Task
from pipeline.types import Question
from stages.models.row_logits import finished_row, last_logits

ROWS = 8
"""Rows of the evaluation split that are asked: its first ones."""


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
        logits.append(last_logits(model, inputs))
    return Reference(rows, logits, str(model.dtype).removeprefix("torch."), {"split": split, "style": style})


def examples(task: Task, split: str) -> Sequence[Question]:
    """Return the rows that are asked."""
    return task.select(split).rows[:ROWS]


def inputs_of(processor: Any, task: Task, split: str, style: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each row as (its id and the digests of its tensors, the tensors): pictures, prompt and a fixed short completion.

    They come one by one, so that nothing is padded.
    """
    for row in examples(task, split):
        images = [open_rgb(image) for image in in_order(task.prompt(row, style), row.images)]
        inputs = finished_row(processor, task, row, style, images)
        yield {"id": row.id, "tensors": {key: _digest(value) for key, value in inputs.items()}}, inputs


def _digest(tensor: torch.Tensor) -> str:
    shape = f"{tensor.dtype} {tuple(tensor.shape)} "
    return hashlib.sha256(shape.encode() + tensor.contiguous().numpy().tobytes()).hexdigest()
