"""The report as one self-contained page: charts and pictures inside it, every text escaped, nothing fetched.

Completions are hostile text. They reach the page through Jinja's autoescaping or as JSON that its one script turns into text
nodes; a strict Content-Security-Policy allows that script and its style sheet, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline.formatting import duration, percent, points, printable
from pipeline.reports import svg_charts
from pipeline.reports.entries import Entry
from pipeline.reports.prediction_browser import as_json
from pipeline.reports.report_tables import per_class
from pipeline.reports.table import Column, Table, mean_sd, written

__all__ = [
    "TEMPLATES",
    "THUMBNAIL",
    "colours",
    "duration",
    "page",
    "percent",
    "points",
    "printable",
    "render",
    "templates",
]

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 128
"""Longest side of a picture in a table of completions, in pixels."""
_MATRIX_CLASSES = 25
_BAR_ENTRIES, _BAR_CLASSES = 8, 30
_STAGES = (2, 3, 4, 6, 5, 7)  # Colours of what is neither base nor baseline, in turn: blues that deepen first.
_OTHERS = (3, 5, 6, 1, 7, 2, 4, 0)  # Of entries that are no stages: as unlike as can be.


def page(
    summary: Mapping[str, Any],
    entries: Sequence[Entry],
    tables: Mapping[str, Table],
    browser: Mapping[str, Any] | None,
    notes: Sequence[str],
) -> str:
    """The whole page of a report.

    Args:
        summary: what `report_data.summarise` said.
        entries: the entries behind it, for their logs.
        tables: what `report_tables.tables` made of it.
        browser: what `report_browser.browser` made of the predictions.
        notes: how to read it.
    """
    evaluated = [row for row in summary["entries"] if row["scores"]]
    return render(
        "report.html.jinja",
        summary=summary,
        evaluated=evaluated,
        tables=tables,
        charts=_charts(summary, entries),
        details=[
            {"name": row["name"], "scores": row["scores"], "table": per_class(row["name"], row["scores"])}
            for row in evaluated
            if "per_class" in row["scores"]
        ],
        group_tables=[table for name, table in tables.items() if name.startswith("group_")],
        matrix_classes=_MATRIX_CLASSES,
        browser=browser,
        notes=notes,
    )


def render(template: str, browser: Mapping[str, Any] | None, **values: Any) -> str:
    """A page from one of the templates, with its style sheet, script and the browser's data inside."""
    environment = templates()
    environment.filters |= {"pct": percent, "cell": _cell, "heat": _heat}
    # Their digests stand in the page's policy, so nothing may change them after this.
    style, script = (_lines(environment.get_template(name).render()) for name in ("_page.css.jinja", "_page.js.jinja"))
    data = dict(browser) if browser else None
    pictures = as_json(data.pop("pictures")) if data else None
    text = environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        digests={"style": _digest(style), "script": _digest(script)},
        data=Markup(as_json(data)) if data else None,
        pictures=Markup(pictures) if pictures else None,
        browser=browser,
        **values,
    )
    return _lines(text) + "\n"


def templates() -> Any:
    """The Jinja environment of pipeline/templates; every text is escaped, and rid of what a browser or an encoder trips over."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def colours(entries: Sequence[Entry]) -> dict[str, int]:
    """A colour of `svg` per entry: grey for the base, orange for the baseline, others in turn."""
    others = [entry.name for entry in entries if not entry.is_base and not entry.is_baseline]
    hues = _OTHERS if len(others) == len(entries) else _STAGES
    turn = {name: hues[place % len(hues)] for place, name in enumerate(others)}
    return {entry.name: 0 if entry.is_base else 1 if entry.is_baseline else turn[entry.name] for entry in entries}


def _charts(summary: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, Any]:
    """Every chart that has something to show, as markup; and ``series``, the legend of the entries."""
    colour = colours(entries)
    rows = [(row["name"], row["scores"]) for row in summary["entries"] if row["scores"]]
    series = [(name, colour[name]) for name, _ in rows]
    classed = [(name, scores) for name, scores in rows if "per_class" in scores]
    sure = [(name, colour[name], scores["calibration"]["bins"]) for name, scores in rows if scores["calibration"]]
    charts = {
        "accuracy": svg_charts.intervals(
            [
                (
                    name,
                    colour[name],
                    [scores["accuracy"], *([scores["sample"]["accuracy"]] if scores["sample"] else [])],
                )
                for name, scores in rows
            ],
            _marks([scores for _, scores in rows]),
        ),
        "reliability": svg_charts.reliability(sure),
        "length": _length_charts(rows, colour),
        "training": _training(entries),
        "clip": _clip(entries),
        "cot": _cot(summary["cot"]),
    }
    if classed and len(classed) <= _BAR_ENTRIES and len(summary["labels"]) <= _BAR_CLASSES:
        names = list(summary["labels"])
        f1 = [
            (name, colour[name], [(scores["per_class"].get(label) or {}).get("f1-score") for label in names])
            for name, scores in classed
        ]
        charts["f1"] = svg_charts.bars(names, f1)
    drawn: dict[str, Any] = {name: chart for name, chart in charts.items() if chart}
    return {**drawn, "series": svg_charts.legend(series)}


def _marks(scores: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Lines of what knowing nothing earns, where that is the same for all entries."""
    chances = {one["chance"] for one in scores}
    majorities = {(one.get("baselines") or {}).get("majority", {}).get("accuracy") for one in scores}
    marks = [(*chances, "chance"), (*majorities, "majority class")]
    return [(mark[0], mark[1]) for mark in marks if len(mark) == 2 and mark[0] is not None]


