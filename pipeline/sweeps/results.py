"""What a sweep found, from its cells' folders alone: one row per cell, groups, and tests between the cells of a task.

The same folders give the same results, byte for byte; only `rows.TIMED` columns differ between two sweeps that ask the same.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.config.evaluation import Cell, LabConfig, cell_folder, cells, cost
from pipeline.files import read_jsonl
from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.paired_tests import Paired, group_changes, holm, judged, paired
from pipeline.metrics.power import minimum_detectable_difference
from pipeline.metrics.rotations import Rotations
from pipeline.metrics.scores import Gain
from pipeline.metrics.stored import from_json
from pipeline.sweeps import studies
from pipeline.sweeps.rows import (
    COLUMNS,
    TIMED,
    CellPair,
    CellRow,
    Detectable,
    GroupRow,
    OfficialRow,
    RotationRow,
    SeeingRow,
    SweepResults,
    TaskPairs,
    names,
)

EVALUATION, FAILURE, PREDICTIONS = "evaluation.json", "failure.json", "predictions.jsonl"
_REASON = 300
"""Most characters of a failure's last line in a table; failure.json has all."""


Answers = list[dict[str, Any]]
"""The greedy rows of a cell, of each no more than the tables and tests need."""


@dataclass(frozen=True)
class Planned:
    """What is known of a cell before it is asked: bytes it should need, why it is not started, if it is not, and the model's
    parameters.
    """

    bytes: int | None = None
    refused: str | None = None
    parameters: int | None = None


@dataclass
class Cells:
    """Reads cells; a predictions file is read, and tested against others, again only when it has changed."""

    config: LabConfig
    planned: Mapping[str, Planned] = field(default_factory=dict)
    _read: dict[Path, tuple[tuple[int, int], Answers]] = field(default_factory=dict)
    _made: dict[tuple[str, ...], tuple[tuple[Answers, ...], Any]] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """Return every cell."""
        return cells(self.config)

    def folder(self, cell: Cell) -> Path:
        """Return where a cell keeps its predictions and figures."""
        return cell_folder(self.config, cell)

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """Return a cell's evaluation.json, complete or not; None before it is begun."""
        return _json(self.folder(cell) / EVALUATION)

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        """Return how a cell's last attempt failed; None when it did not."""
        return _json(self.folder(cell) / FAILURE)

    def answers(self, cell: Cell) -> Answers:
        """Return the greedy rows of a cell."""
        path = self.folder(cell) / PREDICTIONS
        if not path.exists():
            return []
        status = os.stat(path)
        stamp = (status.st_size, status.st_mtime_ns)
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = (stamp, [_light(row) for row in read_jsonl(path) if row["decoding"] == "greedy"])
        return self._read[path][1]

    def paired(self, a: Cell, b: Cell) -> Paired:
        """Return the test between the answers of two cells."""
        found: Paired = self.once("paired", paired, a, b)
        return found

    def once(self, what: str, make: Callable[..., Any], *of: Cell) -> Any:
        """Return what is made of the answers of cells; made again only when these have changed."""
        rows = tuple(self.answers(cell) for cell in of)
        key = (what, *(cell.id for cell in of))
        if key not in self._made or any(a is not b for a, b in zip(self._made[key][0], rows, strict=True)):
            self._made[key] = (rows, make(*rows))
        return self._made[key][1]

    def size(self, cell: Cell) -> float | None:
        """Return millions of parameters of a cell's model; None where they are not known."""
        return _mb(self.planned.get(cell.id, Planned()).parameters)

    def row(self, cell: Cell) -> CellRow:
        """Return one line of the table."""
        record, failure, planned = self.record(cell), self.failure(cell), self.planned.get(cell.id, Planned())
        status, reason = "pending", None
        complete = record is not None and record.get("status") == "complete" and not failure
        if complete:
            status = "complete"
        elif failure:
            # Also of a complete cell whose worker then found that what it depends on has changed.
            status, reason = "failed", failure.get("reason", "")[:_REASON]
        elif planned.refused:
            status, reason = "refused", planned.refused
        elif record:
            status = "interrupted"
        known = {**names(cell), "status": status, "reason": reason, "cell": cell.id}
        known |= {"memory_estimated_mb": _mb(planned.bytes), "parameters_m": self.size(cell)}
        if complete and record is not None:
            known |= _figures(record, self.answers(cell), planned)
            known["cost"] = _rounded(cost(self.config, cell, known["prompt_tokens"], known["tokens"]))
        return CellRow(**{**dict.fromkeys(COLUMNS), **known})

    def groups(self, cell: Cell) -> list[GroupRow]:
        """Return one line per group of a complete cell's rows, such as task Count or source COCO."""
        found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for row in judged(self.answers(cell)):
            for group, value in row["groups"].items():
                found[group, str(value)].append(row)
        return [
            GroupRow(**names(cell), group=group, value=value, **_rate(rows))
            for (group, value), rows in sorted(found.items())
        ]

    def official(self, cell: Cell) -> list[OfficialRow]:
        """Return one line per score that the benchmark's own formula gives a complete cell."""
        scores = (self.record(cell) or {}).get("official") or {}
        return [OfficialRow(**names(cell), score=name, official=round(value, 6)) for name, value in scores.items()]

    def rotations(self, cell: Cell) -> list[RotationRow]:
        """Return what became of a complete cell's questions in several orders: one line, or none."""
        known = (self.record(cell) or {}).get("rotations") or {}
        if not known.get("questions"):
            return []
        found = from_json(Rotations, known)
        return [
            RotationRow(
                **names(cell),
                orders=known["orders"],
                questions=found.questions,
                once=sum(known["once"].values()),
                accuracy=found.accuracy,
                own_order=found.by_order[0],
                consistent=found.consistent,
                all_right=found.all_right,
            )
        ]

    def seeing(self, cell: Cell) -> list[SeeingRow]:
        """Return what seeing is worth, of a complete blind cell and the direct one beside it: on all rows, then per group."""
        direct, blind = self.answers(replace(cell, mode="direct")), self.answers(cell)
        whole = self.paired(replace(cell, mode="direct"), cell)
        if not whole.n:
            return []
        unreadable = Counter(
            key
            for row in judged(blind)
            if not row["parsed"]
            for key in [("", ""), *((k, str(v)) for k, v in row["groups"].items())]
        )
        right = [_rate(rows)["accuracy"] for rows in (direct, blind)]
        found = {("", ""): (right[0], right[1], replace(whole.gain, p_holm=whole.p))}
        changes = self.once("seeing", group_changes, replace(cell, mode="direct"), cell)
        for key, change in sorted(changes.items()):
            found[key] = (change.after, change.before, change.gain)
        return [
            SeeingRow(
                **names(cell),
                group=group,
                value=value,
                direct=round(seen, 6),
                blind=round(unseen, 6),
                unparsable=unreadable[group, value],
                **_gain(gain),
            )
            for (group, value), (seen, unseen, gain) in found.items()
        ]


