"""Who a report is of: predictions read into entries, one per model and prompt style, from phases of a run or any folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import BASELINE
from pipeline.errors import UserError
from pipeline.files import read_json, read_jsonl
from pipeline.metrics import classification
from pipeline.metrics.scores import Scores
from pipeline.metrics.stored import from_json
from pipeline.reports.columns import read_predictions
from pipeline.reports.occlusion import OcclusionMaps, read_maps
from pipeline.reports.standing import doubts
from pipeline.run_dir import BASE
from pipeline.scoring.labels import CURE, LabelSet
from pipeline.system.locks import is_held

MOST_LABELS = 60
"""Different answers a closed list may have that is taken from the rows."""


@dataclass(frozen=True)
class Entry:
    """One evaluated model in one prompt style: a phase of a run, or a cell of the evaluation lab.

    `phase` is the folder's name. `scores` is None when it has not been evaluated. `task` keeps entries apart that were not asked
    the same questions.
    """

    name: str
    phase: str
    predictions: tuple[dict[str, Any], ...] = ()
    scores: Scores | None = None
    record: dict[str, Any] = field(default_factory=dict)
    log: tuple[dict[str, Any], ...] = ()
    duplicates: int = 0
    task: str = ""
    official: dict[str, float] = field(default_factory=dict)
    unusable: dict[str, int] = field(default_factory=dict)
    """Reason: rows of the split it was evaluated on that could not be used, and are in no figure."""
    doubts: tuple[str, ...] = ()
    """Why it no longer holds, see `pipeline.reports.standing`."""
    occlusion: OcclusionMaps | None = None
    """What its answers hang on, where that was asked for."""
    split: str = ""
    """Whose rows it was evaluated on, where its evaluation.json says so."""

    @property
    def greedy(self) -> list[dict[str, Any]]:
        return [row for row in self.predictions if row["decoding"] == "greedy"]

    @property
    def is_base(self) -> bool:
        return self.phase == BASE

    @property
    def is_baseline(self) -> bool:
        return self.phase.startswith(BASELINE)

    @property
    def run(self) -> str:
        """What tells entries of one phase in several runs apart: what stands before the phase in the name."""
        return self.name.rpartition(self.phase)[0]


def read_phase(
    folder: Path, labels: LabelSet | None, doubts: tuple[str, ...] = (), *, stored: bool = False
) -> list[Entry]:
    """Return a phase's entries: one, or one per prompt style with `direct` named "<phase> (direct)" beside `think`.

    Args:
        folder: the phase's folder; it need not exist.
        labels: the task's closed list of answers; None where rows have answers of their own.
        doubts: why it no longer holds.
        stored: take the scores of report/metrics.json instead of computing them.

    Raises:
        UserError: on answers to other classes.
    """
    record = read_json(folder / "stage.json")
    if record.get("status") == "running" and (folder / ".lock").exists() and not is_held(folder / ".lock"):
        # Its process is gone; the same command goes on.
        record["status"] = "stopped"
    log = tuple(row for row in read_jsonl(folder / "metrics.jsonl") if "step" in row)
    there = _stored_scores(folder / "report" / "metrics.json") if stored else {}
    evaluation = read_json(folder / "evaluation.json")
    maps = read_maps(folder)
    entries = []
    for name, rows, repeated in _by_style(folder):
        scores = there.get(name)
        if not stored and any(map(_is_judged, rows)):
            try:
                scores = classification.score(rows, labels)
            except ValueError as error:
                # The data or task.labels have changed since they were answered.
                raise UserError(
                    f"{folder / 'predictions.jsonl'}: {error}; give the task the classes it had, or judge the phase again: "
                    f"python -m stages.evaluate --stage {folder.name} --config FILE"
                ) from error
        entries.append(
            Entry(
                name,
                folder.name,
                rows,
                scores,
                record,
                log,
                repeated,
                official=_official(evaluation, rows[0]["style"]),
                unusable=_unusable_rows(evaluation),
                doubts=doubts,
                occlusion=maps.get(rows[0]["style"]),
                split=_split(evaluation),
            )
        )
    return entries or [Entry(folder.name, folder.name, record=record, log=log, doubts=doubts)]


def _stored_scores(path: Path) -> dict[str, Scores]:
    found = read_json(path).get("entries", {})
    try:
        return {name: from_json(Scores, scores) for name, scores in found.items() if scores}
    except ValueError as error:
        raise UserError(
            f"{path}: not of this version ({error}); write it anew with: python -m pipeline report"
        ) from error


def _unusable_rows(evaluation: Mapping[str, Any]) -> dict[str, int]:
    """Reason: rows of its split that an evaluation could not use, as its evaluation.json counts them."""
    counts = evaluation.get("problems") or {}
    return {str(reason): int(count) for reason, count in counts.items() if count}


def _split(evaluation: Mapping[str, Any]) -> str:
    asked = (evaluation.get("inputs") or {}).get("evaluation")
    return str(asked.get("split") or "") if isinstance(asked, dict) else ""


def _official(evaluation: Mapping[str, Any], style: str) -> dict[str, float]:
    """The benchmark's own scores of one style: a phase writes them per style, a cell of the lab, which has one, as they are."""
    scores = evaluation.get("official") or {}
    per_style = any(isinstance(score, dict) for score in scores.values())
    return dict((scores.get(style) or {}) if per_style else scores)


