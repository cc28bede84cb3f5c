"""The rules that a run's and a lab's configuration share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.load import task_names
from pipeline.errors import did_you_mean

FOLDER = re.compile(r"(?!\.)[\w.-]+")
"""A name that is a folder's, or part of one's."""


def name_problems(name: str, seed: int) -> Iterator[str]:
    """Yield what is wrong with the name and the seed of a configuration."""
    if not FOLDER.fullmatch(name):
        yield f"name: {name!r} must be one folder name of letters, digits, '_', '-', '.'; for example demo"
    if not 0 <= seed < 2**32:
        yield f"seed: {seed} must be from 0 to {2**32 - 1}, the range of numpy's seeds"


def task_problems(where: str, task: TaskConfig) -> Iterator[str]:
    """Yield every broken rule of a task block; `where` is its key."""
    if task.name not in task_names():
        yield f"{where}.name: {task.name!r} is not a file of pipeline/tasks; {did_you_mean(task.name, task_names())}"
    if task.path is not None and not Path(task.path).expanduser().exists():
        hint = fetch_hint(task.name, task.path)
        yield f"{where}.path: {task.path!r} does not exist; set it to the root of the {task.name} data{hint}"
    if task.question is not None and not task.question.strip():
        yield f"{where}.question: is blank, so nothing would be asked; leave it out for the task's own"
