"""The report as one self-contained page: charts and pictures inside it, every text escaped, nothing fetched.

Completions are hostile text. They reach the page through Jinja's autoescaping or as JSON that its one script turns into text
nodes; a strict Content-Security-Policy allows that script and its style sheet, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline.formatting import percent, printable
from pipeline.reports.charts import Chart
from pipeline.reports.class_tables import per_class
from pipeline.reports.entries import Entry
from pipeline.reports.prediction_browser import as_json
from pipeline.reports.report_charts import length_charts, on_page
from pipeline.reports.summary import Clip, Summary, clip_of
from pipeline.reports.table import Column, Mean, Table, hover, interval, number, tone, written

_TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 128
"""Longest side of a picture in a table of completions, in pixels."""
_MATRIX_CLASSES = 25


def page(
    summary: Summary,
    entries: Sequence[Entry],
    tables: Mapping[str, Table],
    charts: Mapping[str, Chart],
    browser: Mapping[str, Any] | None,
    notes: Sequence[str],
) -> str:
    """Return the whole page of a report.

    Args:
        summary: what `summary.summarise` said.
        entries: the entries behind it, for their logs.
        tables: what `report_tables.tables` made of it.
        charts: what `report_charts.report_charts` drew of it.
        browser: what `prediction_browser.browser` made of the predictions.
        notes: how to read it.
    """
    results, common = without_common(tables["results"], ("chance", "n", "unusable"))
    return render(
        "report.html.jinja",
        browser,
        title=f"{summary.title} – report",
        results=results.less("macro_recall") if summary.balanced else results,
        common=common,
        balanced=summary.balanced,
        summary=summary,
        evaluated=summary.evaluated,
        tables=tables,
        charts={name: chart.svg() for name, chart in charts.items() if on_page(name, summary)},
        length_charts=[{"name": name, "chart": chart.svg()} for name, chart in length_charts(summary, entries)],
        clips=_clips(entries),
        details=[
            {"name": row.name, "scores": scores, "table": per_class(row.name, scores.classes)}
            for row, scores in summary.evaluated
            if scores.classes
        ],
        group_tables=[table for name, table in tables.items() if name.startswith("group_")],
        matrix_classes=_MATRIX_CLASSES,
        notes=notes,
    )


def without_common(table: Table, keys: Sequence[str]) -> tuple[Table, str]:
    """Return a table less those of its columns `keys` in which all rows that have a value have the same, and those in words.

    A page is no wider than a screen; its files keep every column.
    """
    said = []
    kept = list(table.columns)
    for column in [column for column in table.columns if column.key in keys]:
        values = {row[column.key] for row in table.rows if row[column.key] is not None}
        if len(values) == 1 and len(table.rows) > 1:
            kept.remove(column)
            said.append(
                f"{column.head.removesuffix(', %')} {written(values.pop(), column.kind)}{' %' * column.head.endswith('%')}"
            )
    return dataclasses.replace(table, columns=tuple(kept)), ", ".join(said)


def _clips(entries: Sequence[Entry]) -> list[tuple[str, Clip]]:
    """The clip ranges and fractions of every stage that was to clip, once per phase."""
    phases = {entry.phase: entry for entry in reversed(entries)}
    found = [(entry.name, clip) for entry in phases.values() if (clip := clip_of(entry.record))]
    return found[::-1]


def render(
    template: str,
    browser: Mapping[str, Any] | None = None,
    *,
    style: str = "_report.css.jinja",
    script: str | None = "_page.js.jinja",
    folder: Path | None = None,
    more_filters: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """Return a page that extends templates/_base.html.jinja: its style sheet, script and the browser's data are inside.

    Text in `values` is escaped, and rid of what a browser or an encoder trips over.

    Args:
        template: the page's.
        browser: what `prediction_browser.browser` made, for pages that have one.
        style: the template of what it adds to the style sheet of all pages.
        script: the template of its script; None for a page without.
        folder: of more templates.
        more_filters: functions that the template writes values with, by name.
        values: what the template reads.
    """
    environment = _environment(folder)
    environment.filters |= {"pct": percent, "cell": _cell, "heat": _heat, **(more_filters or {})}
    # Their digests stand in the page's policy, so nothing may change them after this.
    sheet, code = (
        _lines("".join(environment.get_template(name).render() for name in names if name))
        for names in (("_page.css.jinja", style), (script,))
    )
    data = dict(browser) if browser else None
    pictures = as_json(data.pop("pictures")) if data else None
    text = environment.get_template(template).render(
        style=Markup(sheet),
        script=Markup(code),
        digests={"style": _digest(sheet), "script": _digest(code)},
        data=Markup(as_json(data)) if data else None,
        pictures=Markup(pictures) if pictures else None,
        browser=browser,
        **values,
    )
    return _lines(text) + "\n"


@cache
def _environment(folder: Path | None) -> Any:
    """The templates, each compiled once for all pages of a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([*([folder] if folder else []), _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _cell(value: Any, column: Column) -> dict[str, Any]:
    """How a cell stands in the page: ``text``, ``interval``, ``sort`` (what it is sorted by), ``links`` (ids of rows), and of a
    difference that was tested ``tone`` and ``hover``.
    """
    plain = number(value)
    shown: dict[str, Any] = {"text": "–", "interval": "", "sort": "", "links": [], "value": plain}
    shown |= {"tone": tone(value), "hover": hover(value)}
    if plain is None:
        return shown
    if column.kind == "rows":
        # As the browser of the page calls them.
        ids = map(printable, plain)
        return {**shown, "links": [{"id": row_id, "href": f"#row={quote(row_id, safe='')}"} for row_id in ids]}
    if isinstance(plain, str):
        return {**shown, "text": plain, "sort": plain}
    if column.kind == "bar":
        return {**shown, "sort": plain[0]}
    text = str(value) if isinstance(value, Mean) else written(plain, column.kind)
    return {**shown, "text": text, "interval": interval(value, column.kind), "sort": f"{plain:.12g}"}


def _heat(share: float | None) -> str:
    """The class that shades a share: h0 … h10."""
    return f"h{round(10 * min(max(share or 0.0, 0.0), 1.0))}"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _lines(text: str) -> str:
    """Text without blank lines: applied twice, it changes nothing."""
    return "\n".join(line for line in text.split("\n") if line.strip())
