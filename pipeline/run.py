"""A run's folder: every path name in it, its records, and writes that a crash cannot tear.

```
<output_dir>/.cache/    what tasks derive from their data; shared by runs, safe to delete
<output_dir>/<name>/
  config.yaml           the resolved configuration
  base/                 the untrained model (made here when it is the tiny one) and its report
  cot/                  train.parquet rejected.jsonl journal/ manifest.json README.md
  <stage>/              stage.json metrics.jsonl alarms.jsonl checkpoint-*/ final/ best/ logs/ evaluation.json predictions.jsonl
                        report/
  report/               index.html summary.md summary.json model_card.md *.png tables/
```

A phase is complete when its record (`stage.json`, or `manifest.json` for cot) says ``"status": "complete"``; it is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

BASE = "base"
COT = "cot"


class RunDir:
    """Path names of one run.

    Args:
        output_dir: the folder runs are kept in.
        name: the run's name.
    """

    def __init__(self, output_dir: str | Path, name: str) -> None:
        self.root = Path(output_dir) / name
        self.cache = Path(output_dir) / ".cache"
        """Files tasks derive from their data (drawn scenes, images taken out of parquet files), shared by all runs here."""

    @property
    def cot(self) -> Path:
        return self.root / COT

    @property
    def report(self) -> Path:
        return self.root / "report"

    def phase(self, name: str) -> Path:
        """Folder of a phase: base, cot, or a stage's full name."""
        return self.root / name

    def record_path(self, name: str) -> Path:
        """The file whose ``"status": "complete"`` says that a phase is done."""
        return self.phase(name) / ("manifest.json" if name == COT else "stage.json")

    def record(self, name: str) -> dict[str, Any] | None:
        """A phase's record, or None when there is none yet.

        Raises:
            UserError: when the file is no JSON object; records are written atomically, so something else wrote it.
        """
        path = self.record_path(name)
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path} is not a record (a JSON object); delete it, or add --clean {name}")
        return record

    def final(self, name: str) -> Path:
        """The checkpoint a stage hands over."""
        return self.phase(name) / "final"


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
            os.fsync(folder)  # The new name is durable only with the folder that holds it.
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file; a torn last line (the writer was killed) is left out.

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
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read() != b"\n":  # Seldom: a whole file is not read for it.
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def digest(value: Any) -> str:
    """sha256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(folder: Path) -> str | None:
    """One sha256 over a checkpoint's safetensors files (names and bytes), or None when it has none."""
    files = sorted(folder.glob("*.safetensors"))
    return digest({file.name: file_digest(file) for file in files}) if files else None
