"""A table as values, and as csv, json and markdown files.

A cell is None, a text, a number, or a mapping with ``value`` and perhaps ``low``, ``high``: a number with its 95 % interval.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.formatting import duration, p_value, percent, points, printable


@dataclass(frozen=True)
class Column:
    """One column. `kind` is how a person reads it: text, count, percent, fine (percent to a
    thousandth), points, number, p, duration, mean (of runs, with ``sd`` and
    ``n``), or rows (ids of rows)."""

    key: str
    head: str
    kind: str = "text"
    heat: bool = False


@dataclass(frozen=True)
class Table:
    """A table and what it is called. `foot` rows are averages, which stay below however the rows are sorted."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    foot: tuple[Mapping[str, Any], ...] = ()
    note: str = ""


def files(table: Table) -> dict[str, str]:
    """Return the table as ``<name>.csv``, ``.json`` and ``.md``: fractions as fractions, nothing rounded but in markdown."""

    every = (*table.rows, *table.foot)
    header, rows = flat(table)
    plain = [{column.key: row.get(column.key) for column in table.columns} for row in every]
    text = json.dumps({"title": table.title, "note": table.note, "rows": plain}, indent=1, ensure_ascii=False)
    return {
        f"{table.name}.csv": csv_text(header, rows),
        f"{table.name}.json": text + "\n",
        f"{table.name}.md": markdown_table(table),
    }


def flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows with nothing nested: an interval is two further columns ``<key>_low`` and ``<key>_high``."""
    every = (*table.rows, *table.foot)
    parts = {column.key: ["value"] for column in table.columns}
    for column in table.columns:
        cells = [row[column.key] for row in every if isinstance(row.get(column.key), Mapping)]
        parts[column.key] += [part for part in ("low", "high", "sd") if any(part in one for one in cells)]
    header = [key if part == "value" else f"{key}_{part}" for key, of in parts.items() for part in of]
    rows = []
    for row in every:
        named: dict[str, Mapping[str, Any]] = {}
        for key in parts:
            value = row.get(key)
            named[key] = value if isinstance(value, Mapping) else {"value": value}
        rows.append([_plain(named[key].get(part)) for key, of in parts.items() for part in of])
    return header, rows


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return comma-separated lines."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value


def markdown_table(shown: Table) -> str:
    """Return a table of a report as markdown, its title above and its note below."""
    rows = [[_written(row.get(column.key), column) for column in shown.columns] for row in (*shown.rows, *shown.foot)]
    note = f"\n{cell(shown.note)}\n" if shown.note else ""
    right = [place for place, column in enumerate(shown.columns) if place and column.kind not in ("text", "rows")]
    heads = [cell(column.head) for column in shown.columns]
    return f"## {cell(shown.title)}\n\n{table(heads, rows, right)}{note}"


def written(value: float, kind: str) -> str:
    """Return a number as its kind of column shows it: text, count, percent, fine, points, number, p or duration."""
    if kind == "percent":
        # 0.03 % is not 0.0 %.
        return percent(value, 3) if 0 < abs(value) < 0.001 else percent(value)
    if kind == "fine":
        return percent(value, 3)
    if kind == "number":
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    write = {"points": points, "duration": duration, "p": lambda p: p_value(p).removeprefix("= ")}
    return write.get(kind, str)(value)


def mean_sd(of: Mapping[str, Any]) -> str:
    """Return a mean over runs: 60.0 ± 10.0 [3]; alone where there is one."""
    return percent(of["value"]) + (f" ± {percent(of['sd'])} [{of['n']}]" if of["sd"] is not None else "")


def _written(value: Any, column: Column) -> str:
    """A cell: its number with the interval, its text, or the row ids in it."""
    of = value if isinstance(value, Mapping) else {"value": value}
    value = of.get("value")
    if value is None or isinstance(value, str):
        return cell(value or "–")
    if isinstance(value, list):
        return cell(", ".join(value))
    if column.kind == "mean":
        return mean_sd(of)
    kind = column.kind
    interval = f" [{written(of['low'], kind)}, {written(of['high'], kind)}]" if of.get("low") is not None else ""
    return written(value, kind) + interval


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] | None = None) -> str:
    """Return a markdown table of cells that are markdown already.

    Args:
        header: of its columns.
        rows: as long as the header.
        right: places of the columns that are aligned to the right; all but the first when None.
    """
    aligned = ["---:" if (place > 0 if right is None else place in right) else "---" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, aligned, *rows]) + "\n"


def cell(text: str) -> str:
    """Return text that cannot break out of a markdown table cell."""
    text = printable(" ".join(text.split()))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
