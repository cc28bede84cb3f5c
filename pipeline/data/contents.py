"""What to observe, told by a file in place of a model: contents for each row or question, such as those that Extract+Think
publishes for MMStar (markendo/downscaling_intelligence).

A JSON file maps a row's id, or the text of a question, to what to look for; a JSON-lines file has ``{"id": …, "text": …}`` or
``{"question": …, "text": …}`` on each line. A row's id goes before its question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.special_tokens import special_token_in
from pipeline.errors import UserError
from pipeline.files import file_digest

_MOST = 5
"""Problems of a file that are told one by one."""


@dataclass(frozen=True)
class Contents:
    """What to observe, by id of a row or by text of a question.

    Args:
        texts: as the file holds them, in one line each.
        digest: sha256 of the file.
    """

    texts: Mapping[str, str]
    digest: str

    def find(self, row_id: str, question: str) -> str | None:
        """Return what to observe for a row; None where the file does not say."""
        return self.texts.get(row_id) or self.texts.get(_one_line(question))

    def count(self, rows: Iterable[tuple[str, str]]) -> ContentsCount:
        """Return how many rows, given as (id, question), the file covers, and how many of its entries none of them needs."""
        asked, missing, used = 0, list[str](), set[str]()
        for row_id, question in rows:
            asked += 1
            key = row_id if row_id in self.texts else _one_line(question)
            if key in self.texts:
                used.add(key)
            else:
                missing.append(row_id)
        return ContentsCount(asked, tuple(missing), len(self.texts), len(self.texts) - len(used))


@dataclass(frozen=True)
class ContentsCount:
    """How a file of contents and the rows of a split fit: rows asked, ids without contents, entries, and entries of no use."""

    rows: int
    missing: tuple[str, ...]
    entries: int
    unused: int

    def problem(self, key: str) -> str | None:
        """Return why the rows cannot be asked; None where the file covers all."""
        if not self.missing:
            return None
        return (
            f"{key}: {len(self.missing):,} of {self.rows:,} rows have no entry, neither by id nor by question (first: "
            f"{self.missing[0]}); add them to its {self.entries:,} entries, or ask about rows that it covers"
        )

    def __str__(self) -> str:
        unused = f"; {self.unused:,} of its {self.entries:,} entries belong to none of them" if self.unused else ""
        return f"what to observe is given for all {self.rows:,} rows{unused}"


def read_contents(key: str, file: str) -> Contents:
    """Read a file of contents.

    Args:
        key: of the configuration, for the messages.
        file: as it stands there.

    Raises:
        UserError: when it is not there, cannot be read, or has entries that are empty, told twice or hold a control token.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{key}: {file!r} is no file; name a JSON or JSON-lines file of what to observe")
    texts: dict[str, str] = {}
    problems: list[str] = []
    try:
        for where, name, text in _entries(path):
            if not isinstance(text, str) or not _one_line(text):
                problems.append(f"{where} says nothing to observe: {text!r}")
                continue
            if token := special_token_in(text):
                problems.append(f"{where} holds {token!r}, a control token of a model, and would stand in a prompt")
            line = _one_line(text)
            if texts.setdefault(_one_line(name), line) != line:
                problems.append(f"{where} stands there twice with different texts")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{key}: {path} is not read ({error}); it is one JSON object of texts by id or question, or lines of "
            '{"id": …, "text": …} or {"question": …, "text": …}'
        ) from error
    if not texts and not problems:
        problems.append("holds no entry")
    if problems:
        more = [f"{key}: {path} has {len(problems) - _MOST:,} more such entries"] if len(problems) > _MOST else []
        raise UserError([f"{key}: {path} {problem}" for problem in problems[:_MOST]] + more)
    return Contents(texts, file_digest(path))


def contents_problems(key: str, file: str | None) -> Iterator[str]:
    """Yield what is wrong with a file of contents."""
    try:
        if file is not None:
            read_contents(key, file)
    except UserError as error:
        yield from error.problems


def contents_digest(file: str | None) -> str | None:
    """Return sha256 of a file of contents; None where there is none."""
    path = Path(file).expanduser() if file is not None else None
    return file_digest(path) if path is not None and path.is_file() else None


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(where it stands, id or question, text) of every entry."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        whole = json.loads(text, object_pairs_hook=list)
        if not isinstance(whole, list) or not all(isinstance(each, tuple) for each in whole):
            raise ValueError("it is no object")
        yield from ((f"entry {name!r}", name, value) for name, value in whole)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            yield f"line {number}", str(row["id"] if "id" in row else row["question"]), row["text"]


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(" .")