def read_folders(folders: Sequence[Path], columns: Mapping[str, str] | None = None) -> list[Entry]:
    """Return the entries of any folders with predictions.jsonl, or with such folders in them (a run, or a lab's cells).

    Without a configuration labels are taken from the rows, see `labels_of`; the cells of one task share them.

    Args:
        folders: what to read, in order.
        columns: what another tool calls the columns of `pipeline.reports.columns`, as {ours: theirs}.

    Raises:
        UserError: naming every folder without a prediction to report, and everything that rows lack to be predictions.
    """
    found: dict[Path, list[tuple[str, tuple[dict[str, Any], ...], int]]] = {}
    problems = []
    for folder in folders:
        inside = _with_predictions(folder)
        if not inside:
            problems.append(f"{folder}: there is no predictions.jsonl in it, in a folder in it, or in a cells/ in it")
        for one in inside:
            try:
                found[one] = [style for style in _by_style(one, columns) if any(_is_judged(row) for row in style[1])]
            except UserError as error:
                problems += error.problems
                continue
            if not found[one]:
                problems.append(f"{one / 'predictions.jsonl'} holds no greedy prediction whose gold answer is known")
    if problems:
        raise UserError(problems)
    tasks = {one: _task_of(one) for one in found}
    labels: dict[str, LabelSet | None] = {}
    for task in dict.fromkeys(tasks.values()):
        alike = [one for one in found if tasks[one] == task]
        try:
            labels[task] = labels_of([row for one in alike for _, rows, _ in found[one] for row in rows])
        except ValueError as error:
            problems.append(
                f"{', '.join(str(one / 'predictions.jsonl') for one in alike)}: the answers are no classes: "
                f"{str(error).removesuffix(CURE)}; write each class in one spelling, or give rows a question of their own"
            )
    if problems:
        raise UserError(problems)
    names = names_apart(list(found))
    maps = {one: read_maps(one) for one in found}
    evaluations = {one: read_json(one / "evaluation.json") for one in found}
    return [
        Entry(
            name=names[one] + style.removeprefix(one.name),
            phase=one.name,
            predictions=rows,
            scores=classification.score(rows, labels[tasks[one]]),
            record=read_json(one / "stage.json"),
            log=tuple(row for row in read_jsonl(one / "metrics.jsonl") if "step" in row),
            duplicates=repeated,
            task=tasks[one],
            official=_official(evaluations[one], rows[0]["style"]),
            unusable=_unusable_rows(evaluations[one]),
            occlusion=maps[one].get(rows[0]["style"]),
            split=_split(evaluations[one]),
        )
        for one, styles in found.items()
        for style, rows, repeated in styles
    ]


