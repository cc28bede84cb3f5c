"""MathVista's published rule, and an extraction by rules in place of its language model.

Published (github.com/lupantech/MathVista, CC BY-SA 4.0: evaluation/extract_answer.py, calculate_score.py): GPT-4 extracts a short
answer, which is normalised to the type of the gold answer and compared as text; a multiple-choice extraction that is no choice is
replaced by the choice at the smallest edit distance. `published_prediction` is that normalisation, for stored extractions.

`extracted` stands where GPT-4 stood: what `stated_choice`, `stated_number` and `stated_list` read. What states nothing is
unparsable; `replacement` is the choice the published rule puts in its place. Differences, on purpose: 3.5 is no integer,
where the later published code cuts it to 3; 1/2, 50 % and 1,000 are numbers; a program is not run, and nothing is inferred
("is greater" is not read as Yes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.scoring.markup import REFUSAL, plain
from pipeline.scoring.multiple_choice import letters, stated_choice
from pipeline.scoring.numbers import stated_list, stated_number, stated_tail, written

ANSWER_TYPES = ("text", "integer", "float", "list")
MAX_NEAREST_CHARS = 60
"""A longer text is no misspelt choice."""
_ANSWER = re.compile(r"\banswer\b[^.\n:]{0,60}?(?:\bis\b|:)\s{0,3}", re.IGNORECASE)


@dataclass(frozen=True)
class Extracted:
    """What a text answers: a choice, a number (all its readings), a list; or a reason why nothing is read."""

    text: str | None
    values: tuple[float, ...] = ()
    reason: str | None = None


def edit_distance(a: str, b: str) -> int:
    """Return levenshtein's distance."""
    above = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
        above = row
    return above[-1]


def nearest_choice(text: str, choices: Sequence[str]) -> str:
    """Return the choice at the smallest edit distance, the first of several."""
    return min(choices, key=lambda choice: edit_distance(text, choice))


def published_prediction(
    extraction: str, choices: Sequence[str], answer_type: str, precision: int | None, whole_floats: bool = False
) -> str | None:
    """Return the published normalisation of an extraction; None when it is not of the answer's type.

    Args:
        extraction: what was extracted from a response.
        choices: of a multiple-choice question, else empty.
        answer_type: one of `ANSWER_TYPES`.
        precision: decimals of a float answer.
        whole_floats: the later code's ``int(float(text))`` for integers; the published scores were made with ``int(text)``.
    """
    if choices:
        extraction = extraction.strip()
        marked = re.findall(r"\(([a-zA-Z])\)", extraction)
        extraction = marked[0].upper() if marked else extraction
        known = letters(len(choices))
        if len(extraction) == 1 and extraction in known:
            return choices[known.index(extraction)]
        return nearest_choice(extraction, choices)
    try:
        if answer_type == "integer":
            return str(int(float(extraction)) if whole_floats else int(extraction))
        if answer_type == "float":
            return str(round(float(extraction), int(precision) if precision is not None else None))
    except (ValueError, OverflowError):
        return None
    return extraction


def extracted(text: str, choices: Sequence[str], answer_type: str) -> Extracted:
    """Return what a response answers.

    Args:
        text: the response, or the answer part of one.
        choices: of a multiple-choice question, else empty.
        answer_type: one of `ANSWER_TYPES`.
    """
    if not text.strip():
        return Extracted(None, reason="empty")
    if choices:
        stated = stated_choice(text, choices)
        if stated.letter:
            return Extracted(choices[letters(len(choices)).index(stated.letter)])
        near = _misspelt(text, choices) if stated.reason == "no_answer" else None
        return Extracted(near, reason=None if near else stated.reason)
    if answer_type == "list":
        found = stated_list(text)
        return (
            Extracted(f"[{', '.join(map(written, found))}]", tuple(found))
            if found
            else Extracted(None, reason="no_number")
        )
    number = stated_number(text)
    return Extracted(written(number.value), number.readings) if number else Extracted(None, reason="no_number")


def replacement(text: str, choices: Sequence[str]) -> str:
    """Return the choice that the published rule takes for a response without one: the nearest to what is stated, or
    to nothing.
    """
    stated = "" if REFUSAL.search(text) else _statement(text) or stated_tail(text) or ""
    return nearest_choice(stated if len(stated) <= MAX_NEAREST_CHARS else "", choices)


def _statement(text: str) -> str:
    """What follows the last "the answer is", else the whole of a short text; "" when that is too long to be a choice."""
    text = plain(text)
    declared = list(_ANSWER.finditer(text))
    tail = text[declared[-1].end() :].partition("\n")[0] if declared else text
    tail = tail.strip(" .,;:!?\"'\n")
    return tail if len(tail) <= MAX_NEAREST_CHARS else ""


def _misspelt(text: str, choices: Sequence[str]) -> str | None:
    """The choice a short statement means up to a third of its letters, such as "Tokio" for "tokyo"."""
    tail = _statement(text).casefold()
    if len(tail) < 3:
        return None
    near = nearest_choice(tail, [choice.casefold() for choice in choices])
    if edit_distance(tail, near) * 3 > max(len(tail), len(near)):
        return None
    return next(choice for choice in choices if choice.casefold() == near)


def is_right(found: Extracted, answer: str, answer_type: str, precision: int | None) -> bool:
    """Check whether what was extracted is the gold answer: equal text, integers, floats rounded to `precision`,
    lists in order.
    """
    if found.text is None:
        return False
    if answer_type == "text":
        return found.text == answer
    golds = stated_list(answer) if answer_type == "list" else None
    if answer_type == "list":
        return golds is not None and list(found.values) == golds
    try:
        gold = float(answer)
    except ValueError:
        return False
    if answer_type == "integer":
        return gold in found.values
    places = int(precision) if precision is not None else 2
    return any(round(value, places) == round(gold, places) for value in found.values)
