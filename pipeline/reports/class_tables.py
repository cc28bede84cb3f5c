"""The tables per class: recall and F1 of all entries, how recall differs, one entry's classes, confusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.metrics.classification import UNPARSABLE
from pipeline.metrics.scores import ClassScores, Gain, OfClasses, Rate, Scores
from pipeline.reports.paired_entries import RECALL_NOTE, RecallTest
from pipeline.reports.summary import EntrySummary, Summary
from pipeline.reports.table import Column, Table, rows_of

Evaluated = Sequence[tuple[EntrySummary, Scores]]
ENTRY = Column("entry", "entry")
PER_CLASS = (
    Column("class", "class", of=lambda named: named[0]),
    Column("precision", "precision, %", "percent", lambda named: named[1].precision),
    Column("recall", "recall, %", "percent", lambda named: named[1].recall),
    Column("f1-score", "F1, %", "percent", lambda named: named[1].f1),
    Column("support", "rows", "count", lambda named: named[1].support),
    Column("predicted", "answered", "count", lambda named: getattr(named[1], "predicted", None)),
)


def by_class(
    metric: str,
    title: str,
    rows: Evaluated,
    read: Callable[[ClassScores], Any],
    macro: Callable[[OfClasses], Rate | float],
) -> Table:
    """Return a row per class, a column per entry, and the macro averages at the foot.

    Args:
        metric: the table's name, and what its columns begin with.
        title: the table's.
        rows: the entries; those whose answers are no classes are left out.
        read: what a class has of it.
        macro: what all classes have of it.
    """
    found = {row.name: scores.classes for row, scores in rows if scores.classes}

    def of(entry: str) -> Callable[[str], Any]:
        return lambda name: read(found[entry].per_class[name]) if name in found[entry].per_class else None

    columns = (
        Column("class", "class", of=str),
        Column(
            "support",
            "rows",
            "count",
            lambda name: max(one.per_class[name].support for one in found.values() if name in one.per_class),
        ),
        *(Column(f"{metric}:{entry}", entry, "percent", of(entry), heat=True) for entry in found),
    )
    names = dict.fromkeys(name for of_entry in found.values() for name in of_entry.per_class)
    foot = {
        "class": "macro avg",
        "support": max((one.macro.support for one in found.values()), default=0),
        **{f"{metric}:{entry}": macro(one) for entry, one in found.items()},
    }
    return Table(metric, title, columns, rows_of(columns, names), (foot,))


def recall_changes(summary: Summary) -> Table:
    """Return how recall differs, class by class, in a column per pair of entries that is tested."""
    macro = {(test.entry, test.name): test.macro_recall for test in summary.tests}

    def of(test: RecallTest) -> Callable[[str], Gain | None]:
        return lambda name: test.per_class[name].gain if name in test.per_class else None

    def over_all(test: RecallTest) -> Callable[[str], Gain | None]:
        return lambda _: macro.get((test.entry, test.name))

    def columns(read: Callable[[RecallTest], Callable[[str], Gain | None]]) -> tuple[Column, ...]:
        pairs = [(f"change:{test.entry} - {test.name}", f"{test.entry} − {test.name}", test) for test in summary.recall]
        return (
            Column("class", "class", of=str),
            *(Column(key, head, "points", read(test)) for key, head, test in pairs),
        )

    names = dict.fromkeys(name for test in summary.recall for name in test.per_class)
    order = sorted(
        names, key=lambda name: summary.labels.index(name) if name in summary.labels else len(summary.labels)
    )
    note = f"{RECALL_NOTE} At the foot macro recall, by paired bootstrap, its p corrected as in “Paired tests”."
    title = "Recall per class, differences in points"
    rows, foot = rows_of(columns(of), order), rows_of(columns(over_all), ["macro avg"])
    return Table("recall_changes", title, columns(of), rows, foot, note)


def per_class(name: str, classes: OfClasses) -> Table:
    """Return one entry's per-class table, its averages at the foot."""
    averages = {"macro avg": classes.macro, "weighted avg": classes.weighted}
    rows, foot = (rows_of(PER_CLASS, found.items()) for found in (classes.per_class, averages))
    return Table("class", f"Per class: {name}", PER_CLASS, rows, foot)


def every_per_class(rows: Evaluated) -> Table:
    """Return the per-class tables of all entries below each other, for the files."""
    made = [(row.name, per_class(row.name, scores.classes)) for row, scores in rows if scores.classes]
    every = tuple({"entry": name, **values} for name, one in made for values in (*one.rows, *one.foot))
    return Table("per_class", "Per class", (ENTRY, *PER_CLASS), every)


def confusion(rows: Evaluated) -> Table:
    """Return the counts of every answer to every class, entry by entry."""
    made: list[dict[str, Any]] = []
    answers: dict[str, None] = {}
    for row, scores in rows:
        if scores.classes:
            answers |= dict.fromkeys(scores.classes.confusion.columns[:-1])
            for gold, counts in scores.classes.confusion.lines():
                made.append({"entry": row.name, "gold": gold, **{f"answer:{key}": counts[key] for key in counts}})
    answered = [Column(f"answer:{name}", name, "count") for name in (*answers, UNPARSABLE)]
    return Table("confusion", "Confusion", (ENTRY, Column("gold", "gold"), *answered), tuple(made))
