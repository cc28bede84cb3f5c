"""parquet: a labelled image set in parquet files, as `datasets` writes them.

`path` is a folder with ``<split>.parquet`` or ``<split>-*.parquet`` (there or in its ``data/``), or one such file. The
image column holds structs {bytes, path}, plain bytes, or paths inside the folder. The label column holds strings, or
integers named by the ClassLabel feature in the file's metadata (or, without one, by ``task.labels`` in index order).

The bytes are taken out once, a few rows at a time, to ``<cache>/images/<split>/``; files are named by the hash of their
content, so no id can choose a path, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config.schema import TaskConfig
from pipeline.data.image_sets import data_root, kept_spellings, label_set, merge_spellings, usable
from pipeline.data.options import TaskOption, check_options
from pipeline.data.parquet_images import BATCH_ROWS, missing_shards, open_parquet, place
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.files import digest, write_atomic
from pipeline.system.locks import exclusive
from pipeline.types import Problem, Question, Split, labelled_image

VERSION = 3
"""Part of the index's key: raise it when what is extracted changes."""
QUESTION = "What does this image show?"
OPTIONS = {
    "image_column": TaskOption("image", "structs {bytes, path}, plain bytes, or paths inside the folder"),
    "label_column": TaskOption("label", "text, or the integers of a ClassLabel"),
    "id_column": TaskOption(
        None, "what tells rows apart; without it `id` where the files have it, else `<split>-<row>`"
    ),
    "attribute_columns": TaskOption([], "columns that become the row's attributes: hints, offline teachers, rewards"),
}
_WHAT = "a folder with <split>.parquet or <split>-*.parquet (there or in data/), or one parquet file"


@dataclass(frozen=True)
class ImageColumns:
    """The columns read; `id` None counts rows."""

    image: str
    label: str
    id: str | None
    attributes: tuple[str, ...]

    def names(self) -> list[str]:
        """Return every column once."""
        return list(dict.fromkeys([self.image, self.label, *([self.id] if self.id else []), *self.attributes]))


def load(config: TaskConfig, cache: Path, index_names: Sequence[str] | None = None) -> Task:
    """Find splits and labels; a split's images are taken out when it is first selected.

    Args:
        config: the run's ``task:`` block.
        cache: the folder the images go to.
        index_names: what integers mean in files without ClassLabel names; None for ``task.labels``.

    Raises:
        UserError: when there are no parquet files, a column is missing, or the labels have no names.
    """
    root = data_root(config, _WHAT)
    options = check_options(config, OPTIONS)
    files = split_files(root)
    if not files:
        raise UserError(f"task.path: {config.path!r} holds no parquet files; it must be {_WHAT}")
    columns = _columns(options, [(file, _schema(file)) for found in files.values() for file in found])
    every = [file for found in files.values() for file in found]
    found, merged = (config.labels, dict[str, str]()) if config.labels else _label_names(every, columns.label)
    labels = label_set(config, found)
    folder = root if root.is_dir() else root.parent
    names = list(index_names or config.labels or ()) or None

    def read(split: str) -> Split:
        rows, problems = _rows(folder, files[split], split, columns, names, cache)
        problems += kept_spellings(rows, merged)
        return usable(rows, labels, problems, cache)

    def listed(split: str) -> Counter[str]:
        found = Counter[str]()
        for file in files[split]:
            with open_parquet(file) as parquet:
                class_names = _class_names(parquet.schema_arrow, columns.label) or names
                for batch in parquet.iter_batches(columns=[columns.label]):
                    counts = batch.column(0).value_counts().to_pylist()
                    for label, count in ((_label(one["values"], class_names), one["counts"]) for one in counts):
                        if label is not None:
                            found[label] += count
        return found

    return labelled_task("parquet", labels, config.question or QUESTION, tuple(files), read, listed=listed)


def split_files(root: Path) -> dict[str, list[Path]]:
    """Return the parquet files of each split, train, validation and test first; empty when there are none."""
    found = [root] if root.is_file() else sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    splits: dict[str, list[Path]] = {}
    for file in found:
        name = file.name.removesuffix(".parquet").partition("-")[0]
        if file.is_file() and re.fullmatch(r"\w[\w.]*", name):
            splits.setdefault(name, []).append(file)
    first = ("train", "val", "validation", "test")
    return {name: splits[name] for name in sorted(splits, key=lambda n: (first.index(n) if n in first else 9, n))}


