"""All questions of a split, out of the files that people publish them in.

A row becomes a dict whose picture columns hold a `LocatedImage`, or a list of them. What cannot be asked is counted as a problem,
never left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.image_sets import writable
from pipeline.data.images import check_images, paths_inside
from pipeline.data.parquet_images import BATCH_ROWS, missing_shards, open_table
from pipeline.data.questions.cells import MALFORMED, RawRow, Unusable
from pipeline.data.questions.files import TABLES, text_rows
from pipeline.data.questions.pictures import located, place_text, placed, taken_out
from pipeline.errors import UserError
from pipeline.files import digest, write_atomic
from pipeline.system.locks import exclusive
from pipeline.types import Problem, Question, Split

VERSION = 6
"""Part of the index's key: raise it when what is taken out of parquet files changes."""


@dataclass(frozen=True)
class QuestionColumns:
    """What is read of each row.

    Args:
        pictures: columns that hold a picture (struct {bytes, path}, bytes, or a path inside the data); those a file has are read.
        needed: columns every file must have.
        optional: further columns, read where there are any.
        ids: those of both that may hold a row's id, for the problems; ``_key`` is the key of a JSON object's row.
    """

    pictures: tuple[str, ...]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    ids: tuple[str, ...] = ("id", "_key")


def _read_rows(files: Sequence[Path], columns: QuestionColumns, folder: Path, cache: Path) -> Iterator[RawRow]:
    """Every row of `files`, its pictures taken out to `cache` or found below `folder`."""
    for file in files:
        rows = (
            _of_table(file, columns, folder, cache) if file.suffix in TABLES else _of_text(file, columns, folder, cache)
        )
        for row in rows:
            yield {
                name: located(value, folder, cache) if name in columns.pictures and value is not None else value
                for name, value in row.items()
            }


def _of_table(file: Path, columns: QuestionColumns, folder: Path, cache: Path) -> list[RawRow]:
    """The rows, out of the index of an earlier call where the file is unchanged and its pictures are still there."""
    with open_table(file) as table:
        names = table.schema.names
        _require(file, names, columns)
        wanted = [name for name in (*columns.pictures, *columns.needed, *columns.optional) if name in names]
        stamp = file.stat()
        key = digest([VERSION, str(file.resolve()), stamp.st_size, stamp.st_mtime_ns, wanted])
        index = cache / f"rows-{key[:16]}.json"
        with exclusive(index):
            rows = _indexed(index, columns, cache)
            if rows is None:
                rows = []
                for batch in table.batches(BATCH_ROWS, wanted):
                    for row in batch.to_pylist():
                        for name in set(columns.pictures) & set(row):
                            row[name] = placed(row[name], lambda value: taken_out(folder, value, cache / "images"))
                        rows.append(row)
                write_atomic(index, json.dumps(rows, default=str))
                # As a second load gives them.
                rows = json.loads(json.dumps(rows, default=str))
    places, find = _places(file, folder), paths_inside(folder)

    def where(value: dict[str, Any]) -> dict[str, Any]:
        return place_text(folder, value["text"], cache / "images", places, find) if "text" in value else value

    for row in rows:
        for name in set(columns.pictures) & set(row):
            row[name] = placed(row[name], where)
    return rows


def _places(file: Path, folder: Path) -> tuple[str, ...]:
    """The folders below the data's in which the paths of a file's rows are looked for."""
    beside = file.parent.relative_to(folder).as_posix() if file.parent.is_relative_to(folder) else "."
    return tuple(dict.fromkeys((f"{beside}/" if beside != "." else "", "", "images/")))


def _pictures_of(row: RawRow, columns: QuestionColumns) -> Iterator[dict[str, Any]]:
    for name in columns.pictures:
        value = row.get(name)
        yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict))


def _indexed(index: Path, columns: QuestionColumns, cache: Path) -> list[RawRow] | None:
    try:
        rows: list[RawRow] = json.loads(index.read_bytes())
        pictures = [picture for row in rows for picture in _pictures_of(row, columns) if "file" in picture]
        whole = all((cache / "images" / picture["file"]).stat().st_size == picture["size"] for picture in pictures)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if whole else None


def _of_text(file: Path, columns: QuestionColumns, folder: Path, cache: Path) -> Iterator[RawRow]:
    names: dict[str, None] = {}
    places, images, find = _places(file, folder), cache / "images", paths_inside(folder)
    for row in text_rows(file):
        names |= dict.fromkeys(row)
        for name in set(columns.pictures) & set(row):
            row[name] = placed(row[name], lambda value: place_text(folder, value, images, places, find))
        yield row
    # A row may leave out what it has nothing for.
    _require(file, list(names), columns)


def _require(file: Path, names: Sequence[str], columns: QuestionColumns) -> None:
    missing = [name for name in columns.needed if name not in names]
    if missing:
        raise UserError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(names)}")
    if columns.pictures and not set(columns.pictures) & set(names):
        raise UserError(f"{file}: has no picture column {' or '.join(columns.pictures)}; it has {', '.join(names)}")


def read_questions(
    split: str,
    files: Sequence[Path],
    columns: QuestionColumns,
    folder: Path,
    cache: Path,
    build: Callable[[RawRow], Iterable[Question]],
) -> Split:
    """Return the questions of all rows of a split that can be asked, and a problem for each row that cannot.

    Args:
        split: names rows without an id.
        files: the split's files; shards that are missing are a problem.
        columns: what is read of them.
        folder: where the pictures lie that a row gives as a path.
        cache: the task's folder; pictures out of parquet files and verdicts on pictures are kept in it.
        build: one row's questions, none where the row is not of the split; raises `Unusable`, or what a malformed row makes
            plain code raise.

    Raises:
        UserError: when a file cannot be read or lacks a needed column.
    """
    found: list[Question] = []
    folders = sorted({file.parent for file in files})
    problems = [
        lost for folder in folders for lost in missing_shards([file for file in files if file.parent == folder], split)
    ]
    seen: set[str] = set()
    for number, row in enumerate(_read_rows(files, columns, folder, cache)):
        name = next((str(row[column]) for column in columns.ids if row.get(column) is not None), f"{split}-{number}")
        try:
            built = list(build(row))
        except Unusable as error:
            problems.append(Problem(name, error.reason, str(error)))
            continue
        except MALFORMED as error:
            problems.append(Problem(name, "malformed_row", f"{type(error).__name__}: {error}"))
            continue
        for question in built:
            said = " ".join((question.id, question.text, question.gold, *question.options, *map(str, question.images)))
            if writable(said) != said:
                problems.append(
                    Problem(question.id, "malformed_row", "its text is no Unicode: it holds half a character")
                )
            elif question.id in seen:
                problems.append(Problem(question.id, "duplicate_id", "an earlier row has this id; that one is used"))
            else:
                found.append(question)
            seen.add(question.id)
    broken = check_images((image for question in found for image in question.images), cache / "checked_images.json")
    usable = []
    for question in found:
        bad = next((image for image in question.images if image in broken), None)
        if bad is None:
            usable.append(question)
        else:
            problems.append(Problem(question.id, broken[bad], str(bad)))
    told = (Problem(writable(one.id), one.reason, writable(one.detail)) for one in problems)
    return Split(tuple(usable), tuple(told))
