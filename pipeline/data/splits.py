"""Which rows a split's spec such as ``train[:4000]`` or ``val[10%:20%]`` selects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.formatting import join_counts
from pipeline.types import Problem, counted


def split_problem(key: str, spec: str) -> Iterator[str]:
    """Yield why a split's spec is malformed, if it is."""
    try:
        parse_split(spec)
    except UserError as error:
        yield f"{key}: {error}"


Item = TypeVar("Item")


_SPEC = re.compile(r"^(?P<name>[\w.-]+)(?:\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?$")


def parse_split(spec: str) -> tuple[str, str, str]:
    """Split ``train[10:20%]`` into ("train", "10", "20%"); absent bounds are empty strings.

    Raises:
        UserError: when `spec` has another form.
    """
    match = _SPEC.match(spec)
    if not match:
        raise UserError(f"split {spec!r} is not of the form name, name[:4000], name[10%:20%]")
    return match["name"], match["start"] or "", match["stop"] or ""


def named_split(task: str, spec: str, splits: Sequence[str]) -> str:
    """Return the split a spec names.

    Raises:
        UserError: on a malformed spec, or a split that is not one of `splits`.
    """
    name = parse_split(spec)[0]
    if name not in splits:
        raise UserError(f"task {task}: split {name!r} does not exist; it has {', '.join(splits)}")
    return name


def sliced(task: str, spec: str, rows: Sequence[Item], problems: Sequence[Problem]) -> tuple[Item, ...]:
    """Return the part of a split's rows that a spec asks for.

    Args:
        task: whose they are, for the message, as are `problems`.
        spec: as `parse_split` takes it.
        rows: all of the split, in the order that slices are taken of.
        problems: why other rows cannot be used.

    Raises:
        UserError: when it is empty.
    """
    name, start, stop = parse_split(spec)
    chosen = rows[_index(start, len(rows)) : _index(stop, len(rows)) if stop else None]
    if not chosen:
        why = f" (problems: {join_counts(counts)})" if (counts := counted(problems)) else ""
        if counts and not rows:
            first = next(one for one in problems if one.reason == next(iter(counts)))
            why += f"; the first: {first.id}: {first.detail}"
        raise UserError(f"task {task}: {spec!r} selects no row; {name!r} has {len(rows)} usable rows{why}")
    return tuple(chosen)


def _index(bound: str, rows: int) -> int:
    if bound.endswith("%"):
        return rows * int(bound[:-1]) // 100
    return int(bound or 0)
