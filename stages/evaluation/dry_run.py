"""What an evaluation would find wrong, told before it is started: data, splits, options and the models' files, all at once.

Weights are not loaded, no server is asked and nothing is downloaded. What reading a split takes out of parquet files, or draws,
stays in the cache, where the evaluation finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from huggingface_hub import constants

from pipeline.checks.evaluation import lab_problems
from pipeline.checks.model_folder import folder_problems, weight_problems
from pipeline.checks.run import check
from pipeline.conductor.run import open_task
from pipeline.config.derived import passes
from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.data.student import load_run_task
from pipeline.errors import UserError
from pipeline.formatting import join_counts
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.handover import checkpoint, model_folder
from pipeline.sweeps.memory import cached_folder
from stages.checkpoints.accept import is_trained
from stages.processes.work import Work

Check = Callable[[], str]
"""Gives a line on what is there, or raises a UserError."""


def describe_lab(config: LabConfig) -> str:
    """Return the cells of a lab, and what they would be asked with.

    Raises:
        UserError: with everything that is wrong: of the configuration, and of what it names.
    """
    problems = list(lab_problems(config))
    # What the rules have found wrong is not looked for again.
    checks: list[Check] = [
        partial(_rows, name, task, Path(config.output_dir) / ".cache")
        for name, task in config.tasks.items()
        if not any(problem.startswith(f"tasks.{name}.") for problem in problems)
    ]
    for key, models in (("models", config.models), ("reasoners", config.reasoners)):
        checks += [
            partial(_model, f"{key}.{name}", model, sees=key == "models")
            for name, model in models.items()
            if not any(problem.startswith((f"{key}.{name}.", f"{key}.{name}:")) for problem in problems)
        ]
    told = _tell(checks, problems)
    return "\n".join([*(cell.id for cell in cells(config)), *told])


def describe_phase(config: RunConfig, phase: str) -> str:
    """Return what a phase of a run would be asked, of which checkpoint.

    Args:
        config: of the run, its rules untested.
        phase: a stage's number or name, a baseline's, or base.

    Raises:
        UserError: with everything that is wrong: of the configuration, its data and its checkpoint.
    """
    problems: list[str] = []
    try:
        check(config, trains=False, starts=False)
    except UserError as error:
        problems = error.problems
    name = BASE if phase == BASE else config.stage_name(phase)
    run = RunDir(config.output_dir, config.name)
    checks: list[Check] = [] if any(one.startswith("task.") for one in problems) else [partial(_split, config, run)]
    told = _tell([*checks, partial(_checkpoint, config, run, name)], problems)
    asked = ", ".join(f"{one.style} {one.decoding}" for one in passes(config, name))
    return "\n".join(
        [f"{name}: {config.evaluation.split} asked {asked}; batches of {config.evaluation.batch_size}", *told]
    )


def _tell(checks: Iterable[Check], problems: list[str]) -> list[str]:
    """The lines of all checks.

    Raises:
        UserError: with all their problems, after those there are.
    """
    lines = []
    for one in checks:
        try:
            lines.append(one())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return [f"  {line}" for line in lines]


def _rows(name: str, task: LabTask, cache: Path) -> str:
    found = load_task(task.task, cache).select(task.split, task.subset_seed)
    unusable = f"; cannot be asked: {join_counts(found.problem_counts)}" if found.problems else ""
    return f"{name}: {len(found.rows)} rows of {task.split}{unusable}"


def _model(where: str, model: LabModel, *, sees: bool) -> str:
    name = where.partition(".")[2]
    if model.backend == "openai":
        return f"{name}: {model.name_or_path} at {model.base_url}, which is not asked"
    folder = model_folder(model, verify=True)
    if folder is None:
        there = cached_folder(model)
        if there is None and constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{where}.name_or_path: {model.name_or_path!r} is not on this machine, and HF_HUB_OFFLINE forbids its download"
            )
        return f"{name}: {model.name_or_path} of the hub, {there or 'to be downloaded'}"
    ours = sees and model.backend == "transformers" and not model.trust_remote_code
    if problems := folder_problems(folder) if ours else list(weight_problems(folder)):
        raise UserError([f"{where}: {folder} {problem}" for problem in problems])
    return f"{name}: {folder}"


def _split(config: RunConfig, run: RunDir) -> str:
    open_task(config, run)
    found = load_run_task(config, run).select(config.evaluation.split)
    unusable = f"; cannot be asked: {join_counts(found.problem_counts)}" if found.problems else ""
    return f"{len(found.rows)} rows{unusable}"


def _checkpoint(config: RunConfig, run: RunDir, name: str) -> str:
    if is_trained(Work(config, name, run)):
        return f"{run.phase(name)}: trained; the evaluation verifies it first"
    return str(checkpoint(run, name))
