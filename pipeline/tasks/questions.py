"""questions: rows of pictures, a question and its answer, as trainers and benchmarks publish them.

Columns are found by their names, and `plan` tells what was taken for what. `path` is a parquet, .jsonl, .json, .csv, .tsv or
.arrow file, or a folder of them: there, in its ``data/``, or one folder per split, as `datasets` saves to disk or as metadata
beside pictures. A file or folder named after a split is that split; where none is, all rows are one split, ``train``. Pictures
are bytes in the file, base64 or ``data:`` URIs, or paths that are looked for below `path` and nowhere else; none is fetched.

Each row asks for a kind of answer of its own (pipeline/scoring/kinds.py). Options come from their column or from the question's
text. A ``task.labels`` list closes the answers of rows without options. Sentences at the end of a question that say how to
answer are left out, since the prompt style says it; `plan` counts them.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import TaskOption, check_options, names, share_below
from pipeline.data.parquet_images import is_embedded
from pipeline.data.questions.answer_codes import CODES
from pipeline.data.questions.cells import MALFORMED, RawRow, Unusable
from pipeline.data.questions.columns import COLUMN_OPTIONS, RowColumns, find_columns, told_columns
from pipeline.data.questions.files import TABLES, find_splits, first_rows, later_columns, unlocated_rows
from pipeline.data.questions.pictures import located, named, picture, pictures, pictures_in, place_text, text_of
from pipeline.data.questions.prompting import asked_by_kind
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.questions.rows import RowReader
from pipeline.data.questions.text import turn_pictures
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.formatting import join_counts
from pipeline.scoring.benchmark_judges import accuracy
from pipeline.scoring.kinds import KINDS, OPEN_KINDS, chance, judge_kind
from pipeline.types import Question, Split

SPLITS = ("train", "validation", "val", "dev", "test")
FORMATS = ("parquet", "arrow", "jsonl", "json", "csv", "tsv")
OPTIONS = {
    **COLUMN_OPTIONS,
    "group_columns": TaskOption([], "columns that tables are split by", check=names),
    "kind": TaskOption(None, "one kind for all rows without options: number, yes_no, text or list", OPEN_KINDS),
    "turns": TaskOption(
        "first", "of several turns in a row, ask the first or each (without the turns before it)", ("first", "each")
    ),
    "relative_tolerance": TaskOption(
        None, "share of the gold number that an answer may be off, such as 0.05", check=share_below(1)
    ),
}
_WHAT = (
    "rows of pictures, questions and answers: .parquet, .jsonl, .json, .csv, .tsv or .arrow files, or a folder of them"
)
_NO_ROWS = frozenset(("dataset_info", "dataset_infos", "dataset_dict", "state", "config", "package"))
_SHOWN_ROWS = 2


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the splits and what their columns are; rows and pictures are read when a split is.

    Raises:
        UserError: when there are no rows, or a needed column is none of the names known.
    """
    options = check_options(config, OPTIONS)
    folder, files = find_splits(config, _WHAT, ("all",), lambda root, _: _all_files(root))
    splits = split_files(folder, files["all"])
    unread = [file for file in files["all"] if not any(file in found for found in splits.values())]
    columns = {}
    problems: list[str] = []
    starts = {split: first_rows(found[0]) for split, found in splits.items()}
    for split, found in splits.items():
        try:
            later = later_columns(found[0], starts[split])
            columns[split] = find_columns(
                found[0], starts[split], options, config.question, options["group_columns"], later
            )
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    rows = {
        split: RowReader(
            split,
            folder,
            columns[split],
            config,
            options,
            functools.partial(unlocated_rows, splits[split], columns[split].read),
        )
        for split in splits
    }

    def in_turn(value: Any) -> Path:
        found = located(place_text(folder, value, cache / "images"), folder, cache)
        return picture({"turn": found}, "turn")

    def read(split: str) -> Split:
        reader = rows[split]
        numbers = itertools.count()
        seen: set[str] = set()

        def build(row: RawRow) -> Iterator[Question]:
            name = reader.name(row, next(numbers), seen)
            yield from reader.questions(row, name, pictures(row, *reader.columns.pictures), in_turn)

        wanted = QuestionColumns(reader.columns.pictures, (), reader.columns.read, reader.ids)
        found = read_questions(split, splits[split], wanted, folder, cache, build)
        return Split(found.rows, (*found.problems, *reader.later_turns))

    @functools.cache
    def counts(split: str) -> tuple[Counter[str], Counter[str]]:
        return count_kinds(rows[split], splits[split])

    return Task(
        "questions",
        tuple(splits),
        read,
        asked_by_kind,
        judge_kind,
        chance,
        official,
        told=lambda: told(splits, rows, counts, unread),
        listed=lambda split: counts(split)[0],
        in_place=not any(
            file.suffix in TABLES or _holds_pictures(starts[split], columns[split])
            for split, found in splits.items()
            for file in found
        ),
    )


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return micro accuracy."""
    micro = accuracy(rows)
    return {} if micro is None else {"accuracy": micro}


def split_files(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, by the names of files and of their folders; all are ``train`` where none is named."""
    found: dict[str, list[Path]] = {}
    for file in files:
        names = [*reversed(file.relative_to(folder).parent.parts), file.stem]
        split = next((split for name in reversed(names) if (split := _split_of(name))), None)
        if split:
            found.setdefault(split, []).append(file)
    return {split: found[split] for split in SPLITS if split in found} or {"train": list(files)}


