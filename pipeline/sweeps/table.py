"""What a person reads of a sweep's cells: the tables of its page and of results.md, and their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.formatting import percent
from pipeline.metrics.scores import Gain, Rate
from pipeline.reports.table import Column, Noted, Table, rows_of
from pipeline.sweeps.rows import CellKey, CellRow, OfficialRow, RotationRow, SeeingRow, StepsRow, TaskPairs

MOST_DIFFERENCES = 24
"""Most cells of a task whose pairs are shown; results.json has all."""


def _accuracy(row: CellRow) -> Noted:
    low, chance = row.accuracy_low, row.chance
    told = "not above chance" if low is not None and chance is not None and low <= chance else ""
    return Noted(row.accuracy, told, low, row.accuracy_high)


def _whole(size: float | None) -> int | None:
    return None if size is None else round(size)


def _estimated(row: CellRow) -> Noted:
    error = row.memory_error
    return Noted(_whole(row.memory_estimated_mb), "" if error is None else f"{100 * error:+.0f} %")


def _latency(row: CellRow) -> Noted:
    slow = row.latency_p95_s
    return Noted(row.latency_p50_s, "" if slow is None else f"p95 {slow:.2f}")


def _tokens(row: CellRow) -> Noted:
    read = row.prompt_tokens
    return Noted(row.tokens_per_row, "" if read is None or not row.n else f"read {read / row.n:.0f}")


SHOWN = (
    Column("model", "model"),
    Column("size", "parameters, M", "count", lambda row: _whole(row.parameters_m)),
    Column("precision", "precision"),
    Column("mode", "mode", of=lambda row: row.way),
    Column("accuracy", "accuracy, %", "percent", _accuracy),
    Column("chance", "chance, %", "percent"),
    Column("official", "official", "number", lambda row: Noted(row.official_value, row.official_score or "")),
    Column("unparsable", "unparsable", "count", least_first=True),
    Column("truncated", "cut", "count", least_first=True),
    Column("memory", "memory, MB", "count", lambda row: _whole(row.memory_measured_mb), least_first=True),
    Column("estimated", "estimated, MB", "count", _estimated, least_first=True),
    Column("latency_p50_s", "p50, s", "number", _latency, least_first=True),
    Column("rows_per_second", "rows/s", "number"),
    Column("tokens", "tokens/row", "number", _tokens, least_first=True),
    Column("cost", "cost, 1\u202f000 rows", "number", lambda row: row.cost_of_1000, least_first=True),
    Column("n", "rows", "count"),
    Column("seconds", "time", "duration", least_first=True),
    Column("status", "status", of=lambda row: row.status + (f": {row.reason}" if row.reason else "")),
)
"""The columns of a sweep that a person reads."""


def cells_table(title: str, rows: Sequence[CellRow]) -> Table:
    """Return the table of a task's cells, in their order; what they cost only where a model has a price."""
    made = Table("cells", title, SHOWN, rows_of(SHOWN, rows))
    return made if any(row.cost is not None for row in rows) else made.less("cost")


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


def by_cell(
    lines: Sequence[CellKey], rows: Sequence[CellRow], head: Callable[[Any], str], value: Callable[[Any], Any]
) -> tuple[dict[str, str], tuple[dict[str, Any], ...]]:
    """Return lines of cells as a table with a cell to a row, those without a line left out.

    Args:
        lines: several of each cell.
        rows: of one task, in the order of the table.
        head: of a line: what it is called, which is a column.
        value: of a line: what stands in it.

    Returns:
        {key of a column: its name}, and the rows, whose "cell" is the cell's title.
    """
    heads: dict[str, str] = {}
    found: dict[Any, dict[str, Any]] = {row.asked: {"cell": row.title} for row in rows}
    for line in lines:
        if line.asked in found:
            heads[f"value:{head(line)}"] = head(line)
            found[line.asked][f"value:{head(line)}"] = value(line)
    return heads, tuple(one for one in found.values() if len(one) > 1)


def official_scores(lines: Sequence[OfficialRow], rows: Sequence[CellRow]) -> Table | None:
    """Return every score that the benchmark's own formula gives, a cell to a line; None where there is none."""
    heads, told = by_cell(lines, rows, lambda line: line.score, lambda line: line.official)
    columns = (Column("cell", "cell"), *(Column(key, name, "number") for key, name in heads.items()))
    return Table("official", "Official scores, %", columns, told) if told else None


