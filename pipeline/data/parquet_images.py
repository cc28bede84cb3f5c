"""Pictures inside parquet files, and paths of pictures in data files: taken out once, never outside the data's folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.images import HEIC, inside
from pipeline.errors import UserError
from pipeline.types import Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 32
"""Rows of a parquet file held at one time: tens of MB of photographs."""
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_SHARD = re.compile(r"-\d+-of-(\d+)$")


def open_parquet(file: Path) -> pq.ParquetFile:
    """Return a parquet file, to be read a few rows at a time.

    Raises:
        UserError: when it is not one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # By default pyarrow keeps all it has read so far; with these at most about one page of a row group.
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not readable as parquet: {error}") from error


@dataclass(frozen=True)
class TableFile:
    """A parquet or arrow file: its columns, and (rows, names or None for all) -> batches of so many rows at most, once."""

    schema: pa.Schema
    batches: Callable[[int, Sequence[str] | None], Iterator[pa.RecordBatch]]


@contextlib.contextmanager
def open_table(file: Path) -> Iterator[TableFile]:
    """Open a parquet file, or an arrow file as `datasets` saves to disk, to be read a few rows at a time.

    Raises:
        UserError: when it is neither.
    """
    if file.suffix == ".parquet":
        with open_parquet(file) as parquet:
            yield TableFile(
                parquet.schema_arrow,
                lambda rows, names: parquet.iter_batches(
                    batch_size=rows, columns=None if names is None else list(names)
                ),
            )
        return
    with _open_stream(file) as stream:
        yield TableFile(stream.schema, lambda rows, names: _slices(stream, rows, names))


def _slices(stream: Iterable[pa.RecordBatch], rows: int, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    for batch in stream:
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            yield part if names is None else part.select(list(names))


def _open_stream(file: Path) -> pa.RecordBatchStreamReader:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(pa.memory_map(str(file)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not readable as arrow: {error}") from error


def place(folder: Path, value: Any, images: Path) -> dict[str, Any]:
    """Return where a row's image is: a file written under `images`, a path below `folder`, or why there is none."""
    data, path = value, None
    if isinstance(value, str):
        data, path = None, value
    elif isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    if data is not None:
        extension = _extension(data)
        if extension is None:
            reason = "unreadable_image" if data else "empty_image"
            return {"reason": reason, "detail": f"{len(data)} bytes of no known image format"}
        return {"file": write_once(images, data, extension), "size": len(data)}
    if not path:
        return {"reason": "missing_image", "detail": "neither bytes nor a path"}
    if inside(folder, path) is None:
        return {"reason": "outside_root", "detail": f"{path} is not inside {folder}"}
    return {"path": path}


def _extension(data: bytes) -> str | None:
    """The real format of an image by its first bytes; None for none of those read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "heic" if HEIC else None
    return next((extension for magic, extension in _MAGIC if data.startswith(magic)), None)


def write_once(images: Path, data: bytes, extension: str) -> str:
    """Write an image under the hash of its content, unless it is there; gives the file's name."""
    target = images / f"{hashlib.sha256(data).hexdigest()[:32]}.{extension}"
    if not target.exists() or target.stat().st_size != len(data):
        partial = target.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(target)
    return target.name


def missing_shards(files: Sequence[Path], split: str) -> list[Problem]:
    """Return one problem when the files' names promise more of them than there are."""
    promised = max((int(match[1]) for file in files if (match := _SHARD.search(file.stem))), default=0)
    if len(files) >= promised:
        return []
    return [Problem(split, "missing_shards", f"{len(files)} of {promised} files are there")]
