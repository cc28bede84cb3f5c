"""Pictures inside data files, as bytes or text, and paths of pictures there: taken out once, never outside the data's folder."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

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
MOST_EMBEDDED = 64 * 1024 * 1024
"""Bytes of a picture that a row holds as text."""
ADDRESS_CURE = (
    "nothing is fetched while a run trains: download the pictures first and give their paths "
    "(python -m pipeline fetch lists the sets that it gets by itself)"
)
# The smallest picture that Pillow reads takes more characters, and names of files hardly begin as pictures do.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64}")
# Longer is no path that an operating system takes.
_LONGEST_PATH = 4096
_URL_SAFE = str.maketrans("-_", "+/")
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


def is_address(value: Any) -> bool:
    """Check whether a value is the http(s) address of a picture."""
    return isinstance(value, str) and value[:80].lstrip().lower().startswith(("http://", "https://"))


def is_embedded(value: Any) -> bool:
    """Check whether a value is a text that is a picture itself, a ``data:`` URI or base64, and no path."""
    if not isinstance(value, str):
        return False
    if _is_uri(value):
        return True
    head = "".join(value[:80].split())
    found = _BASE64.match(head)
    return found is not None and _extension(base64.b64decode(found[0].translate(_URL_SAFE))) is not None


def _is_uri(text: str) -> bool:
    return text[:80].lstrip()[:5].lower() == "data:"


def _unembedded(text: str) -> bytes:
    """The bytes of a text that `is_embedded`; a ValueError says why there are none."""
    head, _, body = text.partition(",") if _is_uri(text) else ("", "", text)
    if len(body) > MOST_EMBEDDED // 3 * 4:
        raise ValueError(f"{len(body):,} characters, more than a picture of {MOST_EMBEDDED >> 20} MiB takes")
    if head and not head.rstrip().lower().endswith(";base64"):
        return unquote_to_bytes(body)
    plain = "".join(body.split()).translate(_URL_SAFE)
    # Many leave the padding out.
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def place(folder: Path, value: Any, images: Path) -> dict[str, Any]:
    """Return where a row's image is: a file written under `images`, a path below `folder`, or why there is none.

    Args:
        folder: the data's.
        value: bytes, a text, or {bytes, path} of them. A text is a path unless it `is_embedded`; an address is refused.
        images: where pictures that the data hold are written, each under the hash of its bytes.
    """
    data, path = value, None
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    text: Any = data if isinstance(data, str) else path if data is None else None
    if text is not None:
        data, path = None, text
    if is_address(text):
        return {"reason": "remote_image", "detail": f"{text[:60]} is an address, and {ADDRESS_CURE}"}
    if is_embedded(text):
        try:
            data = _unembedded(text)
        except ValueError as error:
            return {"reason": "unreadable_image", "detail": f"{text[:30]}… is no picture as text: {error}"}
    if not isinstance(data, bytes | None) or not isinstance(path, str | None):
        kind = type(path if data is None else data).__name__
        return {"reason": "missing_image", "detail": f"the picture is given as {kind}; bytes and text are read"}
    if data is not None:
        extension = _extension(data)
        if extension is None:
            reason = "unreadable_image" if data else "empty_image"
            return {"reason": reason, "detail": f"{len(data)} bytes of no known image format"}
        return {"file": write_once(images, data, extension), "size": len(data)}
    if not path:
        return {"reason": "missing_image", "detail": "neither bytes nor a path"}
    if len(path) > _LONGEST_PATH:
        told = f"{path[:30]}… of {len(path):,} characters is neither a path nor a picture as text"
        return {"reason": "unreadable_image", "detail": told}
    if inside(folder, path) is None:
        cure = "copy it in, or put the rows' file into a folder above both and set task.path to that"
        return {"reason": "outside_root", "detail": f"{path[:200]} is not inside {folder}: {cure}"}
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
    images.mkdir(parents=True, exist_ok=True)
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