def _split_of(name: str) -> str | None:
    """The split that a name begins or ends with: train-00000-of-00002, vqa_val."""
    words = name.lower().replace(".", "-").replace("_", "-").split("-")
    return next((split for split in SPLITS if split in (words[0], words[-1])), None)


def _all_files(root: Path) -> list[Path]:
    """The files with rows of the first of `FORMATS` there is: in `root`, in its ``data/`` and in folders of splits."""
    if root.is_file():
        return [root]
    for kind in FORMATS:
        found = [*root.glob(f"*.{kind}"), *root.glob(f"*/*.{kind}")]
        rows = [
            file
            for file in found
            if file.stem not in _NO_ROWS and (file.parent == root or _holds_rows(file.parent.name))
        ]
        if rows:
            return sorted(rows)
    return []


def _holds_rows(folder: str) -> bool:
    return folder == "data" or folder in SPLITS


def _holds_pictures(rows: Sequence[RawRow], columns: RowColumns) -> bool:
    """Whether rows hold pictures as text."""
    each = [one for row in rows for name in columns.pictures for one in pictures_in(row.get(name))]
    each += turn_pictures(columns.of("question", row) for row in rows)
    return any(is_embedded(text_of(one)) for one in each)


def told(
    splits: Mapping[str, Sequence[Path]],
    rows: Mapping[str, RowReader],
    counts: Callable[[str], tuple[Counter[str], Counter[str]]],
    unread: Sequence[Path] = (),
) -> Iterator[str]:
    """Yield what was found out about the data: columns, rows per kind and the first rows as they are asked. Opens no picture."""
    if list(splits) == ["train"] and _split_of(splits["train"][0].stem) is None:
        yield f"no file is named after a split ({', '.join(SPLITS)}), so all rows are train; slice it: train[:80%], train[80%:]"
    if unread:
        yield f"not read, since their names are of no split: {', '.join(file.name for file in unread)}"
    known: set[str] = set()
    for split, reader in rows.items():
        line = told_columns(reader.columns)
        if line not in known:
            yield f"{split}: {line}"
        known.add(line)
        kinds, lost = counts(split)
        of_kinds = ", ".join(f"{kinds[kind]:,} {_PLURAL[kind]}" for kind in KINDS if kinds[kind])
        yield f"{split}: {of_kinds or 'nothing to ask'}" + (f"; not asked: {join_counts(lost)}" if lost else "")
        if reader.code:
            yield f"{split}: answers that could mean several options are read as {CODES[reader.code]}, as nearly all can be"
        if reader.later_turns:
            later = f"{len(reader.later_turns):,} rows have later turns"
            yield f"{split}: {later}, which are not asked; task.options.turns=each asks each alone"
        for text, count in reader.removed.most_common(3):
            yield f"{split}: left out of {count:,} questions, since the prompt style says how to answer: {text[:100]!r}"
    first = next(iter(splits))
    yield from _first_rows(rows[first], splits[first])


def count_kinds(reader: RowReader, files: Sequence[Path]) -> tuple[Counter[str], Counter[str]]:
    """Return how many rows ask for each kind of answer, and how many cannot be asked for each reason, pictures aside."""
    kinds: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    seen: set[str] = set()
    for number, row in enumerate(unlocated_rows(files, reader.columns.read)):
        try:
            for question in reader.questions(row, reader.name(row, number, seen), None, _by_name):
                kinds[question.kind] += 1
        except Unusable as error:
            lost[error.reason] += 1
        except MALFORMED:
            lost["malformed_row"] += 1
    return kinds, lost


_PLURAL = {
    "label": "labels",
    "letter": "letters",
    "number": "numbers",
    "yes_no": "of yes and no",
    "text": "short texts",
    "list": "lists",
}


def _first_rows(reader: RowReader, files: Sequence[Path]) -> Iterator[str]:
    shown = 0
    for number, row in enumerate(first_rows(files[0])):
        try:
            built = list(
                reader.questions(row, reader.name(row, number, set()), _named_pictures(row, reader.columns), _by_name)
            )
        except MALFORMED:
            continue
        for question in built[: _SHOWN_ROWS - shown]:
            shown += 1
            seen = ", ".join(image.as_posix() for image in question.images)
            options = f", of {len(question.options)} options" if question.options else ""
            yield f"{question.id} ({question.kind}{options}; gold {question.answer}; {seen}):"
            yield from (f"    {line}" for line in asked_by_kind(question, "think").splitlines())
        if shown >= _SHOWN_ROWS:
            return


def _named_pictures(row: RawRow, columns: RowColumns) -> tuple[Path, ...]:
    """The pictures of a raw row by their names, without opening one."""
    return tuple(_by_name(one) for name in columns.pictures for one in pictures_in(row.get(name)))


def _by_name(value: Any) -> Path:
    return Path(named(value))
