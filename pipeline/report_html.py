"""The report as one self-contained page: charts and pictures inside it, every text escaped, nothing fetched.

Completions are hostile text. They reach the page only through Jinja's autoescaping, after `printable` has taken out what
a browser or an encoder could trip over.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.metrics import Prediction
from pipeline.report_data import Entry, p_value

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 128
"""Longest side of an inlined picture, in pixels."""
_SHOWN_CHARACTERS = 1500
_MATRIX_CLASSES = 25


def page(
    summary: Mapping[str, Any], entries: Sequence[Entry], charts: Mapping[str, bytes], root: Path, examples: int
) -> str:
    """The whole HTML page.

    Args:
        summary: what `report_data.summarise` said.
        entries: the entries behind it, for their predictions.
        charts: PNG bytes per chart name.
        root: where relative image paths start when they do not exist from here.
        examples: pictures per entry and kind (right, wrong, without a label).
    """
    environment = templates()
    environment.filters |= {"pct": percent, "points": points, "duration": duration, "p_value": p_value}
    thumbnail = cache(lambda path: picture(path, root))
    text = environment.get_template("report.html.jinja").render(
        summary=summary,
        evaluated=[row for row in summary["entries"] if row["scores"]],
        charts={name: _data_uri(png) for name, png in charts.items()},
        galleries=[
            {"name": entry.name, "kinds": _with_pictures(choose(entry.predictions, examples), thumbnail)}
            for entry in entries
            if entry.scores
        ],
        side_by_side=_side_by_side(entries, thumbnail),
        matrices=len(summary["labels"]) <= _MATRIX_CLASSES,
        confused=_confused,
    )
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def templates() -> Any:
    """The Jinja environment of pipeline/templates; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def choose(predictions: Sequence[Prediction], count: int) -> dict[str, list[dict[str, Any]]]:
    """Up to `count` greedy rows that are right, wrong and without a label, by a hash of their id.

    The choice depends on nothing but the ids, so it is the same on every run and shares pictures between stages.
    """
    kinds: dict[str, list[dict[str, Any]]] = {"right": [], "wrong": [], "no label": []}
    for row in sorted((row for row in predictions if row["decoding"] == "greedy"), key=_order):
        kind = "no label" if row["label"] is None else "right" if row["label"] == row["gold"] else "wrong"
        if len(kinds[kind]) < count:
            kinds[kind].append(_shown(row))
    return {kind: rows for kind, rows in kinds.items() if rows}


def picture(path: str, root: Path) -> str | None:
    """A picture as a data: URI of at most `THUMBNAIL` pixels a side, or None when it cannot be read."""
    from PIL import Image

    for candidate in (Path(path), root / path):
        try:
            with Image.open(candidate) as image:
                image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # JPEG decodes straight to a smaller size
                small = image.convert("RGB")
                small.thumbnail((THUMBNAIL, THUMBNAIL))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", optimize=True)
        return _data_uri(buffer.getvalue())
    return None


def printable(text: str) -> str:
    """Text without what cannot be shown or encoded: controls, lone surrogates and direction overrides become �."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cf") and c not in "\n\t\u200d" else c for c in text
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent without the sign; a dash when undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A difference of shares in signed percentage points."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 34 s, 3.7 min, 2.1 h."""
    if seconds is None:
        return "–"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _side_by_side(entries: Sequence[Entry], thumbnail: Any, count: int = 4) -> list[dict[str, Any]]:
    """A few pictures, of different classes while there are any, with every entry's answer to each."""
    answers = {
        entry.name: {row["id"]: row for row in entry.predictions if row["decoding"] == "greedy"}
        for entry in entries
        if entry.scores
    }
    if len(answers) < 2:
        return []
    common = set.intersection(*(set(rows) for rows in answers.values()))
    first = next(iter(answers.values()))
    rows = sorted((first[row_id] for row_id in common), key=_order)
    by_class: dict[str, list[Prediction]] = {}
    for row in rows:
        by_class.setdefault(row["gold"], []).append(row)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_class.values()))
    chosen = [row for row in turns if row is not None][:count]
    return [
        {
            "id": printable(row["id"]),
            "gold": row["gold"],
            "picture": thumbnail(row["image"]),
            "answers": [{"name": name, **_shown(rows[row["id"]])} for name, rows in answers.items()],
        }
        for row in chosen
    ]


def _with_pictures(kinds: dict[str, list[dict[str, Any]]], thumbnail: Any) -> dict[str, list[dict[str, Any]]]:
    return {kind: [{**row, "picture": thumbnail(row["image"])} for row in rows] for kind, rows in kinds.items()}


def _shown(row: Prediction) -> dict[str, Any]:
    text = printable(row["completion"])
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(row['completion'])} characters)"
    return {
        "id": printable(row["id"]),
        "image": row["image"],
        "gold": row["gold"],
        "label": row["label"],
        "reason": row.get("reason"),
        "right": row["label"] == row["gold"],
        "text": text.strip() or "(nothing)",
        "truncated": bool(row.get("truncated")),
    }


def _confused(scores: Mapping[str, Any], count: int = 10) -> list[tuple[str, str, int, float]]:
    """The commonest wrong answers: (gold, answer, rows, share of the gold class)."""
    table = scores["confusion"]
    pairs = [
        (gold, answer, row[x], row[x] / sum(row))
        for gold, row in zip(table["rows"], table["counts"], strict=True)
        for x, answer in enumerate(table["columns"])
        if answer != gold and row[x]
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))[:count]


def _order(row: Prediction) -> tuple[bytes, str]:
    return hashlib.sha256(row["id"].encode(errors="replace")).digest(), row["id"]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
