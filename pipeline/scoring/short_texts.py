"""Short texts and lists of them: what a text states, and what two spellings have in common. Pure functions."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from typing import Any

from pipeline.scoring.markup import boxes, plain

_DECLARED = re.compile(r"\banswer(?:\s{1,3}is\b|\s{0,3}[:=])[\s:]{0,3}", re.IGNORECASE)
_ARTICLES = frozenset(("a", "an", "the"))
_DIGITS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "none"],
        [*range(11), 0],
        strict=True,
    )
)
_KEPT_BETWEEN_DIGITS = frozenset(".,:/")
_KEPT_SIGNS = frozenset("#%&@")
_BRACKETED = re.compile(r"[\[({]([^\[\](){}]*)[\])}]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_MARK, _THEN = r"\s*(?:[;\n]|,(?!\d{3}(?!\d)))\s*", r"(?:and\s+)?"
_SEPARATOR = re.compile(rf"{_MARK}{_THEN}|\s+and\s+", re.IGNORECASE)
SEPARATORS = (
    _SEPARATOR,
    re.compile(_MARK + _THEN, re.IGNORECASE),
    re.compile(rf"\s*[;\n,]\s*{_THEN}", re.IGNORECASE),
)
"""What may stand between the entries of a list: as it is meant most often; where "and" is a word of an entry ("salt and pepper,
bread"); where a comma before three digits is none of a number ("100,200,300")."""


def stated_text(text: str) -> str:
    """Return what a text answers with: its last box, what follows its last "answer is", else all of it."""
    told = boxes(text)
    if told and told[-1].strip():
        return told[-1]
    text = plain(text).strip()
    declared = list(_DECLARED.finditer(text))
    tail = text[declared[-1].end() :].strip() if declared else ""
    return tail.partition("\n")[0] if tail else text


def text_words(text: str) -> str:
    """Return a text as it is compared: without case, punctuation, articles and markup, number words as digits.

    Where that leaves nothing, articles and then signs stay.
    """
    # The minus of mathematics is no punctuation.
    text = plain(text).casefold().replace("−", "-")
    kept = []
    for place, character in enumerate(text):
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        if character in "'’`":
            continue
        if unicodedata.category(character)[0] not in "PZC" or character in _KEPT_SIGNS:
            kept.append(character)
        elif before.isdigit() and after.isdigit() and character in _KEPT_BETWEEN_DIGITS:
            # 1,000 is 1000.
            kept.append("" if character == "," else character)
        elif character == "-" and after.isdigit() and not before.isalnum():
            kept.append("-")
        else:
            kept.append(" ")
    words = [str(_DIGITS.get(word, word)) for word in "".join(kept).split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words or text.split())


def list_entries(text: str, separator: re.Pattern[str] = _SEPARATOR) -> list[str]:
    """Return the entries of the list that a text states; [] of a blank one.

    Args:
        separator: one of `SEPARATORS`.
    """
    told = boxes(text)
    text = (told[-1] if told and told[-1].strip() else text).strip()
    literal = literal_list(text)
    if literal is not None:
        return [str(entry) for entry in literal]
    text = plain(text).strip()
    declared = list(_DECLARED.finditer(text))
    text = text[declared[-1].end() :] if declared and text[declared[-1].end() :].strip() else text
    brackets = [part for part in _BRACKETED.findall(text) if separator.search(part.strip())]
    lines = [_BULLET.sub("", line) for line in (brackets[-1] if brackets else text).splitlines()]
    entries = [entry.strip(" \t.\"'“”") for line in lines for entry in separator.split(line)]
    return [entry for entry in entries if entry]


def literal_list(text: str) -> list[Any] | None:
    """Return a list as JSON or Python writes it; None for anything else."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > 10_000:
        return None
    for read in (_read_json, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if (
            isinstance(value, list)
            and value
            and not any(isinstance(entry, list | dict | tuple | set) for entry in value)
        ):
            return value
    return None


def _read_json(text: str) -> Any:
    """A JSON list whose entries are what was written: null and Infinity are words like any other."""
    value = json.loads(text, parse_constant=str, parse_float=str)
    return ["null" if entry is None else entry for entry in value] if isinstance(value, list) else value
