"""The same question with its options in other orders: does the model choose an option, or a place?

Rotation r puts the option that stood in place p + r at place p; the letters stay A, B, C … down the list, so the gold letter
moves with its text. Asking in as many orders as there are options is MMBench's circular evaluation (arXiv 2307.06281).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.errors import UserError
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

_EACH_OTHER = re.compile(
    r"\b(?i:all|none|both|any|either|neither)\b[^.]*\b(?i:above|below|preceding|following)\b"
    r"|\b(?i:the above)\b"
    r"|\b(?i:options?|answers?|choices?|statements?) \(?[A-J]\b"
    r"|(?<![\w.])\(?[A-J]\)?(?: ?, ?| and | or | nor | & ?|/)\(?[A-J]\b(?!\.\w)"
)
"""Texts of options that speak of others by their place or letter: moved, they would say something else."""

_MARK = re.compile(r"(?<![^\W_])\(?([A-Za-z])[).:]\s*")


def rotate(
    questions: Sequence[Question], orders: int, prompt: Callable[[Question], str]
) -> tuple[tuple[Question, ...], dict[str, int]]:
    """Return every question in its own order, then those that can be in a second one, a third, ….

    A question with fewer options than `orders` is asked in as many orders as it has options. A rotated row has the id
    ``<row>#<rotation>``, and all rows of one question one cluster, so that intervals and tests know that they are one. Its
    ``facts`` hold ``rotation`` and ``own``, the question as it was.

    Args:
        questions: rows of a split.
        orders: 1 or more; 1 is the own order alone.
        prompt: what is asked of a question; every order must stand in it.

    Returns:
        The rows, and why questions are asked once, counted: ``no_options`` (or no letters for them), ``options_name_each_other``
        (all of the above, both A and C), ``options_not_in_text`` (they are in the picture, or listed in a way that is not
        read).

    Raises:
        UserError: when the id of a rotated row is that of another row.
    """
    if orders == 1:
        return tuple(questions), {}
    once: Counter[str] = Counter()
    by_order: list[list[Question]] = [[] for _ in range(orders)]
    for question in questions:
        turned = [_turned(question, rotation) for rotation in range(min(orders, len(question.options)))]
        reason = _reason(question, turned, prompt)
        if reason:
            once[reason] += 1
            turned = [replace(question, facts={**question.facts, "own": question, "rotation": 0})]
        for rotation, row in enumerate(turned):
            by_order[rotation].append(row)
    rows = tuple(row for some in by_order for row in some)
    if twice := [row_id for row_id, count in Counter(row.id for row in rows).items() if count > 1]:
        raise UserError(
            f"rotate_options: {twice[0]!r} would be the id of two rows; name the rows of the data otherwise"
        )
    return rows, dict(once)


def own(question: Question) -> Question:
    """Return a question as the data have it."""
    found: Question = question.facts.get("own", question)
    return found


def _reason(question: Question, turned: Sequence[Question], prompt: Callable[[Question], str]) -> str | None:
    """Why a question cannot be asked in these orders; None when it can."""
    if question.kind not in ("", "letter") or len(question.options) < 2:
        return "no_options"
    if question.answer is not None and question.answer not in letters(len(question.options)):
        return "no_options"
    if any(_EACH_OTHER.search(option) for option in question.options):
        return "options_name_each_other"
    second = turned[1]
    return None if option_places(prompt(second), second.options) is not None else "options_not_in_text"


def _turned(question: Question, rotation: int) -> Question:
    """The question in another order; its text as it was where that does not list the options."""
    names = letters(len(question.options))
    options = question.options[rotation:] + question.options[:rotation]
    text, places = question.text, option_places(question.text, question.options)
    for (start, end), option in zip(reversed(places or ()), reversed(options), strict=False):
        text = text[:start] + option.strip() + text[end:]
    answer = question.answer
    if answer is not None and answer in names:
        answer = names[(names.index(answer) - rotation) % len(names)]
    return replace(
        question,
        id=f"{question.id}#{rotation}" if rotation else question.id,
        text=text,
        options=options,
        answer=answer,
        cluster=question.cluster or question.id,
        facts={**question.facts, "own": question, "rotation": rotation},
    )


def option_places(text: str, options: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return where the text of each option stands behind its letter, "(A) x", "A. x" or "A: x"; None where not all do.

    The last such list counts: a question may speak of (A) before it lists its options.
    """
    marks = [(match[1].upper(), match.end()) for match in _MARK.finditer(text)]
    found: list[tuple[int, int]] = []
    for letter, option in reversed(list(zip(letters(len(options)), map(str.strip, options), strict=True))):
        while marks:
            name, end = marks.pop()
            if name == letter and text.startswith(option, end) and not text[end + len(option) :][:1].isalnum():
                found.append((end, end + len(option)))
                break
        else:
            return None
    return found[::-1]
