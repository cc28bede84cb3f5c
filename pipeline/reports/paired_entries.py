"""Entries tested against each other on the rows both answered: accuracy, macro recall and recall per class, typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pipeline.metrics.paired_tests import Paired, holm, macro_recall_difference, paired, recall_changes
from pipeline.metrics.scores import Change, Gain
from pipeline.metrics.stored import SPREAD
from pipeline.reports.entries import Entry

MOST_PAIRED = 6
"""Entries of one task up to which every pair is tested; more are tested against the first."""
RECALL_NOTE = (
    "Points, on the rows of the class that both answered; 95 % paired intervals, which are not corrected: Newcombe’s score "
    "interval, or a bootstrap over clusters where rows share a picture. * p < .05 by McNemar’s exact test on the class’s rows, "
    "after Holm’s correction over the classes of one comparison."
)


@dataclass(frozen=True)
class PairedTest:
    """A test of an entry against the one called `name`; `p_holm` is corrected over all tests of accuracy of its table."""

    entry: str
    name: str
    result: Annotated[Paired, SPREAD]
    p_holm: float | None = None
    macro_recall: Gain | None = None
    """None where answers are no classes, and in reports of earlier versions."""


@dataclass(frozen=True)
class RecallTest:
    """Recall of every class with an entry and with the one called `name`; p is corrected over the classes."""

    entry: str
    name: str
    per_class: Mapping[str, Change]


def versus(entry: Entry, other: Entry) -> PairedTest:
    """Return the test of one entry against another, not corrected for others."""
    result = paired(entry.predictions, other.predictions)
    recall = (
        macro_recall_difference(entry.predictions, other.predictions) if result.n and classed(entry, other) else None
    )
    return PairedTest(entry.name, other.name, result, macro_recall=recall)


def versus_per_class(entry: Entry, other: Entry) -> RecallTest | None:
    """Return recall per class of one entry against another; None where they share no row, or answers are no classes."""
    found = recall_changes(entry.predictions, other.predictions) if classed(entry, other) else {}
    return RecallTest(entry.name, other.name, found) if found else None


def classed(*entries: Entry) -> bool:
    """Check whether the answers of all entries are classes."""
    return all(entry.scores is not None and entry.scores.classes is not None for entry in entries)


def corrected(found: Sequence[PairedTest]) -> tuple[PairedTest, ...]:
    """Return the tests that have rows, with p corrected by Holm: over all of accuracy, and over all of macro recall."""
    tests = [test for test in found if test.result.n]
    of_accuracy = holm([test.result.p or 0.0 for test in tests])
    of_recall = iter(holm([test.macro_recall.p or 0.0 for test in tests if test.macro_recall]))
    return tuple(
        replace(test, p_holm=p, macro_recall=test.macro_recall and replace(test.macro_recall, p_holm=next(of_recall)))
        for test, p in zip(tests, of_accuracy, strict=True)
    )


def every_pair(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return (later, earlier): every pair of evaluated entries of one task, or each against the first where they are many."""
    pairs = []
    for task in dict.fromkeys(entry.task for entry in entries):
        same = [entry for entry in entries if entry.task == task and entry.scores]
        firsts = same if len(same) <= MOST_PAIRED else same[:1]
        pairs += [(b, a) for place, a in enumerate(firsts) for b in same[place + 1 :]]
    return pairs
