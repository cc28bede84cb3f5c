"""How many pictures of a split can be used, and why the others cannot, in one line where people look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.data.images import REASONS
from pipeline.types import Problem, Split

KEPT = ("unreadable_annotation", "label_spelling", "later_turns")
"""Reasons of problems whose row is used nevertheless."""
OF_PICTURES = (*REASONS, "outside_root", "remote_image", "missing_shards", "duplicate_id")
"""Reasons that show when rows are read with their pictures."""
WARN_FROM = 0.05
"""Share of unusable pictures from which the line is a warning."""


def usable_counts(split: Split) -> dict[str, Any]:
    """Return ``{"usable": 21, "unusable": {"not_an_image": {"rows": 19, "first": "red/0.txt"}}}`` of a whole split."""
    usable = len(split.rows) if split.whole is None else split.whole
    return {"usable": usable, "unusable": _counted(problem for problem in split.problems if problem.reason not in KEPT)}


def _counted(problems: Iterable[Problem]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for problem in problems:
        found.setdefault(problem.reason, {"rows": 0, "first": problem.id})["rows"] += 1
    return dict(sorted(found.items(), key=lambda item: -item[1]["rows"]))


def usable_line(split: str, counts: Mapping[str, Any]) -> str:
    """Return ``train: 21 of 40 pictures usable: not_an_image 19 (first: red/0.txt)``, a warning where many are not.

    Args:
        split: its name, or how it was asked for.
        counts: of `usable_counts`.
    """
    usable, unusable = counts["usable"], counts["unusable"]
    lost = sum(reason["rows"] for reason in unusable.values())
    if not lost:
        return f"{split}: all {usable:,} pictures usable"
    return f"{_warning(lost, usable)}{split}: {usable:,} of {usable + lost:,} pictures usable: {_reasons(unusable)}"


def pictures_line(split: str, counts: Mapping[str, Any]) -> str:
    """Return ``train: all pictures usable``, or which rows are left out for their pictures; other reasons are told elsewhere.

    Args:
        split: its name.
        counts: of `usable_counts`.
    """
    unusable = {reason: each for reason, each in counts["unusable"].items() if reason in OF_PICTURES}
    lost = sum(reason["rows"] for reason in unusable.values())
    if not lost:
        return f"{split}: all pictures usable"
    return f"{_warning(lost, counts['usable'])}{split}: left out when they are read: {_reasons(unusable)}"


def _warning(lost: int, usable: int) -> str:
    return "warning: " if lost >= WARN_FROM * (usable + lost) else ""


def _reasons(unusable: Mapping[str, Any]) -> str:
    return ", ".join(f"{reason} {each['rows']:,} (first: {each['first']})" for reason, each in unusable.items())
