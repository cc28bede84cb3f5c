"""Evaluate a phase of a run: have every row answered in worker processes, write the report, hold the phase to its gate."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.derived import Pass, answer_tokens, passes
from pipeline.config.loader import write_config
from pipeline.config.schema import RunConfig
from pipeline.data.student import load_run_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import differences, digest, end_half_line, json_lines, read_jsonl, write_atomic, write_json
from pipeline.logs import show_step
from pipeline.run_dir import BASE, RunDir
from pipeline.runs import gates
from pipeline.runs.handover import checkpoint, checkpoint_folder
from pipeline.runs.phases import evaluated_from
from pipeline.scoring.trace import is_exact
from pipeline.types import Judgement, Question
from stages.checkpoints.accept import VERIFICATION, accept, delete_checkpoints, is_trained, verification
from stages.processes.work import Work
from stages.processes.workers import run_workers

log = logging.getLogger(__name__)

PAGE = Path("report") / "index.html"
"""The last file of a phase's report."""


def evaluate(config: RunConfig, run: RunDir, name: str) -> int:
    """Evaluate a phase in processes of its own unless that is done, write its report, and hold it to its gate.

    The first of these processes verifies a stage that has just been trained, which makes it complete.
    """
    work = Work(config, name, run)
    if is_trained(work):
        if verification(work).get("problems"):
            # They may have been mended since.
            (work.folder / VERIFICATION).unlink()
        # Verified before, and killed since.
        accept(work)
    verified = not is_trained(work)
    if verified:
        checkpoint(run, name)
    _answer(work, verified)
    if name != BASE and not config.keep_checkpoints:
        delete_checkpoints(work)
    gate = gates.judge(config, run, name)
    _report(work, gate)
    for line in gates.enforce(name, gate):
        log.info(line)
    return 0


def _answer(work: Work, verified: bool) -> None:
    """Have every row answered, and the stage verified, in as far as that is not done."""
    config, folder = work.config, work.folder
    record_path = folder / "evaluation.json"
    weights = (work.run.record(work.name) or {})["weights"]
    wanted = evaluated_from(config, weights)
    record = json.loads(record_path.read_text()) if record_path.exists() else None
    task = load_run_task(config, work.run)
    split = task.select(config.evaluation.split)
    rows = rows_digest(split.rows)
    # Records before it was told have none.
    others = record is not None and record.get("rows", rows) != rows
    if others:
        log.info(f"{work.name}: {config.evaluation.split} has other questions or answers now, so they are asked anew")
    if record is None or others or differences(record["inputs"], wanted):
        for made in (*folder.glob("predictions*.jsonl"), folder / PAGE):
            # From other weights, rows or settings.
            made.unlink(missing_ok=True)
        record = {"status": "running", "inputs": wanted, "rows": rows}
        write_json(record_path, record)
    answered = record["status"] == "complete"
    if not answered or not verified:
        mend_parts(folder)
        began = time.monotonic()
        _run_workers(work)
        # Of the last attempt.
        seconds = round(time.monotonic() - began, 3)
    if not answered:
        merge(config, work.run, work.name, task)
        told = {"problems": split.problem_counts, "seconds": seconds}
        if task.labels is None and (official := official_scores(task, read_jsonl(folder / "predictions.jsonl"))):
            told["official"] = official
        write_json(record_path, {**record, "status": "complete", **told})
        for part in folder.glob("predictions.part*.jsonl"):
            # Only now: until the record says complete, they are what a killed evaluation goes on from.
            part.unlink()


# By name, so that another field of a later release asks nobody anew.
_TOLD = ("id", "text", "options", "answer", "kind", "groups", "cluster", "attributes", "trace", "facts")


def rows_digest(rows: Sequence[Question]) -> str:
    """Return one sha256 over all that is asked, judged and told of rows, in order; of their pictures the number alone."""
    return digest([[len(row.images), *(getattr(row, name) for name in _TOLD)] for row in rows])


def _report(work: Work, gate: dict[str, Any] | None) -> None:
    """Write the phase's report, unless it is there and says the same of the gate."""
    page = work.folder / PAGE
    record = work.run.record(work.name) or {}
    if record.get("gate") != gate:
        # First: killed after this line, it is written anew.
        page.unlink(missing_ok=True)
        write_json(work.run.record_path(work.name), {**record, "gate": gate})
    if not page.exists():
        from pipeline.reports.write import write_stage_report

        write_stage_report(work.folder, load_run_task(work.config, work.run).labels)


def _run_workers(work: Work) -> None:
    """Verify and answer in processes of their own; what a failed verification found is told instead of a log's last lines."""
    argv = ["--stage", work.name, "--config", str(write_config(work.config, work.folder / "evaluation.yaml"))]
    try:
        run_workers("evaluate", work, argv)
    except UserError:
        if is_trained(work):
            accept(work)
        raise
    if is_trained(work) and not accept(work):
        raise UserError(f"{work.name}: the workers ended but did not verify final/; see {work.folder / 'logs'}")


