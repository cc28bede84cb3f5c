"""Where a question's pictures belong in its text: ``<image 1>`` marks the place of picture 1."""

from __future__ import annotations

import re

_MARK = re.compile(r"<image (\d+)>")


def split_at_marks(text: str, images: int) -> list[str | int]:
    """Return a text with its pictures in their places: words, and indices of pictures from 0.

    Pictures without a mark come first, in order. A further mark of the same picture, or of one there is not, is read as words.
    """
    found: list[str | int] = []
    placed: set[int] = set()
    words, end = "", 0
    for mark in _MARK.finditer(text):
        index = int(mark[1]) - 1
        words += text[end : mark.start()]
        end = mark.end()
        if index in placed or not 0 <= index < images:
            words += f"image {mark[1]}"
            continue
        found += [piece for piece in (words.strip(),) if piece]
        found.append(index)
        placed.add(index)
        words = ""
    words = (words + text[end:]).strip()
    return [*(index for index in range(images) if index not in placed), *found, *([words] if words else [])]


def pictures_first(text: str) -> str:
    """Return a text for one who is shown all pictures before it: marks it begins with go, the others are read as words."""
    number = 1
    while (mark := _MARK.match(text)) and int(mark[1]) == number:
        text, number = text[mark.end() :].lstrip(), number + 1
    return without_marks(text)


def without_marks(text: str) -> str:
    """Return a text for one who sees no picture: ``<image 1>`` is read as words."""
    return _MARK.sub(r"image \1", text)
