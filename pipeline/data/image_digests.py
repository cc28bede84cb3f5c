"""Digests of pictures' bytes, each file read once for as long as its size and time of change stay the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.data.images import ImageError, picture_digest, remembered

LENGTH = 16
"""Hexadecimal digits of a digest: 64 bits of sha256, against accidents and not against attackers."""
MISSING = "missing"
"""Stands for the digest of a file that cannot be read."""


def image_digests(paths: Iterable[Path], cache_file: Path) -> dict[str, str]:
    """Return a digest of each file's bytes; `MISSING` for one that cannot be read.

    Args:
        paths: the files.
        cache_file: JSON that keeps them; processes may share it.
    """
    found = remembered(paths, cache_file, lambda path: digest_or_missing(path)[:LENGTH], fleeting=(MISSING,))
    return {str(path): digest for path, digest in found.items()}


def digest_or_missing(path: Path) -> str:
    """Return sha256 of a picture's bytes, `MISSING` of one that cannot be read."""
    try:
        return picture_digest(path)
    except ImageError:
        return MISSING
