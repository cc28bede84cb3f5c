"""Occlusion maps on disk, and as pictures: what stages/explain.py writes into a phase's folder and the browser of a page shows.

    <phase>/occlusion/    maps.jsonl: a line per row; a PNG per picture; occlusion.json: what they are of, and what has none

Maps are shown beside the very predictions they were made of, and else not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import file_digest, read_json, read_jsonl

if TYPE_CHECKING:
    from PIL import Image

FOLDER = "occlusion"
MAPS = "maps.jsonl"
RECORD = "occlusion.json"
GRID = 8
"""Cells a side; a side of fewer pixels has a cell a pixel."""
LEAST = 0.01
"""The least fall that is a peak: 1 % of the answer's probability."""
FAINT = 0.1
"""Of a map whose falls are all below this the colours are as faint as they are beside it."""
SIDE = 320
"""Longest side of an overlay, in pixels."""
FALLS, RISES = (213, 94, 0), (0, 114, 178)
# Of 255, where the fall is the largest: the picture stays visible.
_STRONGEST = 190

Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels, as Pillow has it."""
Falls = list[list[float]]
"""Of a picture's cells, in lines from the top: by how much a patch there lowers an answer's log-probability."""


@dataclass(frozen=True)
class Overlay:
    """A picture with its map laid over it: the file, and the largest fall of its cells in nats."""

    path: Path
    largest: float


@dataclass(frozen=True)
class OcclusionMaps:
    """The maps of one entry: overlays of its rows' pictures by the row's id, and reason: rows of the phase that have none."""

    rows: Mapping[str, tuple[Overlay, ...]]
    left_out: Mapping[str, int] = field(default_factory=dict)


def cells(size: tuple[int, int]) -> list[list[Box]]:
    """Return the boxes of a picture's cells, in lines from the top.

    Args:
        size: (width, height) in pixels.
    """
    xs, ys = ([round(side * n / min(GRID, side)) for n in range(min(GRID, side) + 1)] for side in size)
    return [[(left, top, right, low) for left, right in pairwise(xs)] for top, low in pairwise(ys)]


def peak(falls: Falls) -> tuple[int, int] | None:
    """Return (line, column) of the cell with the largest fall, the first of equals; None where none falls by `LEAST`."""
    largest = max(max(line) for line in falls)
    if largest < LEAST:
        return None
    return next((at, line.index(largest)) for at, line in enumerate(falls) if largest in line)


def overlay(picture: Image.Image, falls: Falls) -> Image.Image:
    """Lay a map over its picture in grey: orange where a patch makes the answer less likely, blue where more, the peak framed.

    Colours are as strong as falls are beside the picture's largest, or beside `FAINT` where that is less.
    """
    from PIL import Image, ImageDraw

    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    colours, strengths = (Image.new(mode, (len(falls[0]), len(falls))) for mode in ("RGB", "L"))
    most = max(FAINT, *(abs(fall) for line in falls for fall in line))
    for at, line in enumerate(falls):
        for column, fall in enumerate(line):
            colours.putpixel((column, at), FALLS if fall > 0 else RISES)
            strengths.putpixel((column, at), round(_STRONGEST * abs(fall) / most))
    grey = picture.resize(size).convert("L").convert("RGB")
    nearest = Image.Resampling.NEAREST
    laid = Image.composite(colours.resize(size, nearest), grey, strengths.resize(size, nearest))
    if (at_peak := peak(falls)) is not None:
        left, top, right, low = cells(picture.size)[at_peak[0]][at_peak[1]]
        frame = [round(edge * scale) for edge in (left, top, right, low)]
        ImageDraw.Draw(laid).rectangle(
            (frame[0], frame[1], max(frame[0], frame[2] - 1), max(frame[1], frame[3] - 1)), outline="white", width=3
        )
    return laid


def mapped_rows(phase: Path) -> list[dict[str, Any]]:
    """Return the lines of a phase's maps.jsonl; none where its predictions are other ones than those that were mapped."""
    record = read_json(phase / FOLDER / RECORD)
    predictions = phase / "predictions.jsonl"
    if not record or not predictions.is_file() or record["inputs"]["predictions"] != file_digest(predictions):
        return []
    return list(read_jsonl(phase / FOLDER / MAPS))


def read_maps(phase: Path) -> dict[str, OcclusionMaps]:
    """Return the maps of a phase by prompt style, of the predictions that are there."""
    found: dict[str, dict[str, tuple[Overlay, ...]]] = {}
    for row in mapped_rows(phase):
        found.setdefault(row["style"], {})[row["id"]] = tuple(
            Overlay(phase / FOLDER / one["overlay"], max(map(max, one["falls"]))) for one in row["pictures"]
        )
    left_out = read_json(phase / FOLDER / RECORD).get("left_out") or {}
    return {style: OcclusionMaps(rows, left_out) for style, rows in found.items()}
