"""Where a part comes from: a folder or file on disk, or a model of the hub, of which safetensors alone are fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.schema import ModelConfig
from pipeline.errors import UserError
from pipeline.files import digest, file_digest, split_revision
from stages.models.hub import find_model


def find_part(source: str, what: str) -> Path:
    """Return the folder or file of a part, fetched from the hub when it is an id or id@revision.

    Raises:
        UserError: when it is neither on disk nor to be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name, revision = split_revision(source)
    try:
        return find_model(ModelConfig(name_or_path=name, revision=revision))
    except UserError as error:
        raise UserError([problem.replace("model.name_or_path", what, 1) for problem in error.problems]) from error


def weights_digest_of(path: Path) -> str:
    """Return one sha256 over the weights of a part, however they lie: the names and bytes of its files."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.suffix in _WEIGHTS)
    return digest({file.name: file_digest(file) for file in files})


_WEIGHTS = (".safetensors", ".gguf", ".onnx")


@contextlib.contextmanager
def refusing(source: str, what: str) -> Iterator[None]:
    """Turn what a library says of files it cannot read into an error a user can mend."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        told: Any = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what}: {source!r} cannot be read as a {what} ({type(error).__name__}: {told[0]})") from error
