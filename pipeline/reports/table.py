"""A table as values, and as csv, json and markdown files.

A cell is None, a text, a number, a `Rate` (a number with its 95 % interval; a `Gain` with a corrected p is marked where it is
beyond chance), a `Mean`, or a list of ids of rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.formatting import duration, p_number, p_value, percent, points, printable
from pipeline.metrics.scores import Gain, Rate
from pipeline.metrics.stored import to_json


@dataclass(frozen=True)
class Mean:
    """A mean over n runs and its sample standard deviation, which one run has not."""

    value: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        """Return it in percent: 60.0 ± 10.0 [3]; alone where there is one."""
        return percent(self.value) + (f" ± {percent(self.sd)} [{self.n}]" if self.sd is not None else "")


@dataclass(frozen=True)
class Noted:
    """A number, its 95 % interval where it has one, and a few words beside it."""

    value: float | None
    note: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """One column. `kind` is how a person reads it: text, count, percent, fine (percent to a
    thousandth), points, brief (points without the interval), number, p, duration, rows (ids of rows), or bar
    (two shares side by side, which a page alone shows)."""

    key: str
    head: str
    kind: str = "text"
    of: Callable[[Any], Any] | None = None
    """What a row has in it, given what the row is of; its `key` when None."""
    heat: bool = False
    least_first: bool = False
    """Whether a first click sorts by it with the least on top."""

    def value(self, item: Any) -> Any:
        """Return what the row of an item has here."""
        if self.of:
            return self.of(item)
        return item.get(self.key) if isinstance(item, Mapping) else getattr(item, self.key)


@dataclass(frozen=True)
class Table:
    """A table and what it is called. `foot` rows are averages, which stay below however the rows are sorted.

    A page takes a row's ``#id`` for a target of links, and shows one with ``#dim`` as being of less weight.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    foot: tuple[Mapping[str, Any], ...] = ()
    note: str = ""
    sorted_by: str = ""
    """Key of the column by which the rows come, the largest first."""

    def less(self, *keys: str) -> Table:
        """Return it without some columns."""
        return replace(self, columns=tuple(column for column in self.columns if column.key not in keys))

    def without_empty(self) -> Table:
        """Return it less the columns in which no row has a value: they say nothing."""
        return self.less(*(one.key for one in self.columns if all(row[one.key] is None for row in self.rows)))


def rows_of(columns: Iterable[Column], items: Iterable[Any]) -> tuple[dict[str, Any], ...]:
    """Return a row per item, as its columns read it."""
    return tuple({column.key: column.value(item) for column in columns} for item in items)


def files(table: Table) -> dict[str, str]:
    """Return the table as ``<name>.csv``, ``.json`` and ``.md``: fractions as fractions, nothing rounded but in markdown."""

    every = (*table.rows, *table.foot)
    header, rows = flat(table)
    plain = [{column.key: to_json(row.get(column.key)) for column in table.columns} for row in every]
    text = json.dumps({"title": table.title, "note": table.note, "rows": plain}, indent=1, ensure_ascii=False)
    return {
        f"{table.name}.csv": csv_text(header, rows),
        f"{table.name}.json": text + "\n",
        f"{table.name}.md": markdown_table(table),
    }


def flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows with nothing nested: an interval is two further columns ``<key>_low`` and ``<key>_high``, and
    ``<key>_p`` and ``<key>_p_holm`` where tests are corrected for each other.
    """
    every = (*table.rows, *table.foot)
    parts = {column.key: ["value"] for column in table.columns}
    for key, of in parts.items():
        cells = [row.get(key) for row in every]
        of += [part for part in ("low", "high", "sd") if any(hasattr(one, part) for one in cells)]
        of += [part for part in ("p", "p_holm") if any(getattr(one, "p_holm", None) is not None for one in cells)]
    header = [key if part == "value" else f"{key}_{part}" for key, of in parts.items() for part in of]
    return header, [[_plain(row.get(key), part) for key, of in parts.items() for part in of] for row in every]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return comma-separated lines."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _plain(value: Any, part: str) -> Any:
    if isinstance(value, list):
        return " ".join(value)
    return number(value) if part == "value" else getattr(value, part, None)


def markdown_table(shown: Table) -> str:
    """Return a table of a report as markdown, its title above and its note below."""
    note = f"\n{cell(shown.note)}\n" if shown.note else ""
    return f"## {cell(shown.title)}\n\n{markdown_rows(shown)}{note}"


def markdown_rows(shown: Table) -> str:
    """Return a table as markdown without what stands around it."""
    columns = [column for column in shown.columns if column.kind != "bar"]
    rows = [[_written(row.get(column.key), column) for column in columns] for row in (*shown.rows, *shown.foot)]
    right = [place for place, column in enumerate(columns) if place and column.kind not in ("text", "rows")]
    return table([cell(column.head) for column in columns], rows, right)


def text_table(shown: Table) -> str:
    """Return a table for the terminal."""
    columns = [column for column in shown.columns if column.kind != "bar"]
    rows = [tuple(in_words(row.get(column.key), column) for column in columns) for row in shown.rows]
    left = [place for place, column in enumerate(columns) if column.kind == "text"]
    return align_columns([tuple(column.head for column in columns), *rows], left)


def align_columns(rows: Sequence[Sequence[str]], left: Collection[int] = (0,), gap: str = "  ") -> str:
    """Return rows as columns, the first row as the heading: those at the places `left` to the left, others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append(
            gap.join(f"{one:<{width}}" if place in left else f"{one:>{width}}" for place, (one, width) in cells)
        )
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def written(value: float, kind: str) -> str:
    """Return a number as its kind of column shows it: text, count, percent, fine, points, brief, number, p or duration."""
    if kind == "percent":
        # 0.03 % is not 0.0 %.
        return percent(value, 3) if 0 < abs(value) < 0.001 else percent(value)
    if kind == "fine":
        return percent(value, 3)
    if kind == "number":
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    if kind == "count":
        return f"{value:,}".replace(",", "\u202f")
    write = {"points": points, "brief": points, "duration": duration, "p": p_number}
    return write.get(kind, str)(value)


def interval(value: Any, kind: str) -> str:
    """Return the interval of a cell as its kind of column shows it, and its note; "" where it has none."""
    low, high = getattr(value, "low", None), getattr(value, "high", None)
    found = "" if low is None or high is None or kind == "brief" else f"[{written(low, kind)}, {written(high, kind)}]"
    note = getattr(value, "note", "")
    return " ".join(filter(None, (found, note and f"({note})")))


def tone(value: Any) -> str:
    """Return better, worse or same of a difference whose p is corrected for the tests around it; "" of anything else."""
    if not isinstance(value, Gain) or value.p_holm is None or value.value is None:
        return ""
    return "same" if not value.beyond_chance else "better" if value.value > 0 else "worse"


def hover(value: Any) -> str:
    """Return what a page tells of such a difference when it is pointed at: its rows, interval and p; "" of anything else."""
    if not tone(value):
        return ""
    only = "" if value.only_a is None else f"; right only here {value.only_a}, only there {value.only_b}"
    tested = f"p {p_value(value.p)}, corrected {p_value(value.p_holm)}"
    return f"{value.n} rows{only}; {interval(value, 'points')}; {tested}"


def number(value: Any) -> Any:
    """Return a cell less its interval or deviation."""
    return getattr(value, "value", value)


def in_words(value: Any, column: Column) -> str:
    """Return a cell as text: its number with the interval, its text, or the row ids in it."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, Mean):
        return str(value)
    plain = number(value)
    if plain is None or isinstance(plain, str):
        return plain or "–"
    return " ".join(
        filter(
            None,
            (written(plain, column.kind) + "*" * (tone(value) in ("better", "worse")), interval(value, column.kind)),
        )
    )


def _written(value: Any, column: Column) -> str:
    text = in_words(value, column)
    return text if isinstance(value, Rate | Mean | int | float) else cell(text)


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
