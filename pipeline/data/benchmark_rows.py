"""Rows of questions as people publish them: parquet or arrow files with the pictures inside, or JSON beside a folder of pictures.

A row becomes a dict whose picture columns hold a `LocatedImage`, or a list of them. What cannot be asked is counted as a problem,
never left out in silence.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.image_sets import data_root
from pipeline.data.images import check_images, inside
from pipeline.data.parquet_images import BATCH_ROWS, missing_shards, open_table, place
from pipeline.errors import UserError
from pipeline.files import digest, write_atomic
from pipeline.scoring.multiple_choice import letters
from pipeline.system.locks import exclusive
from pipeline.types import Problem, Question, Split

VERSION = 3
"""Part of the index's key: raise it when what is taken out of parquet files changes."""
KINDS = ("parquet", "jsonl", "json")
TABLES = (".parquet", ".arrow")
"""Endings of files that hold pictures themselves."""
# Without pictures a row is small.
_TEXT_ROWS = 4096
RawRow = dict[str, Any]


class Unusable(ValueError):
    """A row that cannot be asked; `reason` is a short snake_case word that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(detail)


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


@dataclass(frozen=True)
class LocatedImage:
    """Where a row's picture is, or why there is none."""

    path: Path | None
    reason: str = ""
    detail: str = ""


def data_files(root: Path, names: Iterable[str]) -> list[Path]:
    """Return the files of one split: of the first of `KINDS` there is, in `root` or its ``data/``.

    Args:
        root: the data's folder.
        names: how a file may be called, whole or before a "-": ``test`` finds ``test-00000-of-00001.parquet``.
    """
    wanted = tuple(names)
    for kind in KINDS:
        files = sorted([*root.glob(f"*.{kind}"), *root.glob(f"data/*.{kind}")])
        found = [
            file for file in files if any(file.stem == name or file.stem.startswith(f"{name}-") for name in wanted)
        ]
        if found:
            return found
    return []


def find_splits(
    config: TaskConfig,
    what: str,
    splits: Iterable[str],
    find: Callable[[Path, str], list[Path]] = lambda root, split: data_files(root, (split,)),
) -> tuple[Path, dict[str, list[Path]]]:
    """Return the folder of a benchmark's data, and the files of each split that has some.

    Args:
        config: the run's ``task:`` block.
        what: what belongs at ``task.path`` and where to get it, for the message.
        splits: the benchmark's splits, and ``train`` where rows of the same columns may be brought.
        find: (``task.path``, split) -> the split's files.

    Raises:
        UserError: when the path is not set, does not exist or holds no split.
    """
    root = data_root(config, what)
    files = {split: found for split in splits if (found := find(root, split))}
    if not files:
        hint = fetch_hint(config.name, config.path)
        raise UserError(
            f"task.path: {config.path!r} holds none of the files; the {config.name} task needs {what}{hint}"
        )
    return root if root.is_dir() else root.parent, files


def first_rows(file: Path, count: int = 8) -> list[RawRow]:
    """Return the first rows of a file as they stand there, to see what its columns hold.

    Raises:
        UserError: when it cannot be read or has none.
    """
    if file.suffix not in TABLES:
        return [dict(row) for row in _json_rows(file)[:count]]
    with open_table(file) as table:
        batch = next(iter(table.batches(count, None)), None)
    if batch is None or not batch.num_rows:
        raise UserError(f"{file}: holds no rows")
    rows: list[RawRow] = batch.slice(0, count).to_pylist()
    return rows


def unlocated_rows(files: Iterable[Path], names: Sequence[str]) -> Iterator[RawRow]:
    """Yield every row of files with the columns `names`, none of which holds pictures; nothing is written.

    Raises:
        UserError: when a file cannot be read.
    """
    for file in files:
        if file.suffix not in TABLES:
            yield from _json_rows(file)
            continue
        with open_table(file) as table:
            for batch in table.batches(_TEXT_ROWS, [name for name in names if name in table.schema.names]):
                yield from batch.to_pylist()


