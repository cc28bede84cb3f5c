"""A table as values, and as csv, json and markdown files.

A cell is None, a text, a number, or a mapping with ``value`` and perhaps ``low``, ``high``: a number with its 95 % interval.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """The table as ``<name>.csv``, ``.json`` and ``.md``: fractions as fractions, nothing rounded but in markdown."""
    from pipeline.report_text import markdown_table

    every = (*table.rows, *table.foot)
    header, rows = flat(table)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    plain = [{column.key: row.get(column.key) for column in table.columns} for row in every]
    text = json.dumps({"title": table.title, "note": table.note, "rows": plain}, indent=1, ensure_ascii=False)
    return {
        f"{table.name}.csv": buffer.getvalue(),
        f"{table.name}.json": text + "\n",
        f"{table.name}.md": markdown_table(table),
    }


def flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Header and rows with nothing nested: an interval is two further columns ``<key>_low`` and ``<key>_high``."""
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


def _plain(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value
