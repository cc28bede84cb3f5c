"""How much of what a build kept is true, where the task knows the true steps: filters see the answer alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.metrics.classification import in_order
from pipeline.reports.table import Column, Table, rows_of
from pipeline.scoring.trace import is_exact
from pipeline.types import Question


def trace_counts(examples: Iterable[Question], thoughts: Mapping[str, str]) -> dict[str, Any]:
    """Return how many kept rows write the true steps, where the task knows them; {} where it does not.

    Args:
        examples: the rows that were asked about.
        thoughts: id: the reasoning of a kept row.

    Returns:
        ``rows`` asked about, ``kept``, and ``wrong``, the kept ones whose steps are not the true ones though their label is
        right; the same per value of ``groups``.
    """
    total: Counter[str] = Counter()
    groups: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in examples:
        if not row.trace:
            continue
        counts = {"rows": 1, "kept": 0, "wrong": 0}
        if row.id in thoughts:
            counts |= {"kept": 1, "wrong": int(not is_exact(thoughts[row.id], row.trace))}
        total.update(counts)
        for group, value in row.groups.items():
            groups[group][value].update(counts)
    if not total:
        return {}
    by_group = {
        group: {value: dict(found[value]) for value in sorted(found, key=in_order)} for group, found in groups.items()
    }
    return {**total, "groups": by_group}


def trace_line(traces: Mapping[str, Any]) -> str:
    """Return in a sentence how many kept rows have wrong steps."""
    share = f" ({traces['wrong'] / traces['kept']:.1%})" if traces["kept"] else ""
    return f"{traces['wrong']} of {traces['kept']} kept rows{share} reach the right label by steps that are not the true ones"


def trace_tables(traces: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table per group: rows asked about, kept, and kept with wrong steps, of each of its values."""
    for group, found in traces["groups"].items():
        columns = (
            Column(group, group, of=lambda one: one[0]),
            Column("rows", "rows", "count", lambda one: one[1]["rows"]),
            Column("kept", "kept", "count", lambda one: one[1]["kept"]),
            Column("share", "kept, %", "percent", lambda one: one[1]["kept"] / one[1]["rows"]),
            Column("wrong", "wrong steps", "count", lambda one: one[1]["wrong"]),
            Column(
                "wrong_share",
                "of the kept, %",
                "percent",
                lambda one: one[1]["wrong"] / one[1]["kept"] if one[1]["kept"] else None,
            ),
        )
        yield Table(f"traces_{group}", f"Kept rows by {group}", columns, rows_of(columns, found.items()))
