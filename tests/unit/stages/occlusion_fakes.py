"""A model whose answer depends on one known box of one picture, and a processor that spells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

SIDE = 80
"""Pixels a side of the pictures; a cell of a map has ten."""
WATCHED = (2, 5)
"""Line and column of the cell that the model looks at."""
RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(colour: tuple[int, int, int] = RED) -> Image.Image:
    """A white picture whose watched cell has a colour."""
    made = Image.new("RGB", (SIDE, SIDE), "white")
    line, column = WATCHED
    made.paste(colour, (10 * column, 10 * line, 10 * column + 10, 10 * line + 10))
    return made


class Speller:
    """A processor: a letter is a token, a picture is written #."""

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool) -> str:
        (turn,) = turns
        return "".join("#" if part["type"] == "image" else part["text"] for part in turn["content"]) + ":"

    def __call__(self, text: list[str], images: Any = None, return_tensors: str | None = None, **_: Any) -> Any:
        tokens = [[ord(letter) for letter in one] for one in text]
        if return_tensors is None:
            return {"input_ids": tokens}
        pixels = np.array([[np.asarray(one) for one in row] for row in images], dtype=np.float32) / 255
        return BatchFeature({"input_ids": torch.tensor(tokens), "pixel_values": torch.tensor(pixels)})


class Watcher(torch.nn.Module):
    """Writes "a" the more surely, the redder the watched cell of the first picture it is shown.

    The logit of "a" is five times the red there, from 0 to 1, those of the 127 others are 0.
    """

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(_attn_implementation="sdpa")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        """Of every forward pass."""

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, use_cache: bool) -> Any:
        self.rows.append(len(input_ids))
        line, column = WATCHED
        red = pixel_values[:, 0, 10 * line : 10 * line + 10, 10 * column : 10 * column + 10, 0].mean((1, 2))
        logits = torch.zeros(*input_ids.shape, 128)
        logits[..., ord("a")] = 5 * red[:, None]
        return SimpleNamespace(logits=logits)
