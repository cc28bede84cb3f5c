"""What a row of predictions must hold to be reported, whoever wrote it: its columns, their meaning, and what stands in for them.

Predictions of another tool need three columns, under whatever names (`--columns`); what else they hold is ignored.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import half_line, read_jsonl


@dataclass(frozen=True)
class PredictionColumn:
    """A column of predictions.jsonl. `kinds` are the types its values have; `otherwise` says what holds without it."""

    name: str
    meaning: str
    kinds: tuple[type, ...] = (str,)
    otherwise: str = ""
    """Empty: it is required."""


COLUMNS = (
    PredictionColumn("id", "what tells a row from the others; the same in every model's file", (str, int)),
    PredictionColumn("gold", "the right answer; null where it is not published", (str, int, float, bool, type(None))),
    PredictionColumn(
        "label", "the answer that was read; null or empty where none could be", (str, int, float, bool, type(None))
    ),
    PredictionColumn(
        "correct",
        "whether the answer is right, also 1 or 0",
        (bool, int, float, type(None)),
        "label is spelled as gold",
    ),
    PredictionColumn("completion", "the whole text the model wrote", (str, type(None)), "the label"),
    PredictionColumn("prompt", "the whole text it was asked", (str, type(None)), "not shown"),
    PredictionColumn("question", "the row's own question", (str, type(None)), "all rows are asked the same"),
    PredictionColumn("options", "what there is to choose from", (list, type(None)), "none; chance is of the labels"),
    PredictionColumn(
        "image", "path of the picture, from here or from the folder's parent", (str, type(None)), "no picture"
    ),
    PredictionColumn("style", "think (reasoning, then an answer) or direct", (str, type(None)), "direct"),
    PredictionColumn("decoding", "greedy or sample", (str, type(None)), "greedy"),
    PredictionColumn("sample", "number of the sample of a row", (int, type(None)), "0"),
    PredictionColumn("think", "the reasoning alone", (str, type(None)), "none"),
    PredictionColumn("reason", "why no answer could be read", (str, type(None)), "unknown"),
    PredictionColumn("truncated", "whether the text was cut at the token limit", (bool, type(None)), "not told"),
    PredictionColumn("completion_tokens", "tokens the model wrote", (int, float, type(None)), "not told"),
    PredictionColumn("seconds", "time it took", (int, float, type(None)), "not told"),
    PredictionColumn("logprob", "mean log probability of the tokens", (int, float, type(None)), "no calibration"),
    PredictionColumn("groups", "name: value of the groups it is in", (dict, type(None)), "no groups"),
    PredictionColumn("exact_trace", "whether the reasoning's steps are the true ones", (bool, type(None)), "not told"),
    PredictionColumn("cluster", "rows of one cluster share a picture", (str, type(None)), "rows are independent"),
)
"""Every column a report reads of predictions.jsonl, in the order the guide lists them."""
_KNOWN = {column.name: column for column in COLUMNS}
_SAID = (True, False, None)
_STAND_IN: dict[str, Any] = {"style": "direct", "decoding": "greedy", "sample": 0}


def parse_columns(text: str) -> dict[str, str]:
    """Return ``label=prediction,gold=answer`` as {ours: theirs}.

    Raises:
        UserError: naming every pair that is none, and every column that no report reads.
    """
    found: dict[str, str] = {}
    problems = []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not equals or not theirs:
            problems.append(f"--columns: {pair!r} must read COLUMN=THEIR_NAME, for example label=prediction")
        elif ours not in _KNOWN:
            problems.append(f"--columns: no report reads a column {ours!r}; it reads {', '.join(_KNOWN)}")
        else:
            found[ours] = theirs
    if problems:
        raise UserError(problems)
    return found


def read_predictions(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a predictions.jsonl with every column a report needs.

    Args:
        path: the file.
        columns: {ours: theirs} of those that it calls otherwise.

    Raises:
        UserError: naming every column that is missing, and every one whose values are of a wrong kind, with the first row.
    """
    try:
        rows: list[Any] = [*read_jsonl(path), *_unended(path)]
    except ValueError as error:
        raise UserError(str(error)) from error
    strange = [number for number, row in enumerate(rows, 1) if not isinstance(row, dict)]
    if strange:
        raise UserError(f"{path}:{strange[0]}: {len(strange)} of {len(rows)} lines are no JSON objects")
    rows = [{key: _told(value) for key, value in row.items()} for row in rows]
    for row in rows:
        row |= {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    problems = list(_problems(rows, columns))
    if problems:
        raise UserError([f"{path}: its rows are no predictions: {problem}" for problem in problems])
    return [_complete(row) for row in rows]


def _unended(path: Path) -> list[Any]:
    """The row of a last line without a newline, which many tools write; none where a killed writer left half of one."""
    if not path.exists():
        return []
    try:
        return [json.loads(half_line(path))]
    except ValueError:
        return []


def _told(value: Any) -> Any:
    """A value as a report can write it: None for NaN, by which tables say that there is none, and no half characters."""
    if isinstance(value, str):
        # JSON can escape half of a pair, and names of files hold bytes that are no text; UTF-8 has neither.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {_told(key): _told(one) for key, one in value.items()}
    return [_told(one) for one in value] if isinstance(value, list) else value


def _problems(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    found, held = [], Counter(key for row in rows for key in row)
    for column in COLUMNS:
        theirs = columns.get(column.name)
        if theirs is not None and not held[theirs]:
            found.append(f"no row has a column {theirs!r} (for {column.name}); rows have {', '.join(sorted(held))}")
        elif not column.otherwise and held[column.name] < len(rows):
            number = next(place for place, row in enumerate(rows, 1) if column.name not in row)
            found.append(
                f"{len(rows) - held[column.name]} of {len(rows)} rows have no {column.name!r} ({column.meaning}), first "
                f"line {number}; give it, or say what it is called: --columns {column.name}=NAME"
            )
        wrong = [
            (number, row[column.name])
            for number, row in enumerate(rows, 1)
            if column.name in row and not isinstance(row[column.name], column.kinds)
        ]
        if column.name == "correct" and not wrong:
            # A score between says how much of an answer is right, which no count of right answers can hold.
            parts = [(number, row["correct"]) for number, row in enumerate(rows, 1) if row.get("correct") not in _SAID]
            if parts:
                number, value = parts[0]
                found.append(
                    f"'correct' must be true or false, 1 or 0; in {len(parts)} rows it is not, first line {number}: {value}"
                )
        if wrong:
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in column.kinds)
            number, value = wrong[0]
            found.append(
                f"{column.name!r} must be {kinds}; in {len(wrong)} rows it is not, first line {number}: {value!r:.60}"
            )
    return found


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what stands in for columns it lacks. Answers and ids are texts."""
    row["id"] = str(row["id"])
    for key in ("gold", "label"):
        row[key] = row[key] if row[key] is None or isinstance(row[key], str) else str(row[key])
    # Of an empty text nothing can be read.
    row["label"] = row["label"] if row["label"] and row["label"].strip() else None
    for key, value in _STAND_IN.items():
        if row.get(key) is None:
            row[key] = value
    if row.get("correct") is None:
        row["correct"] = row["label"] is not None and row["label"] == row["gold"]
    if row.get("completion") is None:
        row["completion"] = row["label"] or ""
    return row
