"""What ``python -m stages.<algorithm> --stage N`` does around the training itself: check, skip, train, evaluate."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pipeline import command_line
from pipeline.checks.distill import mismatches
from pipeline.checks.splits import check_splits, rollout_problem
from pipeline.config.derived import clip_range, distilled, rows_of, world_size
from pipeline.config.schema import RunConfig, stage_key
from pipeline.data.student import load_run_task, student_family
from pipeline.data.task import Task
from pipeline.data.training_rows import DATA, changes, data_lines, training_columns, write_rows
from pipeline.errors import UserError
from pipeline.files import differences, write_atomic, write_json
from pipeline.run_dir import RunDir
from pipeline.runs.handover import COMPLETE, has_checkpoint, parent_checkpoint
from pipeline.runs.phases import parent_of, start_record, teacher_weights
from pipeline.runs.provenance import provenance
from pipeline.system.library_patches import score_labels_alone
from rewards import load_rewards
from stages.evaluation import phase
from stages.models.hub import find_teacher
from stages.processes import command
from stages.processes.work import Work, clean, folder_lock
from stages.processes.workers import as_worker, run_workers

log = logging.getLogger(__name__)


def main(algorithm: str, purpose: str | None, train: Callable[[Work], None], argv: Sequence[str] | None = None) -> int:
    """Run the entry point of a training stage.

    Args:
        algorithm: the stage file's name.
        purpose: its docstring, shown by ``--help``.
        train: the work of one process.
        argv: command line without the program; None for sys.argv.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = command.parser(algorithm, (purpose or "").split("\n")[0])
    parser.add_argument("--stage", required=True, help="stage number or name, or a baseline's name")
    arguments = command_line.parse(parser, argv)
    config, run = command.load_checked(arguments)
    name = config.stage_name(arguments.stage)
    stage = config.stage(name)
    if stage.algorithm != algorithm:
        raise UserError(
            f"{name} is a {stage.algorithm} stage: python -m stages.{stage.algorithm} --stage {arguments.stage}"
        )
    work = Work(config, name, run)
    if arguments.worker:
        with as_worker():
            score_labels_alone()
            train(work)
        return 0
    if arguments.dry_run:
        print(describe(config, run, name))
        return 0
    with folder_lock(work.folder):
        if arguments.clean:
            check_it_can_start(work)
        if arguments.clean or run.record(name) is None:
            # What a killed --clean left was made under other settings, and would be gone on from.
            clean(work.folder)
        done = has_checkpoint(work.config, work.run, work.name)
        if not done:
            # Refuse here, in one line, not in every worker.
            parent_checkpoint(config, run, name)
            if config.held_out:
                from pipeline.conductor.contamination import check_run

                check_run(config, run)
        rows = rows_as_begun(work, keep=not done)
        if done and (run.record(name) or {}).get("status") == COMPLETE:
            log.info(f"{name}: is complete; --clean starts it anew")
        if not done:
            record = run.record(name)
            taught_by = teacher_record(work)
            if record is None:
                write_atomic(work.folder / DATA, rows)
                write_json(run.record_path(name), start_record(config, run, name) | taught_by | provenance())
            elif moved := differences(record.get("versions", {}), provenance()["versions"]):
                log.warning(f"warning: {name} was begun with other packages: {', '.join(moved)}")
                write_json(run.record_path(name), {**record, "resumed_with": provenance()["versions"]})
            log.info(f"{name}: {stage.algorithm} from {parent_of(config, name)}")
            train_in_workers(algorithm, work, [word for word in argv if word != "--clean"])
            if not has_checkpoint(work.config, work.run, work.name):
                raise UserError(f"{name}: the workers ended but handed nothing over; see {work.folder / 'logs'}")
        # Verifies first. In the lock: its workers append to files here.
        return phase.evaluate(config, run, name)


def check_it_can_start(work: Work) -> None:
    """Check what a stage starts from, before what it wrote the last time is deleted.

    Raises:
        UserError: when its parent is not complete, or its teacher, a reward or its rows cannot be had.
    """
    parent_checkpoint(work.config, work.run, work.name)
    teacher_record(work, anew=True)
    task = load_run_task(work.config, work.run)
    _check_splits(work, task)
    training_columns(work.config, work.run, work.name, task)
    load_rewards(work.stage.reward_funcs, task)


