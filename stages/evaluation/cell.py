"""One cell, from its rows to evaluation.json."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import (
    ONE_STEP,
    TWO_STEPS,
    Cell,
    LabConfig,
    LabModel,
    LabTask,
    cell_folder,
    cost,
    lab_folder,
    style_of,
)
from pipeline.config.loader import to_plain
from pipeline.data.contents import Contents, read_contents
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.data.templates import Template, own_templates
from pipeline.data.training_rows import trained_questions
from pipeline.errors import UserError
from pipeline.formatting import join_counts, percent
from pipeline.logs import show_step
from pipeline.metrics.descriptions import totals, vocabulary
from pipeline.metrics.paired_tests import judged
from pipeline.metrics.rotations import Rotations, rotations
from pipeline.metrics.stored import to_json
from pipeline.runs.provenance import provenance
from pipeline.scoring.response import GRAMMAR_VERSION
from pipeline.types import Question, Split
from stages.evaluation import modes, prompts
from stages.evaluation.backends import base, checkpoint
from stages.evaluation.cell_record import GIVEN_UP, PredictionRow, Record, picture_digests, rows_digest
from stages.evaluation.modes import Models, Setting
from stages.evaluation.rotation import rotate
from stages.processes.work import folder_lock

log = logging.getLogger(__name__)

_LINES = 10
"""Lines of progress in all."""


def run_cell(config: LabConfig, cell: Cell, *, clean: bool = False, retry: bool = False) -> None:
    """Answer every row of a cell that is not answered yet, judge them, and write its figures.

    Args:
        config: checked.
        cell: one of its cells.
        clean: forget what the cell has and begin anew.
        retry: ask again the rows that a server failed at.

    Raises:
        UserError: when what is there depends on other inputs, a model or its data cannot be had, no answer of the first rows
            could be read, or a server left rows unanswered.
    """
    folder = cell_folder(config, cell)
    lab_task = config.tasks[cell.task]
    with folder_lock(folder):
        cache = Path(config.output_dir) / ".cache"
        benchmark = load_task(lab_task.task, cache)
        rows = benchmark.select(lab_task.split, lab_task.subset_seed)
        asked, once = rotate(
            rows.rows, config.rotate_options, lambda question: benchmark.prompt(question, style_of(cell.mode))
        )
        rows = dataclasses.replace(rows, rows=asked)
        perceiver, reasoner, observer = _find(config, cell)
        setting = Setting(
            benchmark=benchmark,
            task=lab_task,
            mode=cell.mode,
            seed=config.seed,
            models=Models(config.batch_size, max((len(row.images) for row in rows.rows), default=0)),
            perceiver=perceiver,
            reasoner=reasoner,
            observer=observer,
            texts=lab_folder(config) / "texts",
            pictures=picture_digests(rows.rows, cache),
            vocabulary=vocabulary(row.attributes for row in rows.rows),
            own_prompts=_own_prompts(config),
            contents=_contents(cell, lab_task, rows.rows),
        )
        inputs = _inputs(config, cell, setting, rows)
        record = Record(folder)
        complete = record.begin(inputs, clean=clean)
        if retry and (forgotten := record.forget_given_up()):
            log.info(f"{cell.id}: {forgotten} rows that the server failed at are asked again")
            complete = False
        if complete:
            log.info(f"{cell.id}: complete")
            return
        alone = cell.mode in ONE_STEP
        other = _other_question(perceiver.folder, inputs["prompt"]) if alone else None
        if other is not None:
            log.warning(
                f"warning: {perceiver.name} was trained with another question than it is asked here: {other!r}, not "
                f"{inputs['prompt']!r}; task.question of the run it comes from asks the same"
            )
        began, answered = time.monotonic(), record.answered()
        here_before = len(answered)
        # Blind, a model that says it sees nothing is right to; what it says is the result.
        first = rows.rows[: config.smoke if cell.mode != "blind" else 0]
        _ask(setting, first, record, answered, cell.id)
        _smoke(first, answered, cell.id)
        _ask(setting, rows.rows, record, answered, cell.id)
        missing = [row.id for row in rows.rows if row.id not in answered]
        if missing:
            raise UserError(
                f"{cell.id}: {len(missing)} of {len(rows.rows)} rows are not answered (first: {missing[0]}); "
                "what is there is kept, the same command goes on"
            )
        ordered = [answered[row.id] for row in rows.rows]
        seconds = time.monotonic() - began
        figures = _figures(benchmark, rows, ordered, setting, seconds, len(ordered) - here_before)
        if config.rotate_options > 1:
            turned = rotations(ordered)
            figures["rotations"] = {"orders": config.rotate_options, "once": once, **(to_json(turned) or {})}
        figures["trained_question"] = other
        figures["cost"] = cost(config, cell, **figures["tokens"])
        record.complete(ordered, inputs, figures)
        if config.rotate_options > 1:
            _tell_rotations(cell.id, turned, once)
        right = f"{percent(figures['accuracy'])} % right (chance {percent(figures['chance'])} %)"
        log.info(f"{cell.id}: {len(ordered)} rows, {right}, {100 * figures['parsed']:.1f} % readable, {seconds:.0f} s")
        if failed := [row for row in ordered if "detail" in row]:
            reasons = join_counts(Counter(row["reason"] for row in failed))
            log.warning(
                f"  warning: {len(failed)} rows have no answer and count as wrong: {reasons} (first: {failed[0]['id']})"
                f"{'; --retry asks again where the server failed' if any(row['reason'] in GIVEN_UP for row in failed) else ''}"
            )


def _tell_rotations(name: str, found: Rotations | None, once: Mapping[str, int]) -> None:
    told = f"{found.questions} questions, the same option in all orders {found.consistent}" if found else "no question"
    told += f", right in all {found.all_right}" if found else ""
    log.info(f"{name}: rotated: {told}" + (f"; asked once: {join_counts(Counter(once))}" if once else ""))


def _other_question(checkpoint: Path | None, asked: str) -> str | None:
    """Return what a run's checkpoint was trained to be asked, where it is asked something else and that can be known."""
    trained = trained_questions(checkpoint.parent) if checkpoint is not None else []
    return trained[0] if trained and asked not in trained else None


