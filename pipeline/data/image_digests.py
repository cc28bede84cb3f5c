"""Digests of pictures' bytes, each file read once for as long as its size and time of change stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.images import remembered

LENGTH = 16
"""Hexadecimal digits of a digest: 64 bits of sha256, against accidents and not against attackers."""


def image_digests(paths: Iterable[Path], cache_file: Path) -> dict[str, str]:
    """Return a digest of each file's bytes; "missing" for one that cannot be read.

    Args:
        paths: the files.
        cache_file: JSON that keeps them; processes may share it.
    """
    found = remembered(paths, cache_file, lambda path: _digest(str(path)), fleeting=("missing",))
    return {str(path): digest for path, digest in found.items()}


def _digest(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
    except OSError:
        return "missing"
