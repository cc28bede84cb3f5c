"""Rows that were built about other pictures are refused, and pictures that came later are told."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.cot_pictures import CotPictures, compare_pictures
from pipeline.data.image_digests import image_digests
from pipeline.types import Question, labelled_image


@pytest.fixture
def examples(tmp_path: Path) -> list[Question]:
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"picture %d" % number)
        found.append(labelled_image(str(number), path, "a"))
    return found


def build(folder: Path, rows: list[Question], *, named: bool = True) -> None:
    digests = image_digests([row.images[0] for row in rows], folder / "then.json")
    columns = {"id": [row.id for row in rows]}
    if named:
        columns["image_digest"] = [digests[str(row.images[0])] for row in rows]
    pq.write_table(pa.table(columns), folder / "train.parquet")


def compared(folder: Path, examples: list[Question]) -> CotPictures:
    found = compare_pictures(folder, examples, folder / "cache")
    assert found is not None
    return found


def test_the_same_pictures_are_nothing_to_speak_of(tmp_path: Path, examples: list[Question]) -> None:
    build(tmp_path, examples)
    found = compared(tmp_path, examples)
    assert [*found.problems(), *found.notes()] == []
    # A copy of the data set is the same data set.
    examples[0].images[0].touch()
    assert list(compared(tmp_path, examples).problems()) == []


def test_swapped_replaced_and_deleted_pictures_are_counted_and_the_first_is_named(
    tmp_path: Path, examples: list[Question]
) -> None:
    build(tmp_path, examples)
    a, b = examples[0].images[0].read_bytes(), examples[1].images[0].read_bytes()
    examples[0].images[0].write_bytes(b + b"")
    examples[1].images[0].write_bytes(a)
    examples[2].images[0].unlink()
    found = compared(tmp_path, examples)
    assert (found.rows, list(found.changed)) == (4, ["0", "1", "2"])
    assert "3 of 4 rows are about other pictures (first: 0)" in next(iter(found.problems()))


@pytest.mark.parametrize("left", [[], [0], [1, 2, 3]])
def test_rows_whose_pictures_were_renamed_or_taken_away_are_told(
    tmp_path: Path, examples: list[Question], left: list[int]
) -> None:
    build(tmp_path, examples)
    found = compared(tmp_path, [examples[number] for number in left])
    gone = [str(number) for number in range(4) if number not in left]
    assert (list(found.changed), list(found.gone)) == ([], gone)
    assert f"{len(gone)} of 4 rows have no picture of their name" in "".join(found.notes())
    assert f"(first: {gone[0]})" in "".join(found.notes())


def test_new_pictures_are_told_but_those_whose_replies_were_rejected_are_not_new(
    tmp_path: Path, examples: list[Question]
) -> None:
    build(tmp_path, examples[:2])
    (tmp_path / "rejected.jsonl").write_text(json.dumps({"id": "2", "reason": "no_think"}) + "\n")
    found = compared(tmp_path, examples)
    assert (list(found.changed), list(found.new)) == ([], ["3"])
    assert "1 pictures came after the rows were built" in next(iter(found.notes()))


def test_rows_of_before_cannot_be_checked_and_say_so(tmp_path: Path, examples: list[Question]) -> None:
    build(tmp_path, examples, named=False)
    examples[0].images[0].write_bytes(b"another")
    found = compared(tmp_path, examples)
    assert list(found.problems()) == []
    assert "cannot be checked" in next(iter(found.notes()))


@pytest.mark.parametrize("data", [None, b"", b"rows"])
def test_rows_that_cannot_be_read_are_somebody_elses_to_tell(
    tmp_path: Path, examples: list[Question], data: bytes | None
) -> None:
    if data is not None:
        (tmp_path / "train.parquet").write_bytes(data)
    assert compare_pictures(tmp_path, examples, tmp_path / "cache") is None