def rotated(lines: Sequence[RotationRow], rows: Sequence[CellRow]) -> Table | None:
    """Return what became of questions with their options in other orders; None where none were asked so."""
    of_task = {row.asked for row in rows}
    here = [line for line in lines if line.asked in of_task]
    columns = (
        Column("cell", "cell", of=lambda line: line.title),
        Column("questions", "questions", "count"),
        Column("orders", "orders", "count"),
        Column("once", "asked once", "count"),
        Column("own_order", "accuracy in the own order, %", "percent"),
        Column("accuracy", "in all orders, %", "percent"),
        Column("consistent", "same option in every order, %", "percent"),
        Column("all_right", "right in every order, %", "percent"),
    )
    note = (
        "Of the questions whose options could be moved; the others were asked once, and evaluation.json says why. Intervals draw "
        "questions, and rows that share a picture, whole. An answer that cannot be read chooses no option."
    )
    return Table("rotations", "Options in other orders", columns, rows_of(columns, here), note=note) if here else None


def steps(lines: Sequence[StepsRow], rows: Sequence[CellRow]) -> Table | None:
    """Return single steps against several, a cell to a line, the largest model first; None where no row is either."""
    titles = {row.cell: row.title for row in rows}
    of_task = {row.asked for row in rows}
    here = sorted((line for line in lines if line.asked in of_task), key=lambda line: -(line.parameters_m or 0))

    def against(rate: Rate | None, cell: str | None) -> Noted | None:
        return None if rate is None or cell is None else Noted(rate.value, titles.get(cell, cell), rate.low, rate.high)

    columns = (
        Column("cell", "cell", of=lambda line: line.title),
        Column("size", "parameters, M", "count", lambda line: _whole(line.parameters_m)),
        Column("single", "single step, %", "percent"),
        Column("multi", "several steps, %", "percent"),
        Column("gap", "gap, points [95 %]", "points"),
        Column(
            "by_size", "gap less the largest model's", "points", lambda line: against(line.by_size, line.size_reference)
        ),
        Column(
            "by_precision",
            "gap less the first precision's",
            "points",
            lambda line: against(line.by_precision, line.precision_reference),
        ),
        Column("outside", "rows in neither", "count"),
    )
    if not here:
        return None
    note = (
        f"{here[0].says} (pipeline/sweeps/steps.yaml; our reading). The gap is the first less the second: by bootstrap over "
        "pictures and pairs where the sides share any, else of independent samples. Its changes are on common rows, by "
        "paired bootstrap; an interval that holds 0 shows no change."
    )
    return Table("steps", "Single step against several", columns, rows_of(columns, here), note=note).without_empty()


def seeing(lines: Sequence[SeeingRow], rows: Sequence[CellRow]) -> list[Table]:
    """Return what seeing is worth: a table of all rows, then one per grouping; none where no cell was asked blind."""
    found = {row.asked: row for row in rows}
    of_task = [line for line in lines if line.asked in found]
    whole = [line for line in of_task if not line.group]
    if not whole:
        return []
    columns = (
        Column("cell", "cell", of=lambda line: f"{line.model} · {line.precision}"),
        Column("n", "rows", "count"),
        Column("direct", "direct, %", "percent"),
        Column("blind", "blind, %", "percent"),
        Column("chance", "chance, %", "percent", lambda line: found[line.asked].chance),
        Column("unparsable", "unreadable when blind", "count"),
        Column("gain", "direct − blind, points [95 %]", "points"),
    )
    note = (
        "The same rows asked with and without their pictures, in the same words. Interval by paired bootstrap; coloured, or *: "
        "McNemar's p below 0.05. A model that will not answer without a picture is wrong on that row, so look at how many could "
        "not be read before calling a difference sight."
    )
    tables = [Table("seeing", "What seeing is worth", columns, rows_of(columns, whole), note=note)]
    for group in dict.fromkeys(line.group for line in of_task if line.group):
        heads, told = by_cell(
            [line for line in of_task if line.group == group], rows, lambda line: line.value, lambda line: line.gain
        )
        values = (Column("cell", "cell"), *(Column(key, name, "points") for key, name in heads.items()))
        why = "Points, direct − blind; p is corrected over the groups of the cell."
        tables.append(Table("seeing_groups", f"What seeing is worth, by {group}", values, told, note=why))
    return tables