def _find(config: LabConfig, cell: Cell) -> tuple[base.Checkpoint, base.Checkpoint, base.Checkpoint]:
    """Perceiver, reasoner and observer. A reasoner has the cell's precision, or a server's own."""
    known: dict[int, base.Checkpoint] = {}

    def found(model: LabModel) -> base.Checkpoint:
        if id(model) not in known:
            known[id(model)] = checkpoint.find(model, "auto" if model.backend == "openai" else cell.precision)
        return known[id(model)]

    perceiver = config.models[cell.model]
    reasoner = config.reasoners[cell.reasoner] if cell.reasoner else perceiver
    observer = next(iter(config.reasoners.values()), perceiver) if cell.mode.startswith("extract") else reasoner
    all_three = found(perceiver), found(reasoner), found(observer)
    checkpoint.check_together(all_three)
    return all_three


def _own_prompts(config: LabConfig) -> dict[str, Template]:
    """The user's words for the two-step modes."""
    return own_templates("prompts", config.prompts)


def _contents(cell: Cell, task: LabTask, rows: Sequence[Question]) -> Contents | None:
    """What to observe, where a file says it.

    Raises:
        UserError: when it leaves rows out.
    """
    if task.contents is None or not cell.mode.startswith("extract"):
        return None
    key = f"tasks.{cell.task}.contents"
    contents = read_contents(key, task.contents)
    counted = contents.count(
        (row.id, prompts.bare(row)) for row in rows if row.images and not row.facts.get("rotation")
    )
    if problem := counted.problem(key):
        raise UserError(problem)
    log.info(f"{cell.id}: {counted}")
    return contents


def _inputs(config: LabConfig, cell: Cell, setting: Setting, rows: Split) -> dict[str, Any]:
    """Everything the answers of a cell depend on."""
    task = to_plain(setting.task)
    inputs: dict[str, Any] = {
        "model": setting.perceiver.identity,
        "mode": cell.mode,
        # Where the data lie says nothing of what they are; `rows` does.
        "task": {**task["task"], "path": None},
        "split": task["split"],
        "subset_seed": task["subset_seed"],
        "rows": rows_digest(rows.rows, setting.pictures),
        "max_new_tokens": modes.answer_token_limit(cell.mode, task["max_new_tokens"]),
        "grammar": GRAMMAR_VERSION,
        "prompt": setting.benchmark.prompt(rows.rows[0], style_of(cell.mode)),
    }
    if config.rotate_options > 1:
        inputs["rotate_options"] = config.rotate_options
    if cell.mode in TWO_STEPS:
        inputs |= {"reasoner": setting.reasoner.identity, "seed": config.seed, "prompts": prompts.VERSION}
        if own := {name: setting.own_prompts[name].digest for name in prompts.NAMES if name in setting.own_prompts}:
            inputs["own_prompts"] = own
    if cell.mode.startswith("extract"):
        inputs |= {"contents": setting.contents.digest} if setting.contents else {"observer": setting.observer.identity}
    return inputs


