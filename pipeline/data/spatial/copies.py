"""Copies of pictures with boxes drawn on them, mirrored or cropped: made once, in the cache, the same bytes every time."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pipeline.data.images import encode_picture, may_draw, open_rgb
from pipeline.data.spatial.pictures import Box
from pipeline.files import digest

VERSION = 1
"""Part of a copy's name: raise it when the drawing changes."""
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}


@dataclass(frozen=True)
class PictureCopy:
    """What is done to a picture, in this order: mirrored, cropped to a window and scaled back, marked with boxes."""

    image: Path
    mirror: bool = False
    window: Box | None = None
    marks: tuple[tuple[str, Box], ...] = ()

    def path(self, folder: Path) -> Path:
        """Return where the copy lies; the picture itself where nothing is done to it."""
        if not (self.mirror or self.window or self.marks):
            return self.image
        key = [VERSION, *_stamp(self.image), self.mirror, self.window, self.marks]
        return folder / f"{digest(key)[:32]}{'.png' if self.image.suffix.lower() == '.png' else '.jpg'}"


@functools.lru_cache(maxsize=4096)
def _stamp(image: Path) -> tuple[str, int, int]:
    """What tells a file from what lay there before; copies of one picture are asked for one after the other."""
    status = image.stat()
    return str(image), status.st_size, status.st_mtime_ns


def make_copies(copies: Mapping[Path, PictureCopy]) -> None:
    """Draw those copies that are not there yet.

    Args:
        copies: of pictures that decode, by where they lie.
    """
    wanted = {path: copy for path, copy in copies.items() if path != copy.image and not _is_there(path)}
    if not wanted or not may_draw(len(wanted)):
        return
    for folder in {path.parent for path in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda item: _write(*item), wanted.items()):
            pass


def _is_there(path: Path) -> bool:
    # Copies are not synced to disk one by one (that takes minutes), so a power cut can leave some of them empty.
    return path.is_file() and path.stat().st_size > 0


def _write(path: Path, copy: PictureCopy) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(encoded(copy))
    partial.replace(path)


def encoded(copy: PictureCopy) -> bytes:
    """Return the copy's file: PNG of a PNG, else JPEG with full colour, which thin lines need."""
    image = drawn(copy)
    if copy.image.suffix.lower() == ".png":
        return encode_picture(image, "PNG")
    return encode_picture(image, "JPEG", quality=95, subsampling=0)


def drawn(copy: PictureCopy) -> Image.Image:
    """Return the copy as an RGB picture of the same size."""
    image = open_rgb(copy.image)
    size = image.size
    if copy.mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if copy.window:
        image = image.resize(size, Image.Resampling.BICUBIC, box=copy.window)
    pen, width = ImageDraw.Draw(image), max(1, round(min(size) / 120))
    for colour, (left, top, right, bottom) in copy.marks:
        # Just outside the box, so that a red object's red box is seen, and whole where the box is at the rim.
        upper = (max(0, round(left) - width), max(0, round(top) - width))
        lower = (min(size[0], round(right) + width) - 1, min(size[1], round(bottom) + width) - 1)
        pen.rectangle((*upper, *lower), outline=COLOURS[colour], width=width)
    return image
