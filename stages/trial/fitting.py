"""Measure what fits this machine, stage by stage, by the preflight's own trials, and say it as overrides of the configuration."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.conductor.forecast import size
from pipeline.config.derived import checkpoint_cycle, trainer_gpus, world_size
from pipeline.config.families import FAMILIES, model_type
from pipeline.config.loader import find_config
from pipeline.config.schema import RunConfig, StageConfig, stage_key
from pipeline.errors import UserError
from pipeline.files import write_atomic
from pipeline.reports.table import align_columns
from pipeline.run_dir import BASE, RunDir
from pipeline.system.hardware import free_memory, visible_gpus
from stages.rollouts.vllm_server import SHARED_MEMORY
from stages.trial import plan
from stages.trial.fit import (
    ALIKE,
    EVALUATION,
    MARGIN,
    Choice,
    Measured,
    best,
    choose,
    measure_sizes,
    measure_stage,
    option,
    shape,
    step_seconds,
)


@dataclass
class Fitted:
    """What fits, and how it was found."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """Of the configuration; only what differs from it."""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return what was chosen, what it takes, and why, for a person."""
        header = ("", "fits", "memory", "s/step or s/row", "in the configuration")
        return "\n".join(["", align_columns([header, *self.rows]), *self.notes])


@dataclass
class Trials:
    """Trials of a run with other sizes, each in workers of its own, so that none starts in what another left in memory."""

    config: RunConfig
    run: RunDir
    start: Callable[[list[str]], None]
    """Runs workers with these words (overrides, --only and a name); raises UserError when they fail."""

    def stage(self, name: str, choice: Choice, rollouts: str = "transformers") -> Measured:
        """Train a stage for a few cycles with other sizes and, whatever the configuration says, with these rollouts."""
        stage = self.config.stage(name)
        where = stage_key(name)
        entries = {f"trainer.{key}": value for key, value in choice.trainer(stage).items()} | _sampled_by(
            stage, rollouts
        )
        folder = self._try(name, [f"{where}.{key}={json.dumps(value)}" for key, value in entries.items()])
        if folder is None:
            return Measured(math.inf, math.inf)
        plan.keep_timing(folder)
        trial = plan.read_trial(stage, folder, 0.0)
        return Measured(max(trial.peak_memory), step_seconds(trial.seconds, checkpoint_cycle(stage)))

    def evaluation(self, rows: int) -> Measured:
        """Answer batches of so many rows."""
        folder = self._try(plan.EVALUATION, [f"evaluation.batch_size={rows}"])
        if folder is None:
            return Measured(math.inf, math.inf)
        seen = json.loads((folder / "asking.json").read_text())
        return Measured(seen["peak"], seen["seconds"][-1] / seen["rows"])

    def _try(self, name: str, words: list[str]) -> Path | None:
        """Run a trial; its folder, or None when there was no memory for it."""
        folder = plan.scratch_of(self.run).phase(name)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self.start([*words, "--only", name])
        except UserError as error:
            if not ((folder / plan.TOO_LARGE).exists() or signal.SIGKILL.name in str(error)):
                raise
            return None
        return None if (folder / plan.TOO_LARGE).exists() else folder


def fit(config: RunConfig, trials: Trials, rows: int, memory: float | None = None) -> Fitted:
    """Measure the evaluation and every stage of a run.

    Args:
        config: of the run.
        trials: what measures; its scratch folder is the caller's to delete.
        rows: of the evaluation's split.
        memory: bytes of a device, where they are to be fewer than are free.

    Raises:
        UserError: when nothing says what is free, and no memory is given.
    """
    # On a CPU all processes share the memory, on a GPU each has its own.
    told = [*free_memory(trainer_gpus(config)), *([memory] if memory else [])]
    if not told:
        raise UserError(
            f"--fit: nvidia-smi does not tell the free memory of GPU {', '.join(trainer_gpus(config))}, as of a slice of one "
            "(MIG); say how many GB of it may be used, for example --memory 8"
        )
    free = min(told)
    limit = (1 - MARGIN) * free / (1 if visible_gpus() else world_size(config))
    found = Fitted()
    place = "the smallest GPU" if visible_gpus() else "this machine, which trains on its CPU"
    found.notes.append(
        f"memory: a process may use {size(limit)}; {size(free)} of {place}, of which {MARGIN:.0%} is left"
    )
    _fit_evaluation(config, trials, limit, math.ceil(rows / world_size(config)), found)
    measured: dict[str, dict[tuple[int, bool], Measured]] = {}
    for name, stage in config.all_stages.items():
        like = next((other for other in measured if shape(config.stage(other)) == shape(stage)), None)
        if like is None:
            measured[name] = measure_stage(stage, functools.partial(trials.stage, name), limit)
        else:
            found.notes.append(f"{name}: as measured of {like}, whose steps are of the same size")
        _fit_stage(config, trials, limit, found, name, measured[like or name])
    return found


