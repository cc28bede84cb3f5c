"""A cell's folder: evaluation.json, which says what it depends on and what came of it, and predictions.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.image_digests import MISSING, digest_or_missing
from pipeline.data.images import remembered
from pipeline.errors import UserError
from pipeline.files import (
    differences,
    digest,
    end_half_line,
    json_lines,
    read_jsonl,
    write_atomic,
    write_json,
)

RUNNING, COMPLETE = "running", "complete"
GIVEN_UP = ("server_error", "no_reply", "moderated")
"""Reasons of rows at which a server failed while it answered others."""

PredictionRow = dict[str, Any]
"""One row of predictions.jsonl."""


class Record:
    """A cell's files. Only while its folder is held alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path, self.predictions = folder / "evaluation.json", folder / "predictions.jsonl"

    def begin(self, inputs: Mapping[str, Any], *, clean: bool) -> bool:
        """Start, or go on; whether the cell is complete already.

        Args:
            inputs: everything its answers depend on.
            clean: begin anew whatever is there.

        Raises:
            UserError: when what is there depends on something else.
        """
        wanted = json.loads(json.dumps(inputs, default=str))
        if clean:
            self.path.unlink(missing_ok=True)
            self.predictions.unlink(missing_ok=True)
        there = json.loads(self.path.read_text()) if self.path.exists() else None
        if there is None:
            write_json(self.path, {"status": RUNNING, "inputs": wanted})
            return False
        if changed := differences(there["inputs"], wanted):
            cure = "name the cell anew, or start it anew with --clean"
            raise UserError([f"{self.folder.name}: {change}" for change in changed] + [f"{self.folder.name}: {cure}"])
        return bool(there["status"] == COMPLETE)

    def answered(self) -> dict[str, PredictionRow]:
        """Return the rows that are there, by id, after a half line at the end is taken away."""
        if self.predictions.exists():
            end_half_line(self.predictions)
        rows: dict[str, PredictionRow] = {}
        for row in read_jsonl(self.predictions):
            rows.setdefault(row["id"], row)
        return rows

    def forget_given_up(self) -> int:
        """Take away the rows that a server failed at, so that they are asked again; returns how many they were."""
        there = self.answered()
        kept = [row for row in there.values() if not ("detail" in row and row["reason"] in GIVEN_UP)]
        if len(kept) < len(there):
            # First, so that after a kill in between the cell is only written once more.
            write_json(self.path, {"status": RUNNING, "inputs": json.loads(self.path.read_text())["inputs"]})
            write_atomic(self.predictions, json_lines(kept))
        return len(there) - len(kept)

    def append(self, rows: Iterable[PredictionRow]) -> None:
        """Write rows down behind the others."""
        with self.predictions.open("a") as file:
            file.write(json_lines(rows))

    def complete(self, rows: Sequence[PredictionRow], inputs: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """Put the rows in order and, last, say that the cell is done."""
        write_atomic(self.predictions, json_lines(rows))
        write_json(self.path, {"status": COMPLETE, "inputs": inputs, **figures})


def rows_digest(questions: Sequence[Any], pictures: Mapping[Path, str]) -> str:
    """Return one sha256 over what is asked: texts, options, gold answers and the bytes of every picture, in order.

    Args:
        pictures: of `picture_digests`.
    """
    return digest(
        [
            [row.id, row.text, list(row.options), row.answer, [pictures[path] for path in row.images]]
            for row in questions
        ]
    )


def picture_digests(questions: Sequence[Any], cache: Path) -> dict[Path, str]:
    """Return sha256 of every picture that is shown, remembered for as long as a file's size and time of change stay the same.

    Args:
        cache: folder of what is remembered.
    """
    paths = [path for row in questions for path in row.images]
    return remembered(paths, cache / "picture_digests.json", digest_or_missing, fleeting=(MISSING,))
