"""What a person reads of a sweep's cells: the tables of its page and of results.md, and their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.formatting import percent
from pipeline.metrics.scores import Gain
from pipeline.reports.table import Column, Noted, Table, rows_of
from pipeline.sweeps.rows import CellRow, TaskPairs

MOST_DIFFERENCES = 24
"""Most cells of a task whose pairs are shown; results.json has all."""


def _accuracy(row: CellRow) -> Noted:
    low, chance = row.accuracy_low, row.chance
    told = "not above chance" if low is not None and chance is not None and low <= chance else ""
    return Noted(row.accuracy, told, low, row.accuracy_high)


def _megabytes(size: float | None) -> int | None:
    return None if size is None else round(size)


def _estimated(row: CellRow) -> Noted:
    error = row.memory_error
    return Noted(_megabytes(row.memory_estimated_mb), "" if error is None else f"{100 * error:+.0f} %")


def _latency(row: CellRow) -> Noted:
    slow = row.latency_p95_s
    return Noted(row.latency_p50_s, "" if slow is None else f"p95 {slow:.2f}")


SHOWN = (
    Column("model", "model"),
    Column("precision", "precision"),
    Column("mode", "mode", of=lambda row: row.way),
    Column("accuracy", "accuracy, %", "percent", _accuracy),
    Column("chance", "chance, %", "percent"),
    Column("official", "official", "number", lambda row: Noted(row.official_value, row.official_score or "")),
    Column("unparsable", "unparsable", "count", least_first=True),
    Column("truncated", "cut", "count", least_first=True),
    Column("memory", "memory, MB", "count", lambda row: _megabytes(row.memory_measured_mb), least_first=True),
    Column("estimated", "estimated, MB", "count", _estimated, least_first=True),
    Column("latency_p50_s", "p50, s", "number", _latency, least_first=True),
    Column("rows_per_second", "rows/s", "number"),
    Column("n", "rows", "count"),
    Column("seconds", "time", "duration", least_first=True),
    Column("status", "status", of=lambda row: row.status + (f": {row.reason}" if row.reason else "")),
)
"""The columns of a sweep that a person reads."""


def best_first(row: CellRow) -> tuple[float, str]:
    """Return what cells are sorted by."""
    return -(row.accuracy if row.accuracy is not None else -1.0), row.cell


def differences(rows: Sequence[CellRow], tested: TaskPairs) -> Table | None:
    """Return who differs from whom: differences of accuracy, line minus column; None when fewer than two cells are complete.

    Args:
        rows: of one task, in the order of the lines.
        tested: its pairs.
    """
    complete = [row for row in rows if row.cell in tested.cells]
    if len(complete) < 2:
        return None
    gains: dict[tuple[str, str], Gain] = {}
    for pair in tested.pairs:
        gains |= {(pair.a, pair.b): pair.gain, (pair.b, pair.a): pair.turned}
    shown = complete[:MOST_DIFFERENCES]
    number = {row.cell: str(place) for place, row in enumerate(shown, 1)}

    def against(other: CellRow) -> Callable[[CellRow], Gain | None]:
        return lambda row: gains.get((row.cell, other.cell))

    columns = (
        Column("number", "#", "count", lambda row: int(number[row.cell])),
        Column("cell", "cell", of=lambda row: row.title),
        *(Column(other.cell, number[other.cell], "brief", against(other)) for other in shown),
    )
    least = tested.detectable
    note = (
        "Points of accuracy, line minus column, on the same rows. *, or coloured and bold: McNemar's p below 0.05 after Holm's "
        f"correction over the {len(tested.pairs)} pairs. "
    )
    if least.difference is None:
        note += "So few rows find no difference that these cells could have."
    else:
        note += (
            f"On {tested.n} rows, with {percent(least.discordant)} % of rows right in only one of two, a true difference of "
            f"{percent(least.difference)} points is found 4 times in 5 after the correction; smaller ones mostly stay unmarked."
        )
    if left := len(complete) - len(shown):
        note += f" The {left} least accurate cells are left out here; results.json has them."
    return Table("differences", "Who differs from whom", columns, rows_of(columns, shown), note=note)