def _columns(options: dict[str, Any], schemas: list[tuple[Path, pa.Schema]]) -> ImageColumns:
    """The columns the options name, once every file is known to have them."""
    attributes = options["attribute_columns"]
    if not isinstance(attributes, list | tuple):
        raise UserError(f"task.options.attribute_columns: {attributes!r} is not a list of columns")
    id_column = options["id_column"] or ("id" if all("id" in schema.names for _, schema in schemas) else None)
    columns = ImageColumns(options["image_column"], options["label_column"], id_column, tuple(attributes))
    problems = []
    for file, schema in schemas:
        missing = [name for name in columns.names() if name not in schema.names]
        if missing:
            has = ", ".join(schema.names)
            problems.append(f"{file}: has no column {', '.join(missing)}; it has {has}. Set task.options.*_column")
            continue
        kind, label = schema.field(columns.image).type, schema.field(columns.label).type
        if not (_is_bytes(kind) or _is_text(kind) or (pa.types.is_struct(kind) and _fields(kind) & {"bytes", "path"})):
            problems.append(f"{file}: column {columns.image} holds {kind}, not {{bytes, path}}, bytes or paths")
        if not (_is_text(label) or pa.types.is_integer(label)):
            problems.append(f"{file}: column {columns.label} holds {label}, not text or integers")
    if problems:
        raise UserError(problems)
    return columns


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _fields(kind: pa.StructType) -> set[str]:
    return {kind.field(number).name for number in range(kind.num_fields)}


def _schema(file: Path) -> pa.Schema:
    with open_parquet(file) as parquet:
        return parquet.schema_arrow


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of a ClassLabel feature, from the metadata `datasets` writes beside the schema."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return list(feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def _label_names(files: list[Path], column: str) -> tuple[list[str], dict[str, str]]:
    """ClassLabel's names in their order, else the distinct strings of every split, sorted; and other spellings of them."""
    found = Counter[str]()
    for file in files:
        schema = _schema(file)
        names = _class_names(schema, column)
        if names is not None:
            return names, {}
        if pa.types.is_integer(schema.field(column).type):
            raise UserError(
                f"{file}: column {column} holds integers without names; set task.labels to the names in index order"
            )
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(columns=[column]):
                found.update(value for value in batch.column(0).to_pylist() if value is not None)
    return merge_spellings(found)


def _rows(
    folder: Path, files: list[Path], split: str, columns: ImageColumns, names: list[str] | None, cache: Path
) -> tuple[list[Question], list[Problem]]:
    """The rows of a split, out of the index of an earlier call where its files are unchanged."""
    stamps = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = digest([VERSION, stamps, dataclasses.asdict(columns), names])
    images = cache / "images" / split
    index = images / "index.json"
    with exclusive(index):
        listed = _read_index(index, key)
        if listed is None:
            listed = list(_extract(folder, files, split, columns, names, images))
            write_atomic(index, json.dumps({"key": key, "rows": listed}))
    rows = [
        labelled_image(
            row["id"], images / row["file"] if "file" in row else folder / row["path"], row["label"], row["attributes"]
        )
        for row in listed
        if "label" in row
    ]
    problems = [Problem(row["id"], row["reason"], row["detail"]) for row in listed if "reason" in row]
    return rows, [*missing_shards(files, split), *problems]


def _read_index(index: Path, key: str) -> list[dict[str, Any]] | None:
    """The rows of an index made from the same files and columns whose images are all still there; else None."""
    try:
        stored = json.loads(index.read_bytes())
        rows: list[dict[str, Any]] = stored["rows"] if stored["key"] == key else []
        # Images are not synced to disk one by one (that takes minutes), so a power cut can leave some of them empty.
        whole = all((index.parent / row["file"]).stat().st_size == row["size"] for row in rows if "file" in row)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows if rows and whole else None


def _extract(
    folder: Path, files: list[Path], split: str, columns: ImageColumns, names: list[str] | None, images: Path
) -> Iterator[dict[str, Any]]:
    """Write each row's image and give its index entry: id and label with file or path, or id with reason and detail."""
    images.mkdir(parents=True, exist_ok=True)
    number = 0
    for file in files:
        with open_parquet(file) as parquet:
            class_names = _class_names(parquet.schema_arrow, columns.label) or names
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns.names()):
                for row in batch.to_pylist():
                    row_id = row[columns.id] if columns.id else None
                    row_id = f"{split}-{number}" if row_id is None else str(row_id)
                    number += 1
                    label = _label(row[columns.label], class_names)
                    if label is None:
                        detail = f"{file.name}: column {columns.label} holds {row[columns.label]!r}"
                        yield {"id": row_id, "reason": "missing_label", "detail": detail}
                        continue
                    where = place(folder, row[columns.image], images)
                    if "reason" not in where:
                        where |= {"label": label, "attributes": _attributes(row, columns.attributes)}
                    yield {"id": row_id, **where}


def _label(value: str | int | None, names: list[str] | None) -> str | None:
    # ClassLabel writes -1 for "no label".
    if isinstance(value, int):
        return names[value] if names is not None and 0 <= value < len(names) else None
    return value


def _attributes(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The row's attributes as JSON keeps them (a date becomes its text), so that a second load gives the same."""
    kept: dict[str, Any] = json.loads(
        json.dumps({name: row[name] for name in names if row[name] is not None}, default=str)
    )
    return kept