def labels_of(rows: Sequence[dict[str, Any]]) -> LabelSet | None:
    """Return the closed list of answers that rows imply, in text order: at most `MOST_LABELS` gold answers and answers given.

    None where rows are a benchmark's (they record their question) and not each of a labelled image set (``groups`` has
    ``label``): the letters of a multiple choice are no classes.

    Raises:
        ValueError: on answers that cannot be told apart, or are none.
    """
    labelled = all("label" in row["groups"] if row.get("groups") else row.get("question") is None for row in rows)
    names = {row["gold"] for row in rows} | {row["label"] for row in rows}
    names.discard(None)
    if not labelled or not 0 < len(names) <= MOST_LABELS:
        return None
    if classification.UNPARSABLE in names:
        raise ValueError(
            f"{classification.UNPARSABLE!r} is the column of missing answers; null says that there is none"
        )
    return LabelSet.of(sorted(names))


def _by_style(
    folder: Path, columns: Mapping[str, str] | None = None
) -> list[tuple[str, tuple[dict[str, Any], ...], int]]:
    """(entry name, rows, rows written twice) per prompt style of predictions.jsonl, `think` first."""
    by_style: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    repeated: dict[str, int] = {}
    for row in read_predictions(folder / "predictions.jsonl", columns or {}):
        of_style = by_style.setdefault(row["style"], {})
        key = (row["id"], row["decoding"], row.get("sample", 0))
        repeated[row["style"]] = repeated.get(row["style"], 0) + (key in of_style)
        # The last one counts, as after a resumed evaluation.
        of_style[key] = row
    return [
        (
            f"{folder.name} ({style})" if style != "think" and "think" in by_style else folder.name,
            tuple(by_style[style].values()),
            repeated[style],
        )
        for style in sorted(by_style, key=lambda style: style != "think")
    ]


def _with_predictions(folder: Path) -> list[Path]:
    """The folder itself, else the cells in it, else the phases in it."""
    for pattern in ("predictions.jsonl", "cells/*/predictions.jsonl", "*/predictions.jsonl"):
        if found := sorted(path.parent for path in folder.glob(pattern)):
            return found
    return []


def _is_judged(row: dict[str, Any]) -> bool:
    return row["decoding"] == "greedy" and row["gold"] is not None


def _task_of(folder: Path) -> str:
    """What tells whether two folders were asked the same: the task in their record, or in a cell's name."""
    record = read_json(folder / "evaluation.json")
    cell = record.get("cell")
    if isinstance(cell, dict) and cell.get("task"):
        return str(cell["task"])
    # <model>--<task>--<precision>--<mode>[--<reasoner>]
    parts = folder.name.split("--")
    if len(parts) >= 4:
        return parts[1]
    task = (record.get("inputs") or {}).get("task")
    return str(task["name"]) if isinstance(task, dict) and task.get("name") else ""


def names_apart(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a name per folder: its own, with its parents' as far as that tells it from the others."""
    for depth in range(1, 1 + max((len(folder.resolve().parts) for folder in folders), default=0)):
        names = {folder: "/".join(folder.resolve().parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: str(folder) for folder in folders}


def read_run(
    run_root: Path,
    phases: Sequence[str],
    labels: LabelSet | None,
    doubted: Mapping[str, Sequence[str]] | None = None,
    *,
    stored: bool = False,
) -> list[Entry]:
    """Return the entries of a run's phases, in their order; each knows why it no longer holds, see `standing.doubts`."""
    reasons = doubts(run_root, phases, doubted)
    return [
        entry
        for phase in phases
        for entry in read_phase(run_root / phase, labels, reasons.get(phase, ()), stored=stored)
    ]
