"""Files of rows: parquet or arrow with the pictures inside, or .jsonl, .json, .csv and .tsv beside a folder of pictures."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.image_sets import data_root
from pipeline.data.parquet_images import BATCH_ROWS, MOST_EMBEDDED, open_table
from pipeline.data.questions.cells import MORE_CELLS, RawRow
from pipeline.errors import UserError

KINDS = ("parquet", "jsonl", "json")
TABLES = (".parquet", ".arrow")
"""Endings of files that hold pictures themselves."""
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Without pictures a row is small.
_TEXT_ROWS = 4096


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
        return list(itertools.islice(text_rows(file), count))
    with open_table(file) as table:
        batch = next(iter(table.batches(count, None)), None)
    if batch is None or not batch.num_rows:
        raise UserError(f"{file}: holds no rows")
    rows: list[RawRow] = batch.slice(0, count).to_pylist()
    return rows


def later_columns(file: Path, rows: Sequence[RawRow]) -> list[RawRow]:
    """Return what columns hold in which the first rows have nothing, each by the first row that has something.

    Args:
        file: whose they are.
        rows: its `first_rows`.

    Raises:
        UserError: when it cannot be read.
    """
    known = {name for row in rows for name, value in row.items() if value is not None}
    if file.suffix in _DELIMITERS:
        # All rows have the columns of its head.
        return []
    if file.suffix in TABLES:
        with open_table(file) as table:
            empty = [name for name in table.schema.names if name not in known]
        found = ({name: value} for name in empty if (value := _first_value(file, name)) is not None)
        return list(found)
    later: list[RawRow] = []
    for row in text_rows(file):
        if new := {name: value for name, value in row.items() if value is not None and name not in known}:
            later.append(new)
            known |= new.keys()
    return later


def _first_value(file: Path, name: str) -> Any:
    with open_table(file) as table:
        rows = BATCH_ROWS if "binary" in str(table.schema.field(name).type) else _TEXT_ROWS
        for batch in table.batches(rows, [name]):
            column = batch.column(0)
            if column.null_count < len(column):
                return column.drop_null()[0].as_py()
    return None


def unlocated_rows(files: Iterable[Path], names: Sequence[str]) -> Iterator[RawRow]:
    """Yield every row of files with the columns `names`, none of which holds pictures; nothing is written.

    Raises:
        UserError: when a file cannot be read.
    """
    for file in files:
        if file.suffix not in TABLES:
            yield from text_rows(file)
            continue
        with open_table(file) as table:
            for batch in table.batches(_TEXT_ROWS, [name for name in names if name in table.schema.names]):
                yield from batch.to_pylist()


def text_rows(file: Path) -> Iterator[RawRow]:
    """Yield the rows of a .jsonl, .csv or .tsv file one by one, of a JSON list, of a JSON object {id: row}, whose rows get their
    id as ``_key``, or of one that holds a list of rows beside other things.

    Raises:
        UserError: when it cannot be read or has none.
    """
    some = False
    try:
        for row in _parsed(file):
            some = True
            if not isinstance(row, dict):
                raise UserError(f"{file}: holds rows that are no JSON objects")
            yield row
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{file}: not readable as {file.suffix[1:]} rows: {error}") from error
    if not some:
        raise UserError(f"{file}: holds no rows")


def _parsed(file: Path) -> Iterator[Any]:
    # Line ends within a cell of a .csv file are the cell's.
    with file.open(encoding="utf-8-sig", newline="" if file.suffix in _DELIMITERS else None) as lines:
        if file.suffix == ".jsonl":
            yield from (json.loads(line) for line in lines if line.strip())
        elif file.suffix in _DELIMITERS:
            # A cell may be a picture.
            csv.field_size_limit(MOST_EMBEDDED // 3 * 4)
            yield from _cells(lines, _DELIMITERS[file.suffix])
        else:
            whole = json.load(lines)
            lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
            if len(lists) == 1:
                whole = lists[0]
            yield from ({"_key": key, **row} for key, row in whole.items()) if isinstance(whole, dict) else whole


def _cells(lines: Iterable[str], delimiter: str) -> Iterator[dict[str, Any]]:
    """The rows of a table as text; a ValueError where two columns have one name, or a quote swallows the rest of the file."""
    taken: list[str] = []
    last: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.DictReader(noted(), restkey=MORE_CELLS, delimiter=delimiter)
    names = Counter(reader.fieldnames or ())
    if twice := [name for name, count in names.items() if name and count > 1]:
        raise ValueError(
            f"several columns are called {', '.join(twice)}, of which one alone would be read; rename them"
        )
    for row in reader:
        last = taken[:]
        taken.clear()
        yield row
    try:
        list(csv.reader(last, delimiter=delimiter, strict=True))
    except csv.Error as error:
        # Other things that a strict reader minds are read as they are meant.
        if "unexpected end" in str(error):
            raise ValueError(f"a quote that is never closed opens in the row {last[0].strip()[:80]!r}") from error
