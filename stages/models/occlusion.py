"""Occlusion maps: which parts of a picture the probability of an answer hangs on (Zeiler and Fergus 2014, arXiv 1311.2901).

A grey patch covers one cell of a picture after the other, and each time the model reads prompt and answer again. Pixels are
covered before the processor sees them, so that any family is asked in the same way; nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.data.conversations import in_order, user_turn
from pipeline.reports.occlusion import Box, Falls, cells
from pipeline.scoring.response import continuation
from stages.models.chat import prompt_text, tokens_of
from stages.models.row_logits import end_logprobs

GREY = (128, 128, 128)
BATCH = 16
"""Most rows that are computed at once, each with another patch."""


@dataclass(frozen=True)
class Occluded:
    """What patches did to one answer.

    Args:
        logprob: of the answer's tokens with nothing covered: their sum, natural logarithm.
        tokens: of the answer.
        falls: of each picture, by how much a patch on each cell lowers `logprob`; below 0 where it raises it.
    """

    logprob: float
    tokens: int
    falls: tuple[Falls, ...]


def occlude(
    model: Any, processor: Any, prompt: str, pictures: Sequence[Image.Image], completion: str, batch: int = BATCH
) -> Occluded | None:
    """Cover a row's pictures cell by cell and measure how far the log-probability of its answer falls.

    Args:
        model: in evaluation mode.
        processor: of the model.
        prompt: what was asked; ``<image 1>`` marks where picture 1 belongs.
        pictures: of the row, RGB, in the row's order.
        completion: what the model wrote, thoughts and all.
        batch: rows that are computed at once.

    Returns:
        What was found; None where the answer has no token.
    """
    asked = prompt_text(processor, user_turn(prompt, len(pictures)))
    # Not the end of the turn: an answer that was cut has none.
    text = asked + continuation(asked, completion)
    before, behind = (list(tokens_of(processor, one, in_order(prompt, pictures))) for one in (asked, text))
    # The prompt's last token may be another one where an answer follows.
    same = next(
        (place for place, pair in enumerate(zip(before, behind, strict=False)) if len(set(pair)) > 1), len(before)
    )
    length = len(behind) - same
    if not length:
        return None
    grids = [cells(picture.size) for picture in pictures]
    patches: list[tuple[int, Box] | None] = [None]
    patches += [(place, box) for place, grid in enumerate(grids) for line in grid for box in line]
    found: list[float] = []
    for start in range(0, len(patches), batch):
        images = [in_order(prompt, _covered(pictures, patch)) for patch in patches[start : start + batch]]
        # The same text and the same sizes of pictures: as many tokens in every row.
        inputs = processor(text=[text] * len(images), images=images, return_tensors="pt", add_special_tokens=False)
        found += end_logprobs(model, inputs, length)
    logprob, rest = found[0], iter(found[1:])
    return Occluded(logprob, length, tuple([[logprob - next(rest) for _ in line] for line in grid] for grid in grids))


def _covered(pictures: Sequence[Image.Image], patch: tuple[int, Box] | None) -> list[Image.Image]:
    """A row's pictures with a grey patch on a box of one of them; the others are the same objects."""
    shown = list(pictures)
    if patch is not None:
        place, box = patch
        shown[place] = shown[place].copy()
        shown[place].paste(GREY, box)
    return shown
