"""Which pictures of a run's own splits are the same: judged on and trained on, or under two labels. As counted, told and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write_json
from pipeline.types import Question

FILE = "shared_pictures.json"
"""In a run's folder: what was found before its first phase."""


@dataclass(frozen=True)
class SharedPictures:
    """What one selection of rows shares with the rows that are trained on, or with itself.

    Args:
        key: whose rows they are: evaluation.split, a validation.split, or "" for all rows of the run, held against each other.
        split: as the key has it.
        rows: pictures that were compared.
        equal: of them, those that are among the training pictures; with key "" those that have another label elsewhere.
        near: those that are nearly one of them; None where it was not looked at.
        first: the first of them, and what it is.
    """

    key: str
    split: str
    rows: int
    equal: int
    near: int | None
    first: str

    def __str__(self) -> str:
        if not self.key:
            return f"{self.equal:,} of {self.rows:,} pictures are there under two labels (first: {self.first})"
        told = f"{self.equal:,} of {self.rows:,} pictures of {self.split} ({self.key}) are also in training"
        return told + (f", {self.near:,} more nearly" if self.near else "") + f" (first: {self.first})"


def equal_pictures(
    training: Sequence[Question],
    judged: Mapping[str, tuple[str, Sequence[Question]]],
    pixels: Mapping[Path, str | None],
) -> list[SharedPictures]:
    """Return what selections share by equal digests; nothing of those that share nothing.

    Args:
        training: rows that are trained on.
        judged: key: (its split, its rows).
        pixels: a digest of each picture; None for one that could not be read.
    """
    known = {digest: row for row in reversed(training) for image in row.images if (digest := pixels.get(image))}
    found = []
    for key, (split, rows) in judged.items():
        first_known = (
            (row, next((pixels[one] for one in row.images if pixels.get(one) in known), None)) for row in rows
        )
        same = [(row, known[digest]) for row, digest in first_known if digest]
        if same:
            first = f"{same[0][0].id} is {same[0][1].id}"
            found.append(SharedPictures(key, split, len(rows), len(same), None, first))
    every = [training, *(rows for _, rows in judged.values())]
    everything = {(row.images, row.text): row for rows in every for row in rows if row.images}
    # Another question about the same picture has another answer.
    labels: dict[tuple[Any, ...], Question] = {}
    twice: list[tuple[Question, Question]] = []
    for row in everything.values():
        digests = [pixels.get(image) for image in row.images]
        if all(digests):
            other = labels.setdefault((*digests, row.text, row.options), row)
            if other.gold != row.gold:
                twice.append((row, other))
    if twice:
        row, other = twice[0]
        first = f"{row.id} is {row.gold}, {other.id} is {other.gold}"
        found.append(SharedPictures("", "", len(everything), len(twice), None, first))
    return found


def write_shared(folder: Path, found: Sequence[SharedPictures]) -> None:
    """Keep what was found in a run's folder."""
    write_json(folder / FILE, [asdict(one) for one in found])


def read_shared(folder: Path) -> tuple[SharedPictures, ...]:
    """Return what a run's folder keeps; nothing where it was never looked at."""
    path = folder / FILE
    return tuple(SharedPictures(**one) for one in json.loads(path.read_text())) if path.is_file() else ()