def results(known: Cells) -> SweepResults:
    """Return all of it."""
    every = known.cells()
    rows = tuple(known.row(cell) for cell in every)
    complete = [cell for cell, row in zip(every, rows, strict=True) if row.status == "complete"]
    tasks = known.config.tasks
    # A choice is made among models that see.
    chosen = [cell for cell in complete if cell.mode != "blind"]
    blind = [cell for cell in complete if cell.mode == "blind" and replace(cell, mode="direct") in complete]
    return SweepResults(
        name=known.config.name,
        cells=rows,
        counts=dict(Counter(row.status for row in rows)),
        groups=tuple(line for cell in complete for line in known.groups(cell)),
        official=tuple(line for cell in complete for line in known.official(cell)),
        rotations=tuple(line for cell in complete for line in known.rotations(cell)),
        seeing=tuple(line for cell in blind for line in known.seeing(cell)),
        steps=tuple(studies.steps(known, chosen)),
        scaling=tuple(studies.scaling(known, chosen)),
        pareto={task: pareto([row for row in rows if row.task == task and row.mode != "blind"]) for task in tasks},
        pairs={task: _pairs(known, [cell for cell in chosen if cell.task == task]) for task in tasks},
    )


def pareto(rows: Sequence[CellRow]) -> tuple[str, ...]:
    """Return the complete cells of one task that no other beats: none is as accurate with less memory, or more
    accurate with as much.

    By memory, the smallest first. Of cells equal in both all are given.
    """
    points = [
        (row.memory, -row.accuracy, row.cell)
        for row in rows
        if row.status == "complete" and row.memory is not None and row.accuracy is not None
    ]
    front: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1] or point[:2] == front[-1][:2]:
            front.append(point)
    return tuple(cell for _, _, cell in front)


