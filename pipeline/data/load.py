"""Load a task by the name of its file in pipeline/tasks."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.questions.own_prompt import fill_prompt, prompt_problems
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.files import ROOT, digest

DRAWN = ("scenes", "trails", "shapes")
"""Tasks that draw their own pictures, so that all are usable and none need lie there before."""
TASKS = ROOT / "pipeline" / "tasks"
"""The plug-in folder, which is looked into by name: it lies above this room."""


def task_names() -> list[str]:
    """Return the tasks there are: every module of pipeline/tasks."""
    return sorted(module.name for module in pkgutil.iter_modules([str(TASKS)]) if not module.name.startswith("_"))


def load_task(config: TaskConfig, cache: Path) -> Task:
    """Load the task `config.name`.

    Args:
        config: a ``task:`` block.
        cache: a folder the task may write derived files into (drawn scenes, images taken out of parquet files).

    Raises:
        UserError: on an unknown name, or whatever the task finds wrong with its data.
    """
    names = task_names()
    if config.name not in names:
        raise UserError(
            f"task.name: {config.name!r} is not a file of pipeline/tasks; {did_you_mean(config.name, names)}"
        )
    own = cache / f"{config.name}-{digest([config.path, config.options])[:12]}"
    task: Task = _module(config.name).load(config, own)
    return asked_as(task, config.prompt)


def asked_as(task: Task, template: str | None) -> Task:
    """Return the task, its questions put as a template has them; the task itself without one.

    Raises:
        UserError: naming everything that is wrong with the template.
    """
    if template is None:
        return task
    if problems := list(prompt_problems(template)):
        raise UserError(problems)
    own, labels = task.prompt, task.labels.names if task.labels else ()
    return dataclasses.replace(task, prompt=lambda question, style: fill_prompt(template, question, style, own, labels))


def _module(name: str) -> Any:
    return importlib.import_module(f"pipeline.tasks.{name}")
