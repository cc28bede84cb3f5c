"""Whether a model chooses the same option wherever it stands: the rows of one question in several orders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.scores import Rate
from pipeline.scoring.multiple_choice import letters


@dataclass(frozen=True)
class Rotations:
    """Of the questions asked in more than one order; shares are of questions but for `accuracy`, which is of answers."""

    questions: int
    accuracy: Rate
    """Over all orders, with an interval that draws questions (and pictures) whole."""
    by_order: tuple[Rate, ...]
    """Accuracy in the own order, in the first rotation, …; a question with few options is only in the first of them."""
    consistent: Rate
    """The same option, by its text, in every order; an answer that cannot be read is no choice."""
    all_right: Rate
    """Right in every order, which is what circular evaluation counts."""


def rotations(rows: Iterable[Mapping[str, Any]]) -> Rotations | None:
    """Return it; None where no question was asked in two orders.

    Args:
        rows: of predictions.jsonl: ``row`` (of the data), ``rotation``, ``options`` in their order, ``label`` (a letter),
            ``correct`` and ``cluster``.
    """
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if "rotation" in row:
            found[row["row"]].append(row)
    asked = [some for some in found.values() if len(some) > 1]
    if not asked:
        return None
    answers = [row for some in asked for row in some]
    clusters = [some[0]["cluster"] for some in asked]
    orders = 1 + max(row["rotation"] for row in answers)
    return Rotations(
        questions=len(asked),
        accuracy=_rate(answers),
        by_order=tuple(_rate([row for row in answers if row["rotation"] == order]) for order in range(orders)),
        consistent=clustered_rate([_is_consistent(some) for some in asked], clusters),
        all_right=clustered_rate([all(row["correct"] for row in some) for some in asked], clusters),
    )


def _rate(rows: Sequence[Mapping[str, Any]]) -> Rate:
    return clustered_rate([bool(row["correct"]) for row in rows], [row["cluster"] for row in rows])


def _is_consistent(rows: Sequence[Mapping[str, Any]]) -> bool:
    chosen = {_chosen(row) for row in rows}
    return len(chosen) == 1 and None not in chosen


def _chosen(row: Mapping[str, Any]) -> str | None:
    """The text of the option an answer chose."""
    names = letters(len(row["options"]))
    return str(row["options"][names.index(row["label"])]) if row["label"] and row["label"] in names else None