def answer_all(work: Work) -> None:
    """Answer this process's share of the batches, appending each to a file of its own as soon as it is done."""
    from stages.models.generate import Answerer

    config, folder = work.config, work.folder
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    task = load_run_task(config, work.run)
    loaded = functools.cache(
        lambda: Answerer(checkpoint_folder(work.run, work.name), config, int(os.environ.get("LOCAL_RANK", "0")))
    )
    if rank == 0 and is_trained(work) and not verification(work):
        from stages.checkpoints.verify import verify

        if not verify(work, task, loaded):
            # torchrun ends the other processes; the entry point says why.
            sys.exit(2)
    # The share is a fixed one of all batches: other processes may have begun, and what is answered changes under our eyes.
    done = {_key(row) for row in _parts(folder)}
    mine = [batch for batch in _batches(config, work.name, task)[rank::world] if not _answered(batch, done)]
    if not mine:
        return
    asked = [
        (
            [task.prompt(row, one.style) for row in examples],
            examples,
            answer_tokens(config, one.style),
            one.decoding == "sample",
            hash((config.seed, one.sample, index)),
        )
        for one, index, examples in mine
    ]
    answers = zip(mine, asked, loaded().each(asked), strict=True)
    with (folder / f"predictions.part{rank}.jsonl").open("a") as file:
        for number, ((one, _, _), (prompts, examples, tokens, *_), completions) in enumerate(answers, 1):
            for prompt, example, (text, length) in zip(prompts, examples, completions, strict=True):
                verdict = task.judge(example, text, one.style)
                row = {
                    "id": example.id,
                    "image": str(example.images[0]) if example.images else None,
                    "gold": example.answer,
                    "style": one.style,
                    "decoding": one.decoding,
                    "sample": one.sample,
                    "prompt": prompt,
                    "completion": text,
                    "label": verdict.answer,
                    "correct": verdict.correct,
                    "reason": verdict.reason,
                    "think": verdict.think,
                    "truncated": length >= tokens,
                    "completion_tokens": length,
                    "attributes": dict(example.attributes),
                    **told_beside(task, example, verdict, one.style),
                }
                file.write(json_lines([row]))
            file.flush()
            if number == len(mine) or number % max(1, len(mine) // 4) == 0:
                show_step(log, f"{work.name} evaluation", number, len(mine), "batches", unit="")


def official_scores(task: Task, rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return a task's scores by its own formula, in percent, of the greedy answers of each prompt style."""
    by_style: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["decoding"] == "greedy" and row["gold"] is not None:
            by_style.setdefault(row["style"], []).append(row)
    return {style: dict(scores) for style, found in by_style.items() if (scores := task.official(found))}


def told_beside(task: Task, row: Question, judged: Judgement, style: str) -> dict[str, Any]:
    """Return what a row of predictions says beside its answer: its groups and, where each row asks its own, the question."""
    exact = is_exact(judged.think, row.trace) if style == "think" else None
    own = task.labels is None
    return {
        # With its label a row is known for one of a labelled image set.
        **({"groups": task.groups_of(row)} if row.groups or own else {}),
        **(_own_question(row, judged) if own else {}),
        **({"exact_trace": exact} if exact is not None else {}),
    }


def _own_question(row: Question, judged: Judgement) -> dict[str, Any]:
    return {
        "images": [str(image) for image in row.images],
        "question": row.text,
        "options": list(row.options),
        "kind": row.kind,
        "cluster": row.cluster,
        "guessed": judged.guessed,
    }


def merge(config: RunConfig, run: RunDir, name: str, task: Task) -> None:
    """Put the processes' parts together as predictions.jsonl, in the rows' order.

    Raises:
        UserError: when a row was not answered.
    """
    folder = run.phase(name)
    answers: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in _parts(folder):
        answers.setdefault(_key(row), row)
    keys = [_batch_key(one, example) for one, _, examples in _batches(config, name, task) for example in examples]
    missing = [key for key in keys if key not in answers]
    if missing:
        raise UserError(
            f"{name}: {len(missing)} of {len(keys)} answers are missing (first: {missing[0]}); run it again"
        )
    write_atomic(folder / "predictions.jsonl", json_lines(answers[key] for key in keys))


def mend_parts(folder: Path) -> None:
    """Take away the half line of a writer that was killed inside one. Only while no worker writes."""
    for part in folder.glob("predictions.part*.jsonl"):
        end_half_line(part)


def _parts(folder: Path) -> Iterator[dict[str, Any]]:
    for part in sorted(folder.glob("predictions.part*.jsonl")):
        yield from read_jsonl(part)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["style"], row["decoding"], row["sample"], row["id"]


def _batch_key(one: Pass, example: Question) -> tuple[Any, ...]:
    return one.style, one.decoding, one.sample, example.id


def _answered(batch: tuple[Pass, int, Sequence[Question]], done: set[tuple[Any, ...]]) -> bool:
    one, _, examples = batch
    return all(_batch_key(one, example) in done for example in examples)


def _batches(config: RunConfig, name: str, task: Task) -> list[tuple[Pass, int, Sequence[Question]]]:
    """(pass, batch number, examples), the same list in every process and on every attempt."""
    examples = task.select(config.evaluation.split).rows
    size = config.evaluation.batch_size
    return [
        (one, start // size, examples[start : start + size])
        for one in passes(config, name)
        for start in range(0, len(examples), size)
    ]