def teacher_record(work: Work, *, anew: bool = False) -> dict[str, Any]:
    """Return what the record of a stage says of its teacher of logits: its folder and the digest of its weights; empty without
    one.

    Args:
        work: the stage.
        anew: whether it is begun again, with whatever weights the teacher has now.

    Raises:
        UserError: when the teacher cannot be had or cannot teach this student, or the stage was begun with other weights of it.
    """
    distill = work.stage.distill
    if distill is None:
        return {}
    key = f"{stage_key(work.name)}.distill.teacher"
    folder = find_teacher(distill, work.config.model, key).resolve()
    told = list(mismatches(folder, parent_checkpoint(work.config, work.run, work.name, verify=False)[1]))
    found = teacher_weights(folder, work.run.cache)
    begun = (work.run.record(work.name) or {}).get("teacher", {}).get("weights", found)
    if begun != found and not anew:
        told.append(
            f"has other weights than when {work.name} was begun; restore them (id@revision holds a hub's), or start the stage "
            f"anew with --clean ({work.folder})"
        )
    if told:
        raise UserError([f"{key}: {distill.teacher!r} {problem}" for problem in told])
    return {"teacher": {"folder": str(folder), "weights": found}}


def train_in_workers(algorithm: str, work: Work, argv: Sequence[str]) -> None:
    """Run the training workers.

    Raises:
        UserError: when they fail; the alarm that ended them, if it was one.
    """
    path, record = work.run.record_path(work.name), work.run.record(work.name) or {}
    if "stopped" in record:
        write_json(path, {key: value for key, value in record.items() if key not in ("stopped", "alarms")})
    try:
        run_workers(algorithm, work, argv)
    except UserError as failure:
        if has_checkpoint(work.config, work.run, work.name):
            log.info(f"{work.name} is trained; a worker failed after that: {failure.problems[0].splitlines()[0]}")
            return
        stopped = (work.run.record(work.name) or {}).get("stopped")
        raise (UserError(stopped) if stopped else failure) from None


def rows_as_begun(work: Work, *, keep: bool = False) -> str:
    """Return the rows the stage trains on, as lines of `DATA`.

    Args:
        work: the stage.
        keep: whether to write them down for the workers.

    Raises:
        UserError: when the stage was begun or finished with others, naming what changed; when they do not fill a rollout.
    """
    task = load_run_task(work.config, work.run)
    if keep:
        # Those it is validated and judged on, too: they are first read hours later.
        for note in _check_splits(work, task):
            log.info(note)
    columns, split = training_columns(work.config, work.run, work.name, task)
    if problems := list(rollout_problem(work.config, work.name, len(columns["id"]))):
        raise UserError([f"{work.name}: {problem}" for problem in problems])
    now = data_lines(columns, work.run.cache)
    begun = work.folder / DATA
    changed = changes(begun.read_text(), now) if work.run.record(work.name) and begun.exists() else []
    if changed:
        raise UserError(
            [f"{work.name} was trained on other data: {change}" for change in changed]
            + [f"restore the data, give the run another name, or start it anew with --clean ({work.folder})"]
        )
    if keep:
        write_rows(work.folder, columns, split.problem_counts)
    return now


def _check_splits(work: Work, task: Task) -> list[str]:
    """Check what the stage itself selects; returns notes."""
    return check_splits(work.config, task, only=(work.name,), family=student_family(work.config.model, work.run))


def describe(config: RunConfig, run: RunDir, name: str) -> str:
    """Return what a stage would do, for ``--dry-run``."""
    stage = config.stage(name)
    clip = clip_range(stage)
    lines = [
        f"{name}: {stage.algorithm} from {parent_of(config, name)} into {run.phase(name)}",
        f"  rows: {rows_of(stage)}   prompt: {stage.prompt}",
        f"  freeze: {', '.join(stage.freeze) or 'nothing'}",
        f"  processes: {world_size(config)}   deepspeed: {config.launch.deepspeed or 'no'}",
    ]
    if stage.learning_rates:
        lines.append(f"  learning rates: {', '.join(f'{part} {rate}' for part, rate in stage.learning_rates.items())}")
    if stage.distill:
        lines.append(f"  {distilled(stage.distill)}")
    if stage.reward_funcs:
        lines.append(f"  rewards: {', '.join(stage.reward_funcs)}")
        ahead = ", one ahead" if stage.rollouts_ahead else ""
        lines.append(f"  rollouts: {stage.rollouts}{ahead}   dynamic sampling: {stage.dynamic_sampling or 'no'}")
    if clip:
        lines.append(f"  clip range: 1 - {clip[0]} to 1 + {clip[1]}")
    lines += [f"  trainer.{key}: {value}" for key, value in stage.trainer.items()]
    return "\n".join(lines)
