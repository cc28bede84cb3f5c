"""Which column of somebody's rows is the picture, the question, the answer: found by their names, told, and overridable."""

from __future__ import annotations

import functools
import itertools
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.options import TaskOption, a_name, a_name_or_names
from pipeline.data.parquet_images import ADDRESS_CURE, is_address
from pipeline.data.questions.cells import MORE_CELLS, RawRow
from pipeline.data.questions.pictures import pictures_in, text_of
from pipeline.data.questions.text import is_conversation, turn_pictures
from pipeline.errors import UserError, did_you_mean

NAMES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *(
            "decoded_image",
            "images",
            "image",
            "picture",
            "pictures",
            "photo",
            "img",
            "image_path",
            "image_paths",
            "img_path",
            "img_paths",
        ),
        *("image_file", "file_name", "file_names", "filename"),
    ),
    "question": ("question", "problem", "query", "conversations", "messages", "prompt", "instruction"),
    "answer": (
        *("answer", "solution", "label", "ground_truth", "gt_answer", "gold", "correct_answer", "target"),
        *("multiple_choice_answer", "answers", "reward_model", "output", "response", "completion"),
    ),
    "options": ("options", "choices", "candidates"),
    "hint": ("hint",),
    "id": ("id", "question_id", "qid", "uid", "pid", "idx", "index"),
    "kind": ("kind", "answer_type", "question_type", "problem_type"),
    "unit": ("unit",),
    "precision": ("precision",),
    "tolerance": ("tolerance",),
    "ordered": ("ordered",),
    "aliases": ("aliases", "answers"),
}
"""The names a column may have, the likeliest first: beside a ``decoded_image`` an ``image`` is its path elsewhere.
``image_1``, ``image_2``, … are several pictures of a row."""
_MEANINGS = {
    "image": "a column or a list of them: structs {bytes, path}, bytes, base64, data: URIs, or paths inside the data",
    "question": "what is asked: a text with or without <image> marks, or turns of a conversation",
    "answer": "the gold answer; without it that of the conversation",
    "options": "the options of a row, or a list of columns of one each; without it columns A, B, …, else those its text lists",
    "hint": "what stands before the question; found where the options are columns A, B, …",
    "id": "what tells rows apart; without it `<split>-<row>`",
    "kind": "the kind of answer, row by row; without it it is inferred",
    "unit": "the unit of a number",
    "precision": "decimals that a number is compared to",
    "tolerance": "the largest distance of a number that counts as right",
    "ordered": "whether the order of a list counts",
    "aliases": "further answers that are right: a list; of ten or more those that three people gave",
}
COLUMN_OPTIONS: Mapping[str, TaskOption] = {
    f"{role}_column": TaskOption(
        None, f"{_MEANINGS[role]} (found by name)", check=a_name_or_names if role in ("image", "options") else a_name
    )
    for role in NAMES
}
_NUMBERED = tuple(f"image_{number}" for number in range(1, 11))
_NEEDED = ("image", "question", "answer")


@dataclass(frozen=True)
class RowColumns:
    """The columns that rows are read from, by role; a role that no column has is absent. `pictures` may be several."""

    roles: Mapping[str, str]
    pictures: tuple[str, ...]
    groups: tuple[str, ...] = ()
    question: str | None = None
    """The one text that all rows ask, in place of a column."""
    lettered: tuple[str, ...] = ()
    """Columns that hold one option each, in their order."""

    def of(self, role: str, row: RawRow) -> Any:
        """Return what a row has for a role; None without a column or a value."""
        return row.get(self.roles[role]) if role in self.roles else None

    @functools.cached_property
    def read(self) -> tuple[str, ...]:
        """Return every column that holds no picture; `input` is what an instruction is about."""
        more = ("input",) if self.roles.get("question") == "instruction" else ()
        return tuple(dict.fromkeys([*self.roles.values(), *self.lettered, *self.groups, *more]))


