"""PNG files whose texts or colour profile unpack to more than Pillow takes: the pixels are whole, so such chunks are left out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_RATIO = 1032
"""Bytes that deflate makes of one, at most."""


def without_large_texts(path: Path) -> Path | BytesIO:
    """Return `path`, or the file's bytes without chunks of text that unpack to more than Pillow reads (1 MB).

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(8) != _SIGNATURE:
            return path
        large = [(start, end) for kind, start, end in _chunks(file) if kind in _PACKED and _is_large(file, start, end)]
        if not large:
            return path
        kept, at = BytesIO(), 0
        for start, end in [*large, (path.stat().st_size, 0)]:
            file.seek(at)
            kept.write(file.read(start - at))
            at = end
    kept.seek(0)
    return kept


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk, with its length before and its checksum behind."""
    start = 8
    while len(head := _read_at(file, start, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, start, start + length + 12
        start += length + 12


def _is_large(file: IO[bytes], start: int, end: int) -> bool:
    most = PngImagePlugin.MAX_TEXT_CHUNK
    if (end - start) * _RATIO <= most:
        return False
    data = _read_at(file, start + 8, end - start - 12)
    kind = _read_at(file, start + 4, 4)
    _, _, rest = data.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            # Not packed.
            return False
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    unpack = zlib.decompressobj()
    try:
        unpacked = unpack.decompress(rest, most)
    except zlib.error:
        return False
    return len(unpacked) >= most and bool(unpack.unconsumed_tail or not unpack.eof)


def _read_at(file: IO[bytes], start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