def _fit_evaluation(config: RunConfig, trials: Trials, limit: float, most: int, found: Fitted) -> None:
    now = config.evaluation.batch_size
    sizes = sorted({min(one, most) for one in (*EVALUATION, now)})
    measured = measure_sizes(sizes, now, trials.evaluation, limit)
    rows = best(measured, limit)
    if rows is None:
        found.problems.append(f"evaluation: not one row fits into {size(limit)} of memory")
        return
    took = measured[rows]
    found.rows.append(("evaluation", f"{rows} rows", size(took.memory), f"{took.seconds:.3g}", f"{now} rows"))
    if rows != min(now, most):
        found.overrides["evaluation"] = {"batch_size": rows}


def _fit_stage(
    config: RunConfig,
    trials: Trials,
    limit: float,
    found: Fitted,
    name: str,
    measured: dict[tuple[int, bool], Measured],
) -> None:
    stage = config.stage(name)
    choice = choose(stage, measured, limit)
    if choice is None:
        found.problems.append(
            f"{name}: does not fit into {size(limit)} of memory with {min(measured)[0]} rows at a time and gradient "
            "checkpointing; shorten completions, use smaller pictures, or train with model.peft or launch.deepspeed: zero3"
        )
        return
    rollouts = stage.rollouts
    took = measured[choice.size, choice.checkpointing]
    if stage.algorithm == "grpo":
        rollouts, choice, took, reason = _rollouts(config, trials, limit, name, measured, choice)
        found.notes.append(f"{name}: rollouts: {rollouts}, {reason}")
    trainer = {key: value for key, value in choice.trainer(stage).items() if value != option(stage, key)}
    entries = {**({"trainer": trainer} if trainer else {}), **_sampled_by(stage, rollouts)}
    if entries:
        kind, key = stage_key(name).split(".")
        found.overrides.setdefault(kind, {})[key] = entries
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    now = Choice(*(option(stage, key) for key in keys))
    words = [_words(one) for one in (choice, now)]
    found.rows.append((name, words[0], size(took.memory), f"{took.seconds:.3g}", words[1]))


def _sampled_by(stage: StageConfig, rollouts: str) -> dict[str, Any]:
    """What a stage's block needs to sample by `rollouts`: only what differs from it."""
    if rollouts == stage.rollouts:
        return {}
    # Without a server nothing samples while the stage trains.
    return {"rollouts": rollouts, **({"rollouts_ahead": False} if stage.rollouts_ahead else {})}


def _words(choice: Choice) -> str:
    return f"{choice.size} x {choice.accumulation} rows{', checkpointing' if choice.checkpointing else ''}"


def _rollouts(
    config: RunConfig,
    trials: Trials,
    limit: float,
    name: str,
    measured: dict[tuple[int, bool], Measured],
    choice: Choice,
) -> tuple[str, Choice, Measured, str]:
    """What samples: (rollouts, sizes, what they take, why)."""
    stage = config.stage(name)
    took = measured[choice.size, choice.checkpointing]
    if reason := unserved(trials.run, stage):
        return "transformers", choice, took, reason
    room = limit if config.launch.rollout_gpus else limit - SHARED_MEMORY * limit / (1 - MARGIN)
    beside = choose(stage, measured, room)
    if beside is None:
        return "transformers", choice, took, "no size leaves room for a vLLM server on the same GPU"
    own = measured[beside.size, beside.checkpointing]
    try:
        served = trials.stage(name, beside, "vllm")
    except UserError as error:
        return "transformers", choice, took, f"a trial with a vLLM server failed: {error.problems[0].splitlines()[0]}"
    told = f"{served.seconds:.3g} s a step with a vLLM server, {took.seconds:.3g} without"
    if served.memory > room or served.seconds * (1 + ALIKE) > took.seconds:
        return "transformers", choice, took, told
    return "vllm", beside, Measured(max(own.memory, served.memory), served.seconds), told


def unserved(run: RunDir, stage: StageConfig) -> str | None:
    """Return why no vLLM server can or should sample for a stage; None when one is to be tried."""
    if not visible_gpus():
        return "on a CPU a server takes the trainer's cores (docs/rollouts.md)"
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed (./launch/install.sh --vllm)"
    if stage.trainer.get("generation_kwargs"):
        return "a server is not sent generation_kwargs"
    family = model_type(plan.scratch_of(run).final(BASE)) or ""
    return None if family in FAMILIES else f"no test holds that vLLM computes {family} alike"


def as_yaml(overrides: dict[str, Any]) -> str:
    """Return overrides as a configuration has them."""
    return yaml.safe_dump(overrides, sort_keys=False)


def write_overrides(found: Fitted, config: str, words: list[str], file: Path) -> None:
    """Write what fits as a configuration on top of another: `--config FILE` then takes both."""
    base = os.path.relpath(find_config(config).resolve(), file.resolve().parent)
    said = f"# Found with {' '.join(words)}, which this file does not repeat.\n" if words else ""
    text = as_yaml({"base": base, **found.overrides})
    notes = "".join(f"# {note}\n" for note in found.notes)
    write_atomic(
        file,
        f"# What fits, measured by python -m stages.preflight --fit. Global batches are those of the base.\n{notes}{said}{text}",
    )