def _read_rows(files: Sequence[Path], columns: QuestionColumns, folder: Path, cache: Path) -> Iterator[RawRow]:
    """Every row of `files`, its pictures taken out to `cache` or found below `folder`."""
    for file in files:
        rows = _of_table(file, columns, folder, cache) if file.suffix in TABLES else _of_json(file, columns, folder)
        for row in rows:
            yield {
                name: _picture(value, folder, cache) if name in columns.pictures and value is not None else value
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
                (cache / "images").mkdir(parents=True, exist_ok=True)
                rows = []
                for batch in table.batches(BATCH_ROWS, wanted):
                    for row in batch.to_pylist():
                        for name in set(columns.pictures) & set(row):
                            row[name] = _placed(row[name], lambda value: place(folder, value, cache / "images"))
                        rows.append(row)
                write_atomic(index, json.dumps(rows, default=str))
                # As a second load gives them.
                rows = json.loads(json.dumps(rows, default=str))
    return rows or []


def _placed(value: Any, find: Callable[[Any], dict[str, Any]]) -> Any:
    """Where a cell's picture is, or each picture of a list; None of an empty cell."""
    if isinstance(value, list):
        return [find(each) for each in value]
    return None if value is None else find(value)


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


def _json_rows(file: Path) -> list[RawRow]:
    """Rows of a .jsonl or .csv file, of a JSON list, of a JSON object {id: row}, whose rows get their id as ``_key``, or of one
    that holds a list of rows beside other things.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif file.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            whole = json.loads(text)
            lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
            if len(lists) == 1:
                whole = lists[0]
            rows = [{"_key": key, **row} for key, row in whole.items()] if isinstance(whole, dict) else list(whole)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{file}: not readable as {file.suffix[1:]} rows: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: holds {'no rows' if not rows else 'rows that are no JSON objects'}")
    return rows


def _of_json(file: Path, columns: QuestionColumns, folder: Path) -> Iterator[RawRow]:
    rows = _json_rows(file)
    # A row may leave out what it has nothing for.
    _require(file, list(dict.fromkeys(name for row in rows for name in row)), columns)
    beside = file.parent.relative_to(folder).as_posix() if file.parent.is_relative_to(folder) else "."
    places = dict.fromkeys((f"{beside}/" if beside != "." else "", "", "images/"))
    for row in rows:
        for name in set(columns.pictures) & set(row):
            row[name] = _placed(row[name], lambda value: place_path(folder, value, tuple(places)))
        yield row


def place_path(folder: Path, value: Any, places: Sequence[str] = ("", "images/")) -> dict[str, Any]:
    """Return where a picture is that data give as a path, alone or as {"path": …}: below `folder`, or why there is none."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("path", "image", "url", "file_name") if value.get(key)), None)
    if not isinstance(value, str):
        return _NOT_A_PATH
    if value.startswith(("http:", "https:", "data:")):
        return {**_NOT_A_PATH, "detail": f"{value[:60]} is no path of a file; pictures are read of files"}
    return place(folder, _located(folder, value.removeprefix("file://"), places), folder)


_NOT_A_PATH = {"reason": "missing_image", "detail": "the picture is not given as a path"}


def _located(folder: Path, path: str, places: Sequence[str]) -> str:
    """The longest end of `path` that exists below `folder`, in one of `places`; `path` itself when none does.

    Data files name pictures relative to the machine they were made on: ``./dataset/CV-Bench/img/2D/count/x.png``.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in (".", "/", "")]
    if ".." in parts:
        return path
    for start in range(len(parts)):
        for below in places:
            end = below + "/".join(parts[start:])
            if inside(folder, end) is not None and (folder / end).is_file():
                return end
    return path


def _picture(value: Any, folder: Path, cache: Path) -> LocatedImage | list[LocatedImage]:
    if isinstance(value, list) and len(value) != 1:
        return [_located_image(each, folder, cache) for each in value]
    return _located_image(value[0] if isinstance(value, list) else value, folder, cache)


def _located_image(value: Any, folder: Path, cache: Path) -> LocatedImage:
    if not isinstance(value, dict):
        return LocatedImage(None, "missing_image", "neither bytes nor a path")
    if "file" in value:
        return LocatedImage(cache / "images" / value["file"])
    if "path" in value:
        return LocatedImage(folder / value["path"])
    return LocatedImage(None, value["reason"], value["detail"])


def _require(file: Path, names: Sequence[str], columns: QuestionColumns) -> None:
    missing = [name for name in columns.needed if name not in names]
    if missing:
        raise UserError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(names)}")
    if columns.pictures and not set(columns.pictures) & set(names):
        raise UserError(f"{file}: has no picture column {' or '.join(columns.pictures)}; it has {', '.join(names)}")


def pictures(row: RawRow, *names: str) -> tuple[Path, ...]:
    """Return the paths of all pictures a row has in the columns `names`, in order.

    Raises:
        Unusable: when one of them is not there, with its reason.
    """
    found: list[LocatedImage] = []
    for name in names:
        value = row.get(name)
        found += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, LocatedImage)]
    for each in found:
        if each.path is None:
            raise Unusable(each.reason, each.detail)
    return tuple(each.path for each in found if each.path is not None)


def picture(row: RawRow, *names: str) -> Path:
    """Return the path of the first picture a row has among `names`.

    Raises:
        Unusable: when it has none, with the reason of the last.
    """
    problem = Unusable("missing_image", f"no picture in {', '.join(names)}")
    for name in names:
        try:
            found = pictures(row, name)
        except Unusable as error:
            problem = error
            continue
        if len(found) > 1:
            problem = Unusable("missing_image", f"{name} holds {len(found)} pictures, where one is expected")
        elif found:
            return found[0]
    raise problem


def listed(value: Any) -> list[Any]:
    """Return a list given as a list, as its Python text ("['a', 'b']") or as nothing.

    Raises:
        Unusable: when it is none of these.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise Unusable("malformed_row", f"{value[:80]!r} is not a list") from error
    if not isinstance(value, list | tuple):
        raise Unusable("malformed_row", f"{str(value)[:80]!r} is not a list")
    return list(value)


def gold_letter(value: Any, options: Sequence[str]) -> str | None:
    """Return the letter of the gold answer, out of "B", "(B)" or "b."; None where it is not published ("", "?", "-").

    Raises:
        Unusable: when it is no letter of the options, or there are no options or too many.
    """
    if not 2 <= len(options) <= 26:
        raise Unusable("unusable_options", f"{len(options)} options")
    text = str(value if value is not None else "").strip().strip("().").upper()
    if text in ("", "?", "-", "NONE"):
        return None
    if len(text) != 1 or text not in letters(len(options)):
        raise Unusable(
            "answer_not_an_option", f"the answer is {str(value)[:40]!r}, the options are {letters(len(options))}"
        )
    return text


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
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            problems.append(Problem(name, "malformed_row", f"{type(error).__name__}: {error}"))
            continue
        for question in built:
            if question.id in seen:
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
    return Split(tuple(usable), tuple(problems))