def _ask(
    setting: Setting, questions: Sequence[Question], record: Record, answered: dict[str, PredictionRow], name: str
) -> None:
    """Have the questions answered that are not, and write each batch down as it comes."""
    waiting = [question for question in questions if question.id not in answered]
    # A server must answer something else before a row it fails at is held to be the row's own fault.
    known = next(
        (question for question in questions if (answered.get(question.id) or {}).get("label") is not None), None
    )
    served = "openai" in (setting.perceiver.model.backend, setting.reasoner.model.backend)
    asked = [known, *waiting] if known and waiting and served else waiting
    began, told, count = time.monotonic(), 0, 0
    for rows in modes.answer(setting, asked):
        batch = [row for row in rows if row["id"] not in answered]
        record.append(batch)
        answered |= {row["id"]: row for row in batch}
        count += len(batch)
        if count * _LINES // len(waiting) > told and len(waiting) > setting.models.batch_size:
            told = count * _LINES // len(waiting)
            rate = count / (time.monotonic() - began)
            show_step(log, f"{name}:", count, len(waiting), f"rows, {rate:.1f} rows/s", unit="")


def _smoke(questions: Sequence[Question], answered: dict[str, PredictionRow], name: str) -> None:
    """Refuse to go on when none of the first answers could be read."""
    rows = [answered[question.id] for question in questions if question.id in answered]
    if not questions or any(row["label"] is not None for row in rows):
        return
    told = [f"{row['id']}: {row.get('detail') or repr(row['completion'][:300])} ({row['reason']})" for row in rows]
    raise UserError(
        [
            f"{name}: none of the first {len(questions)} answers could be read; these were given:",
            *told,
            "mend the model, its processor or the mode; or set smoke: 0 (--smoke 0) where such answers are to be measured",
        ]
    )


def _figures(
    benchmark: Task,
    rows: Split,
    answers: Sequence[PredictionRow],
    setting: Setting,
    seconds: float,
    asked: int,
) -> dict[str, Any]:
    """What evaluation.json says of the answers. Shares are of all rows, readable or not; what is right, of the rows whose gold
    answer is published.
    """
    n, known = len(answers), judged(answers)
    latencies = sorted(row["seconds"] for row in answers)
    spoken = [row["logprob"] for row in answers if row["logprob"] is not None]
    perceived = [(row["cluster"] or str(row["images"]), row["perception"]) for row in answers if row.get("perception")]
    return {
        "rows": n,
        "problems": rows.problem_counts,
        "accuracy": sum(row["correct"] for row in known) / len(known) if known else None,
        "chance": sum(benchmark.chance(question) for question in rows.rows) / n,
        # In the order the benchmark publishes.
        "official": dict(benchmark.official([row for row in known if not row.get("rotation")])) if known else {},
        "parsed": sum(row["label"] is not None for row in answers) / n,
        "truncated": sum(row["truncated"] for row in answers) / n,
        "reasons": dict(Counter(row["reason"] for row in answers if row["reason"]).most_common()),
        "perception": to_json(totals(perceived)) if perceived else None,
        "logprob": statistics.fmean(spoken) if spoken else None,
        "seconds": round(seconds, 3),
        "load_seconds": round(setting.models.load_seconds, 3),
        "rows_per_second": round(asked / (seconds - setting.models.load_seconds), 3) if asked else None,
        "latency_p50_s": _share(latencies, 0.50),
        "latency_p95_s": _share(latencies, 0.95),
        "peak_memory_bytes": setting.models.peak_memory(),
        "tokens": {
            # A server need not tell.
            "prompt": sum(row["prompt_tokens"] or 0 for row in answers)
            if any(row["prompt_tokens"] for row in answers)
            else None,
            "completion": sum(row["completion_tokens"] for row in answers),
        },
        **provenance(),
    }


def _share(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of the ordered values lies (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
