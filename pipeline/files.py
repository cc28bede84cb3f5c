"""Files that are whole or absent: atomic writes, JSON and JSON lines, digests; and where this project lies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the rooms: the repository, or where the package is installed."""


def is_path(source: str) -> bool:
    """Check whether a model is named by where it lies: on a hub it is called by a name, or by its owner and a name, and a
    revision behind @, which may have slashes of its own (refs/pr/1).
    """
    return source.startswith(("/", ".", "~")) or source.partition("@")[0].count("/") > 1


def split_revision(source: str) -> tuple[str, str | None]:
    """Return the id and the revision of a hub model named as id or id@revision."""
    name, _, revision = source.partition("@")
    return name, revision or None


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return what changed between two plain configurations, as ``a.b: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed = []
        for name in [*old, *(name for name in new if name not in old)]:
            changed += differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        return changed
    return [] if old == new else [f"{key}: {old!r} -> {new!r}"]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON mapping; empty when the file is missing or is something else."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; durable when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # The new name is durable only with the folder that holds it.
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def json_lines(rows: Iterable[Any]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of a JSON-lines file; a torn last line (the writer was killed) is left out.

    Raises:
        ValueError: when a line other than the last is not JSON.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from error


def end_half_line(path: Path) -> None:
    """Take away the half line at the end of a JSON-lines file, which a killed writer left. Only while nobody else writes."""
    if half := half_line(path):
        os.truncate(path, path.stat().st_size - len(half))


def half_line(path: Path) -> bytes:
    """Return what stands behind the last line break of a file: half a line, or a last one that was not ended."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        # Seldom: a whole file is not read for it.
        if file.read() in (b"", b"\n"):
            return b""
        file.seek(0)
        return file.read().rpartition(b"\n")[2]


def digest(value: Any) -> str:
    """Return sha256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_to_number(text: str) -> int:
    """Return a number from 0 to 2⁶⁴ - 1 that follows from a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def file_digest(path: Path) -> str:
    """Return sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: Path) -> str | None:
    """Return one sha256 over a checkpoint's safetensors files (names and bytes), or None when it has none."""
    files = sorted(folder.glob("*.safetensors"))
    return digest({file.name: file_digest(file) for file in files}) if files else None


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
