"""Whether built CoT rows are about the pictures that lie there now: their file names each picture's digest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.image_digests import LENGTH, image_digests
from pipeline.files import digest
from pipeline.types import Question

COLUMN = "image_digest"
"""Column of train.parquet; files of before do not have it."""


@dataclass(frozen=True)
class CotPictures:
    """What built rows and the pictures of today have in common.

    Args:
        rows: how many rows there are.
        changed: ids of those whose picture is another now.
        new: ids of pictures that the build was not asked about.
        gone: ids of those that have no picture any more, by their name and split.
        known: whether the rows say of which pictures they are.
    """

    rows: int
    changed: Sequence[str]
    new: Sequence[str]
    known: bool
    gone: Sequence[str] = ()

    def problems(self) -> Iterator[str]:
        """Yield why the rows cannot be trained on."""
        if self.changed:
            yield (
                f"{len(self.changed):,} of {self.rows:,} rows are about other pictures (first: {self.changed[0]}); restore the "
                "pictures, or build the rows again, which asks only about those that changed: python -m cot_builder build"
            )

    def notes(self) -> Iterator[str]:
        """Yield what a person should know who trains on the rows as they are."""
        if self.new:
            yield (
                f"{len(self.new):,} pictures came after the rows were built and are not among them (first: {self.new[0]}); "
                "python -m cot_builder build asks about them"
            )
        if self.gone:
            yield (
                f"{len(self.gone):,} of {self.rows:,} rows have no picture of their name in cot.split any more (first: "
                f"{self.gone[0]}), so a stage refuses them; restore the names, or python -m cot_builder build"
            )
        if not self.known:
            yield (
                "the rows were built before their file named the pictures, so it cannot be checked that these are the same; "
                "python -m cot_builder build writes it again, asking nothing twice"
            )


def compare_pictures(cot: Path, examples: Sequence[Question], cache: Path) -> CotPictures | None:
    """Compare built rows with the pictures there are now; None where there are no rows that can be read.

    Args:
        cot: the folder the builder wrote.
        examples: the rows the builder would be asked about now.
        cache: the folder all runs share.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = cot / "train.parquet"
    try:
        names = pq.read_schema(file).names
        rows = pq.ParquetFile(file).read(columns=["id", *(name for name in (COLUMN,) if name in names)]).to_pydict()
    except (OSError, pa.ArrowException):
        return None
    images = {example.id: example.images for example in examples}
    there = [row_id for row_id in rows["id"] if row_id in images]
    changed: list[str] = []
    if COLUMN in rows:
        every = [image for row_id in there for image in images[row_id]]
        found = image_digests(every, cache / "image_digests.json")
        now = {row_id: joined_digest([found[str(image)] for image in images[row_id]]) for row_id in there}
        pairs = zip(rows["id"], rows[COLUMN], strict=True)
        changed = [row_id for row_id, then in pairs if row_id in now and now[row_id] != then]
    new: list[str] = []
    if (cot / "rejected.jsonl").exists():
        # Without it, as where the rows alone were passed on, nothing tells a new picture from one that was rejected.
        asked = {*rows["id"], *_rejected(cot / "rejected.jsonl")}
        new = [example.id for example in examples if example.id not in asked]
    gone = [row_id for row_id in rows["id"] if row_id not in images]
    return CotPictures(len(rows["id"]), changed, new, COLUMN in rows, gone)


def joined_digest(digests: Sequence[str]) -> str:
    """Return one digest for the pictures of a row, out of theirs in order: its picture's own, or "" of a row without any."""
    return digest(list(digests))[:LENGTH] if len(digests) > 1 else "".join(digests)


def digests_of_rows(cot: Path) -> dict[str, str]:
    """Return {id: digest of its picture} as built rows name them; empty where there are none, or none that say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(cot / "train.parquet", columns=["id", COLUMN]).to_pydict()
    except (OSError, pa.ArrowException):
        return {}
    return dict(zip(rows["id"], rows.get(COLUMN, ()), strict=False))


def _rejected(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from (json.loads(line)["id"] for line in lines)