def _length_charts(rows: Sequence[tuple[str, Mapping[str, Any]]], colour: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "chart": svg_charts.intervals(
                [(_words(one), colour[name], [one["accuracy"]]) for one in scores["by_length"]]
            ),
        }
        for name, scores in rows
        if scores["by_length"]
    ]


def _words(one: Mapping[str, Any]) -> str:
    return f"{one['from']} – {one['to']} words" if one["from"] < one["to"] else f"{one['from']} words"


def _training(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Loss, and rewards or token accuracy, over the steps of every trained stage."""
    found = []
    for entry in _one_per_phase(entries):
        rewards = sorted(
            {key for row in entry.log for key in row if key.startswith("rewards/") and key.endswith("/mean")}
        )
        named = {key: key.split("/")[1].removesuffix("_reward") for key in rewards}
        if len(named) > 1:
            named["reward"] = "total"
        curves = _series(entry.log, named or {"mean_token_accuracy": "token accuracy"})
        loss = svg_charts.lines(_series(entry.log, {"loss": "loss"}))
        if loss:
            found.append(
                {
                    "name": entry.name,
                    "loss": loss,
                    "curves": svg_charts.lines(curves),
                    "legend": svg_charts.legend([(name, colour) for name, colour, _ in curves]),
                    "what": "mean reward" if named else "token accuracy",
                }
            )
    return found


def _clip(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Both clip fractions over the steps of every stage that was to clip."""
    from pipeline.reports.summary import clip_of

    keys = {"clip_ratio/low_mean": "low: r < 1 − ε_low, A < 0", "clip_ratio/high_mean": "high: r > 1 + ε_high, A > 0"}
    found = []
    for entry in _one_per_phase(entries):
        if clip := clip_of(entry.record):
            curves = _series(entry.log, keys, scale=100)
            chart = svg_charts.lines(curves, width=svg_charts.WIDTH, share=True)
            key = svg_charts.legend([(name, colour) for name, colour, _ in curves])
            found.append({"name": entry.name, **clip, "chart": chart, "legend": key})
    return found


def _cot(yields: Mapping[str, Any] | None) -> str:
    """Kept and rejected CoT rows per class."""
    if not yields or not yields["per_class"]:
        return ""
    table = yields["per_class"]
    series = [(kind, colour, [row[kind] for row in table.values()]) for kind, colour in (("kept", 3), ("rejected", 5))]
    return Markup(
        svg_charts.legend([(kind, colour) for kind, colour, _ in series])
        + svg_charts.bars(list(table), series, stacked=True)
    )


def _series(
    log: Sequence[Mapping[str, Any]], keys: Mapping[str, str], scale: float = 1
) -> list[tuple[str, int, list[tuple[float, float]]]]:
    """(name, colour, points) of the keys that occur in a log."""
    found = []
    for place, (key, name) in enumerate(keys.items()):
        values = [(row["step"], scale * row[key]) for row in log if isinstance(row.get(key), int | float)]
        if values:
            found.append((name, (3, 5, 6, 7, 2, 1)[place % 6], values))
    return found


def _one_per_phase(entries: Sequence[Entry]) -> list[Entry]:
    return list({entry.phase: entry for entry in reversed(entries)}.values())[::-1]


def _cell(value: Any, column: Column) -> dict[str, Any]:
    """How a cell stands in the page: ``text``, ``interval``, ``sort`` (what it is sorted by), ``links`` (ids of rows)."""
    of = value if isinstance(value, Mapping) else {"value": value}
    value = of.get("value")
    shown: dict[str, Any] = {"text": "–", "interval": "", "sort": "", "links": [], "value": value}
    if value is None:
        return shown
    if column.kind == "rows":
        return {**shown, "links": [{"id": row_id, "href": f"#row={quote(row_id, safe='')}"} for row_id in value]}
    if isinstance(value, str):
        return {**shown, "text": value, "sort": value}
    if column.kind == "mean":
        return {**shown, "text": mean_sd(of), "sort": f"{value:.12g}"}
    if of.get("low") is not None:
        shown["interval"] = f"[{written(of['low'], column.kind)}, {written(of['high'], column.kind)}]"
    return {**shown, "text": written(value, column.kind), "sort": f"{value:.12g}"}


def _heat(share: float | None) -> str:
    """The class that shades a share: h0 … h10."""
    return f"h{round(10 * min(max(share or 0.0, 0.0), 1.0))}"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _lines(text: str) -> str:
    """Text without blank lines: applied twice, it changes nothing."""
    return "\n".join(line for line in text.split("\n") if line.strip())