def _pairs(known: Cells, compared: Sequence[Cell]) -> TaskPairs:
    """McNemar's test between all pairs of cells of one task, corrected by Holm over them all."""
    found = [CellPair(a.id, b.id, known.paired(a, b)) for a, b in combinations(compared, 2)]
    tested = [pair.result for pair in found if pair.result.n]
    corrected = iter(holm([test.p or 0.0 for test in tested]))
    pairs = tuple(replace(pair, p_holm=next(corrected)) if pair.result.n else pair for pair in found)
    discordant = median([(test.only_a + test.only_b) / test.n for test in tested]) if tested else 0.0
    n = min((test.n for test in tested), default=0)
    alpha = 0.05 / max(len(tested), 1)
    least = minimum_detectable_difference(n, discordant, alpha)
    return TaskPairs(tuple(cell.id for cell in compared), n, pairs, Detectable(least, n, discordant, alpha, power=0.8))


def _figures(record: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], planned: Planned) -> dict[str, Any]:
    """The columns that only a complete cell has. Every row whose gold answer is published stays in n."""
    figures = _rate(answers)
    told = judged(answers)
    official = record.get("official") or {}
    name = next(iter(official), None)
    measured = record.get("peak_memory_bytes")
    return figures | {
        "reason": "asked another question than it was trained with" if record.get("trained_question") else "",
        "chance": _rounded(record.get("chance")),
        "official_score": name,
        "official_value": _rounded(official[name]) if name is not None else None,
        "unparsable": sum(not row["parsed"] for row in told),
        "guessed": sum(row["guessed"] for row in told),
        "truncated": sum(row["truncated"] for row in answers),
        "tokens": (tokens := sum(row["tokens"] for row in answers)),
        "prompt_tokens": (record.get("tokens") or {}).get("prompt"),
        "tokens_per_row": round(tokens / len(answers), 1) if answers else None,
        "unusable_rows": sum((record.get("problems") or {}).values()),
        "memory_measured_mb": _mb(measured),
        "memory_error": _rounded(planned.bytes / measured - 1) if planned.bytes and measured else None,
        **{key: _rounded(record.get(key)) for key in TIMED[2:]},
        "versions": _versions(record.get("versions") or {}),
    }


def _versions(found: Mapping[str, Any]) -> str:
    """Packages as ``name=version``; a record may hold them among the rest of its provenance."""
    packages = found.get("versions", found)
    return " ".join(f"{name}={version}" for name, version in sorted(packages.items()) if isinstance(version, str))


def _rate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many of them are right, with an interval that knows which rows share a picture."""
    known = judged(rows)
    found = clustered_rate([row["correct"] for row in known], [row["cluster"] for row in known])
    interval = {"accuracy_low": _rounded(found.low), "accuracy_high": _rounded(found.high)}
    return {"n": found.n, "correct": found.count, "accuracy": _rounded(found.value), **interval}


def _gain(gain: Gain) -> dict[str, Any]:
    """A difference on common rows, as columns."""
    interval = {"difference_low": _rounded(gain.low), "difference_high": _rounded(gain.high)}
    tested = {"p": _rounded(gain.p), "p_holm": _rounded(gain.p_holm)}
    return {"n": gain.n, "difference": _rounded(gain.value), **interval, **tested}


def _light(row: Mapping[str, Any]) -> dict[str, Any]:
    """What tables and paired tests read of a row; `label` and `gold` say no more than whether it is right, or not known."""
    return {
        "id": row["id"],
        "decoding": "greedy",
        "correct": bool(row["correct"]),
        "label": bool(row["correct"]),
        "gold": None if row["gold"] is None else True,
        "parsed": row.get("label") is not None,
        "guessed": row.get("guessed") is not None,
        "truncated": bool(row.get("truncated")),
        "tokens": row.get("completion_tokens") or 0,
        "groups": row.get("groups") or {},
        "cluster": row.get("cluster") or "",
        "pair": row.get("pair") or "",
        "rotation": row.get("rotation") or 0,
    }


def _json(path: Path) -> dict[str, Any] | None:
    try:
        read = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        # Not JSON: torn by something else, so it says nothing.
        return None
    return read if isinstance(read, dict) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _mb(number: int | None) -> float | None:
    """Millions."""
    return None if number is None else round(number / 1e6, 1)
