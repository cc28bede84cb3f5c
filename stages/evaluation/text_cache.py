"""Texts that models write for others to read, written once: what to observe, and descriptions.

One JSON-lines file per model, shared by the cells of a lab, which may run side by side. A line is whole or, after a kill, the
last one; two cells that write the same text at once write it twice, and the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.files import end_half_line, json_lines, read_jsonl
from pipeline.system.locks import acquire


class Texts:
    """The texts of one model.

    Args:
        path: their file; created with the first text.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        for row in read_jsonl(path):
            self._known.setdefault(row["key"], row)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row written under a key."""
        return self._known.get(key)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows, each with its ``key``; on disk when this returns."""
        new = [dict(row) for row in rows]
        with acquire(self._path, wait=math.inf) as file:
            end_half_line(self._path)
            file.write(json_lines(new))
        for row in new:
            self._known.setdefault(row["key"], row)