def find_columns(
    file: Path,
    rows: Sequence[RawRow],
    options: Mapping[str, Any],
    question: str | None = None,
    groups: Collection[str] = (),
    later: Sequence[RawRow] = (),
) -> RowColumns:
    """Return the columns of a file by the names they have and what its first rows hold.

    Args:
        file: for the messages.
        rows: its first rows.
        options: values of `COLUMN_OPTIONS`, which come before names.
        question: what all rows ask; no column is needed then.
        groups: columns that tables are split by.
        later: what those of its columns hold in which the first rows have nothing. They come behind the others: what most rows
            have is in the first.

    Raises:
        UserError: naming every column that is not there, and every role that is needed and that no name fits.
    """
    names = list(dict.fromkeys(name for row in (*rows, *later) for name in row if name != MORE_CELLS))
    problems: list[str] = []
    roles: dict[str, str] = {}
    pictures: list[str] = []
    lettered: list[str] = []
    for role, known in NAMES.items():
        given = options.get(f"{role}_column")
        asked = given if isinstance(given, list) else [given] if given is not None else []
        for name in asked:
            if name not in names:
                problems.append(
                    f"task.options.{role}_column: {file.name} has no column {name!r}; {did_you_mean(str(name), names)}"
                )
        if role == "image":
            pictures = list(asked) or _picture_columns(names, rows, later)
        elif role == "options" and isinstance(given, list):
            lettered = list(asked)
        elif asked:
            roles[role] = str(asked[0])
        elif found := next(
            (name for some in (rows, later) for name in known if name in names and _fits(role, name, some)), None
        ):
            roles[role] = found
    if "options" not in roles and options.get("options_column") is None:
        lettered = _lettered_columns(names)
    if not lettered and options.get("hint_column") is None:
        roles.pop("hint", None)
    problems += [
        f"task.options.group_columns: {file.name} has no column {name!r}; {did_you_mean(str(name), names)}"
        for name in groups
        if name not in names
    ]
    if question is not None:
        roles.pop("question", None)
    asked_in = [row.get(roles.get("question", "")) for row in (*rows, *later)]
    turns = any(map(is_conversation, asked_in))
    if turns and options.get("answer_column") is None and roles.get("answer") == roles.get("question"):
        del roles["answer"]
    lacking = [
        role
        for role, is_there in (
            ("image", bool(pictures) or bool(turn_pictures(asked_in))),
            ("question", "question" in roles or question is not None),
            ("answer", "answer" in roles or turns),
        )
        if not is_there
    ]
    addresses = [name for name in pictures or NAMES["image"] if _holds_addresses(name, [*rows, *later])]
    if addresses and (pictures or "image" in lacking):
        lacking = [role for role in lacking if role != "image"]
        problems.append(f"{file}: column {addresses[0]} holds addresses of pictures, and {ADDRESS_CURE}")
    for role in lacking:
        problems.append(
            f"{file}: no column is the {role} by its name ({', '.join(NAMES[role])}); it has {', '.join(names)}: "
            f"say which with task.options.{role}_column"
            + (", or ask one text with task.question" if role == "question" else "")
        )
    if problems:
        raise UserError(problems)
    return RowColumns(roles, tuple(pictures), tuple(groups), question, tuple(lettered))


def told_columns(columns: RowColumns) -> str:
    """Return which column was taken for what, in a line."""
    words = [f"pictures <- {', '.join(columns.pictures) or 'the turns'}"]
    words += [f"{role} <- {name}" for role, name in columns.roles.items()]
    if columns.question is not None:
        words.append("question <- task.question")
    if "answer" not in columns.roles:
        words.append("answer <- the turns")
    if columns.lettered:
        words.append(f"options <- {', '.join(columns.lettered)}")
    elif "options" not in columns.roles:
        words.append("options <- the question's text, where it lists some")
    return ", ".join(words)


def _picture_columns(names: Sequence[str], rows: Sequence[RawRow], later: Sequence[RawRow]) -> list[str]:
    numbered = [name for name in _NUMBERED if name in names]
    if len(numbered) > 1 and any(name in row for row in rows for name in numbered):
        return numbered
    known = [name for name in NAMES["image"] if name in names]
    for some in (rows, later):
        if found := next((name for name in known if _has_values(name, some) and _fits("image", name, some)), None):
            return [found]
    # One in which no row has anything is still named after what it would hold.
    return numbered or [name for name in known if not _has_values(name, [*rows, *later])][:1]


def _lettered_columns(names: Sequence[str]) -> list[str]:
    """The columns A, B, … of one option each, as far as they go; none where there is no B."""
    found = list(itertools.takewhile(lambda letter: letter in names, string.ascii_uppercase))
    return found if len(found) > 1 else []


def _holds_addresses(name: str, rows: Sequence[RawRow]) -> bool:
    """Whether all pictures of a column are addresses, as far as the first rows tell."""
    cells = [each for row in rows for each in pictures_in(row.get(name))]
    return bool(cells) and all(is_address(text_of(cell)) for cell in cells)


def _has_values(name: str, rows: Sequence[RawRow]) -> bool:
    return any(row.get(name) is not None for row in rows)


def _fits(role: str, name: str, rows: Sequence[RawRow]) -> bool:
    """Whether a column of that name holds what the role needs, as far as the first rows tell."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    if not values:
        return False
    if role == "image":
        cells = [each for value in values for each in pictures_in(value)]
        return not _holds_addresses(name, rows) and all(
            isinstance(cell, bytes | str) or (isinstance(cell, Mapping) and _is_picture(cell)) for cell in cells
        )
    if role == "question":
        return all(isinstance(value, str) or is_conversation(value) for value in values)
    if role == "answer":
        # What a completion holds are turns too.
        return all(not isinstance(value, bytes) for value in values)
    return True


def _is_picture(cell: Mapping[str, Any]) -> bool:
    return bool({"bytes", "path", "url", "image", "file_name"} & set(cell))
