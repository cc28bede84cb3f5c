"""Whether a model looks: its logits beside a row's own pictures, and beside the pictures of other rows at the same sizes.

What does not look has the very same logits. What looks next to nothing moves them by no more than rounding does, which cannot be
told from it in the precision of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.data.conversations import in_order
from pipeline.data.images import open_rgb
from pipeline.data.task import Task
from pipeline.metrics.alarm_measures import SWAP_CHANGE, SWAP_ROUNDING
from pipeline.types import Question
from stages.models.row_logits import computed_in, finished_row, last_logits, share_moved

ROWS = 4
"""Rows that are asked twice. One that looks at any of them looks; what does not look moves at none."""


@dataclass(frozen=True)
class Swapped:
    """What other pictures did to a model's logits.

    Args:
        rows: that were asked twice.
        left_out: rows passed over: they show no picture, or no other row shows one that the processor tells from theirs.
        change: of the logits, the largest of all rows, as a share of a row's largest; None without a row.
        rounding: what rounding alone may make of it in the precision of the weights.
    """

    rows: int
    left_out: int
    change: float | None
    rounding: float

    @property
    def figures(self) -> dict[str, float]:
        """As a row of metrics.jsonl names them; nothing where no row was asked."""
        if self.change is None:
            return {}
        counts = {"images/swap_rows": float(self.rows), "images/swap_left_out": float(self.left_out)}
        return {SWAP_CHANGE: self.change, SWAP_ROUNDING: self.rounding, **counts}


def look(model: Any, processor: Any, task: Task, split: str, style: str) -> Swapped:
    """Ask a model the first rows of a split with their own pictures and with others, and compare the logits.

    Under ZeRO-3 every rank must call it. No random number is drawn.

    Args:
        model: in evaluation mode.
        processor: of the model.
        task: whose rows are asked.
        split: slicing syntax.
        style: think or direct.
    """
    rows, left_out = _rows(task.select(split).rows)
    pictures = {path: open_rgb(path) for row in rows for path in row.images}
    changes = []
    for place, row in enumerate(rows):
        found = [
            finished_row(processor, task, row, style, shown)
            for shown in _own_and_others(task.prompt(row, style), row, pictures, place)
        ]
        if len(found) < 2 or not _differ_in_pixels(*found):
            left_out += 1
            continue
        own, other = (last_logits(model, inputs) for inputs in found)
        changes.append(share_moved(other, own))
    return Swapped(len(changes), left_out, largest(changes), rounding(computed_in(model)))


def largest(changes: Sequence[float]) -> float | None:
    """Return the largest of some changes, NaN where one is, wherever it stands; None of none."""
    return max(changes, key=lambda change: (math.isnan(change), change), default=None)


def rounding(dtype: torch.dtype) -> float:
    """Return the largest share by which rounding to a precision moves a number: 6e-8 in float32, 4e-3 in bfloat16."""
    return torch.finfo(dtype).eps / 2


def _rows(rows: Sequence[Question]) -> tuple[list[Question], int]:
    """The first rows with a picture that none before shows, and how many show none before these are enough."""
    chosen: list[Question] = []
    seen: set[Path] = set()
    without = 0
    for row in rows:
        without += not row.images
        if not seen.issuperset(row.images):
            chosen.append(row)
            seen.update(row.images)
        if len(chosen) == ROWS:
            break
    return chosen, without


def _own_and_others(
    prompt: str, row: Question, pictures: dict[Path, Image.Image], place: int
) -> Iterator[list[Image.Image]]:
    """A row's pictures, then as many of other rows at their sizes, so that they are as many tokens."""
    asked = in_order(prompt, row.images)
    yield [pictures[path] for path in asked]
    others = [picture for path, picture in pictures.items() if path not in row.images]
    if others:
        instead = {
            path: others[(place + number) % len(others)].resize(pictures[path].size)
            for number, path in enumerate(dict.fromkeys(row.images))
        }
        yield [instead[path] for path in asked]


def _differ_in_pixels(own: Any, other: Any) -> bool:
    """Whether a processor makes the same tokens of both, and other pixels."""
    same = {
        key: value.shape == other[key].shape and torch.equal(value, other[key])
        for key, value in own.items()
        if torch.is_tensor(value)
    }
    return same["input_ids"] and not all(same.values())
