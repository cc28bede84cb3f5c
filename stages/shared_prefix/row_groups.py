"""Which rows of a batch ask the same: a processor's tensors row by row, and rows of one prompt and one picture together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

Row = dict[str, torch.Tensor]
"""What the processor gave for one row, beside its tokens: pixels, sizes, kinds of tokens."""
BY_PIXEL = ("pixel_values",)
BY_IMAGE = ("image_grid_thw", "image_sizes")
KINDS = ("mm_token_type_ids", "token_type_ids")
"""Fields that say of each token whether it is of an image."""
SKETCHED = 64
"""Pixels by which pictures are told apart at first."""


def count_token(ids: torch.Tensor, token: int | None) -> list[int]:
    """Count a token in each row; 0 where there is no such token."""
    return [0] * len(ids) if token is None else (ids == token).sum(dim=1).tolist()


def split_rows(fields: Mapping[str, Any], image_tokens: Sequence[int], images: Sequence[int] | None) -> list[Row]:
    """Split a batch's tensors into rows.

    Args:
        fields: name: tensor of the batch, or a list of one tensor per row; None is left out.
        image_tokens: of each row.
        images: how many each row has; None when there are none.

    Raises:
        ValueError: when pixels cannot be told apart.
    """
    rows: list[Row] = [{} for _ in image_tokens]
    for name, value in fields.items():
        if value is None:
            continue
        if isinstance(value, list):
            parts: Sequence[torch.Tensor] = value
        elif name in BY_PIXEL and value.dim() < 5:
            parts = value.split(_flat(len(value), fields.get("image_grid_thw"), image_tokens, images))
        elif name in BY_IMAGE and images is not None:
            parts = value.split(list(images))
        else:
            parts = value.split(1)
        for row, part in zip(rows, parts, strict=True):
            row[name] = part
    return rows


def _flat(
    pixels: int, grid: torch.Tensor | None, image_tokens: Sequence[int], images: Sequence[int] | None
) -> list[int]:
    """How many entries of pixels each row has. They are laid out one row of five dimensions each (Idefics3, SmolVLM), or flat:
    patches of which a grid tells (Qwen-VL), pictures (LLaVA), or tiles, each of as many image tokens (InternVL)."""
    if images is not None and isinstance(grid, torch.Tensor):
        return [int(part.prod(dim=1).sum()) for part in grid.cpu().split(list(images))]
    if images is not None and pixels == sum(images):
        return list(images)
    in_all = max(1, sum(image_tokens))
    if any(pixels * tokens % in_all for tokens in image_tokens):
        raise ValueError(f"{pixels} entries of pixels cannot be told apart by image tokens: {list(image_tokens)}")
    return [pixels * tokens // in_all for tokens in image_tokens]


def join_rows(rows: Sequence[Row]) -> Row:
    """Return the tensors of a batch of these rows."""
    return {name: _joined([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one behind the other; those of a row's tiles (one entry per row) get as many as the row with most has."""
    if parts[0].dim() >= 4 and len({part.shape[1] for part in parts}) > 1:
        most = max(part.shape[1] for part in parts)
        # From the last dimension on: (row, tiles, …) is padded behind its tiles.
        parts = [torch.nn.functional.pad(one, (0, 0) * (one.dim() - 2) + (0, most - one.shape[1])) for one in parts]
    return torch.cat(list(parts))


def of_text(fields: Row) -> Row:
    """Return what a model takes of rows that show no picture, beside their tokens."""
    return {name: value for name, value in fields.items() if name in KINDS}


def pad_kinds(row: Row, width: int, after: int = 0) -> Row:
    """Return a row whose kinds of tokens are padded with 0, on the left to `width` tokens and by `after` on the right."""
    return {
        name: torch.nn.functional.pad(value, (width - value.shape[1], after)) if name in KINDS else value
        for name, value in row.items()
    }


def same_rows(prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[list[int]]:
    """Return indices of the rows that have the same tokens and the same pictures, group by group, in order of appearance.

    Args:
        prompts: tokens of each row; padding, when there is any, is part of them.
        rows: pictures of each row. Equal tokens with other pixels are another group.
    """
    buckets: dict[Hashable, list[list[int]]] = {}
    groups: list[list[int]] = []
    for place, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        alike = buckets.setdefault((tuple(prompt), _sketch(row)), [])
        group = next((group for group in alike if _same(rows[group[0]], row)), None)
        if group is None:
            group = []
            alike.append(group)
            groups.append(group)
        group.append(place)
    return groups


def _sketch(row: Row) -> Hashable:
    """A few of its pixels. Many rows may ask one text of other pictures; few of those have to be compared as a whole."""
    pixels = row["pixel_values"].flatten() if "pixel_values" in row else torch.empty(0)
    return tuple(pixels[:: max(1, len(pixels) // SKETCHED)].tolist())


def _same(one: Row, other: Row) -> bool:
    return all(one[name] is other[name] or one[name].equal(other[name]) for name in one)
