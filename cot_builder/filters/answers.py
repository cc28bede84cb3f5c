"""What the answers of a row are: the task's closed labels, or the row's own options; nothing closed where it asks for a number
or a text.
"""

from __future__ import annotations

from functools import lru_cache

from pipeline.data.task import Task
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

_YES_NO = LabelSet.of(("yes", "no"))


def closed_answers(task: Task, row: Question) -> LabelSet | None:
    """Return every answer that a row can have, as reasoning may name them; None where there is no closed list.

    Of lettered options the letter is the name and the text another spelling. Options whose texts cannot be told apart are
    known by their letters alone.
    """
    if task.labels is not None:
        return task.labels
    if row.kind == "yes_no":
        return _YES_NO
    if row.kind == "label" and row.options:
        return _label_set(row.options)
    return _lettered(row.options) if row.options else None


def answer_words(task: Task, row: Question) -> str:
    """Return the gold answer in words: the text of an option in place of its letter."""
    names = tuple(letters(len(row.options)))
    if task.labels is None and row.kind != "label" and row.gold in names:
        return row.options[names.index(row.gold)]
    return row.gold


@lru_cache(maxsize=1024)
def _label_set(names: tuple[str, ...]) -> LabelSet | None:
    try:
        return LabelSet.of(names)
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _lettered(options: tuple[str, ...]) -> LabelSet:
    names = tuple(letters(len(options)))
    try:
        return LabelSet.of(names, {letter: [text] for letter, text in zip(names, options, strict=True)})
    except ValueError:
        return LabelSet.of(names)
