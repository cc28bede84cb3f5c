"""Which model to take, of those that fit a memory: the most accurate cell of a task, and which cannot be told apart from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UserError
from pipeline.formatting import points
from pipeline.reports.table import Table, rows_of, text_table
from pipeline.sweeps.rows import CellRow, SweepResults
from pipeline.sweeps.table import SHOWN, best_first

_UNITS = {"": 10**9, "gb": 10**9, "mb": 10**6, "gib": 2**30, "mib": 2**20}
_TOLD = (
    "model",
    "size",
    "precision",
    "mode",
    "accuracy",
    "memory",
    "latency_p50_s",
    "rows_per_second",
    "tokens",
    "cost",
)
"""Columns of a sweep's table that a choice is made by."""


@dataclass(frozen=True)
class BudgetChoice:
    """What a task's cells say of a budget.

    Args:
        best: the most accurate complete cell that fits; of equal ones that with the least memory. None where none fits.
        alike: those that fit and differ from it by no more than chance, the most accurate first.
        untested: those that fit and have no row in common with it.
        worse: those that fit and are less accurate, beyond chance.
        above: the most accurate complete cell that does not fit and is more accurate than `best`.
        waiting: cells that should fit and are not complete.
        unknown: complete cells whose memory nobody knows, a server's above all.
    """

    best: CellRow | None
    alike: tuple[CellRow, ...] = ()
    untested: tuple[CellRow, ...] = ()
    worse: tuple[CellRow, ...] = ()
    above: CellRow | None = None
    waiting: tuple[CellRow, ...] = ()
    unknown: tuple[CellRow, ...] = ()


def parse_budget(text: str) -> int:
    """Return bytes of ``8GB``, ``24 GiB``, ``700MB`` or ``8``, which is in GB.

    Raises:
        UserError: when it is none of them.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if found is None or found[2].lower() not in _UNITS or not float(found[1]):
        raise UserError(f"--budget: {text!r} is no memory; write 8GB, 24GiB or 700MB")
    return round(float(found[1]) * _UNITS[found[2].lower()])


def choose(found: SweepResults, task: str, budget: int) -> BudgetChoice:
    """Return what to take for a task within a memory of `budget` bytes, by measured memory where there is some."""
    rows = [row for row in found.cells if row.task == task and row.mode != "blind"]
    complete = [row for row in rows if row.status == "complete" and row.accuracy is not None]
    unknown = tuple(row for row in complete if row.memory is None)
    fitting = sorted((row for row in complete if _fits(row, budget)), key=_by_accuracy)
    waiting = tuple(row for row in rows if row.status != "complete" and _fits(row, budget))
    best = fitting[0] if fitting else None
    larger = [row for row in complete if row.memory is not None and not _fits(row, budget)]
    more = min(larger, key=_by_accuracy, default=None)
    above = more if more and (best is None or _by_accuracy(more)[0] < _by_accuracy(best)[0]) else None
    if best is None:
        return BudgetChoice(None, above=above, waiting=waiting, unknown=unknown)
    told: dict[str, list[CellRow]] = {"alike": [], "untested": [], "worse": []}
    for row in fitting[1:]:
        pair = next(one for one in found.pairs[task].pairs if {one.a, one.b} == {best.cell, row.cell})
        told["untested" if not pair.result.n else "worse" if pair.gain.beyond_chance else "alike"].append(row)
    return BudgetChoice(
        best, above=above, waiting=waiting, unknown=unknown, **{kind: tuple(rows) for kind, rows in told.items()}
    )


def advise(found: SweepResults, tasks: Sequence[str], budget: int) -> str:
    """Return the advice for each task, for a terminal."""
    return "\n\n".join("\n".join(_lines(found, task, choose(found, task, budget), budget)) for task in tasks)


def _lines(found: SweepResults, task: str, choice: BudgetChoice, budget: int) -> list[str]:
    lines = [f"{task}, within {_gb(budget / 1e6)}:"]
    best = choice.best
    if best is None:
        lines.append("  no complete cell fits")
    else:
        lines.append(f"  take {best.title}: {best.rate} % of {best.n} rows right, {_memory(best)}{_pace(best)}")
        if best.accuracy_low is not None and best.chance is not None and best.accuracy_low <= best.chance:
            lines.append(f"  it is not above chance, {100 * best.chance:.1f} %: none of them can do this task here")
        if choice.alike:
            lines.append("  cannot be told apart from " + "; ".join(row.title for row in choice.alike))
            equal = (best, *choice.alike)
            least = min(equal, key=lambda row: row.memory or 0.0)
            fastest = max(equal, key=lambda row: row.rows_per_second or 0.0)
            if least != best:
                lines.append(f"    of these {least.title} takes the least memory, {_memory(least)}")
            if fastest.rows_per_second and fastest not in (best, least):
                lines.append(f"    of these {fastest.title} is the fastest, {fastest.rows_per_second:.2f} rows/s")
            elif fastest.rows_per_second and fastest == least != best:
                lines[-1] += f", and is the fastest, {fastest.rows_per_second:.2f} rows/s"
        if choice.untested:
            lines.append("  not compared, for want of common rows: " + "; ".join(row.title for row in choice.untested))
    if above := choice.above:
        pair = next(
            (one for one in found.pairs[task].pairs if best and {one.a, one.b} == {best.cell, above.cell}), None
        )
        gain = None if pair is None else pair.gain if pair.a == above.cell else pair.turned
        by = ""
        if gain is not None and gain.value is not None:
            by = f", {points(gain.value)} points ({'beyond chance' if gain.beyond_chance else 'not beyond chance'})"
        lines.append(f"  with more memory: {above.title}, {above.rate} %{by}, {_memory(above)}")
    if choice.waiting:
        lines.append("  should fit, and are not complete: " + "; ".join(row.title for row in choice.waiting))
    if choice.unknown:
        lines.append("  memory not known: " + "; ".join(f"{row.title} ({row.rate} %)" for row in choice.unknown))
    if best is not None:
        rows = [best, *choice.alike, *choice.untested, *choice.worse]
        kinds = (("best", (best,)), ("alike", choice.alike), ("not compared", choice.untested), ("worse", choice.worse))
        named = {row.cell: kind for kind, found_rows in kinds for row in found_rows}
        columns = tuple(column for column in SHOWN if column.key in _TOLD)
        told = [replace(row, model=f"{row.model} ({named[row.cell]})") for row in rows]
        table = Table("fitting", "", columns, rows_of(columns, told)).without_empty()
        lines += ["", *(f"  {line}" for line in text_table(table).splitlines())]
    return lines


def _fits(row: CellRow, budget: int) -> bool:
    return row.memory is not None and row.memory * 1e6 <= budget


def _by_accuracy(row: CellRow) -> tuple[float, float, str]:
    accuracy, name = best_first(row)
    return accuracy, row.memory or 0.0, name


def _memory(row: CellRow) -> str:
    how = "measured" if row.memory_measured_mb is not None else "estimated"
    return f"{_gb(row.memory or 0.0)} {how}"


def _pace(row: CellRow) -> str:
    told = [] if row.latency_p50_s is None else [f"{row.latency_p50_s:.2f} s a row (median)"]
    told += [] if row.rows_per_second is None else [f"{row.rows_per_second:.2f} rows/s"]
    return "".join(f", {one}" for one in told)


def _gb(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
