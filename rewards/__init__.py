"""Pure scoring for GRPO. One file per reward: ``rewards/<name>.py`` defines ``<name>_reward(completions, **columns)``.

A reward gets the batch's completions as texts and, by name, everything in `COLUMNS`; it returns one float per completion, or
None where it does not apply. No torch, no files, no state.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.config.reward_names import reward_function
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.types import Question

Reward = Callable[..., list[float | None]]

COLUMNS = {
    "answer": "the gold answer: a label, the letter of an option, a number, …",
    "question": "the row as a `pipeline.types.Question`: text, options, kind, answer, facts; what `task.judge` takes",
    "id": "the row's id",
    "style": "what the prompt asks for: think or direct",
    "attributes": "a mapping of what the task knows of the row beside its answer (EmoSet's annotation, `attribute_columns` of "
    "parquet files); {} where it knows nothing",
    "groups": "a mapping of what tables are split by beside the answer (`walk` of `trails`); {} where there is nothing",
    "images": "the row's pictures",
    "prompts": "what was asked, as TRL's messages",
    "completion_ids": "the completion's token ids",
    "task": "one object: the `pipeline.data.task.Task`, with `judge(question, completion, style)` and, where answers are closed, "
    "`labels`",
    "trainer_state": "one object: transformers' TrainerState, such as `global_step`",
    "log_extra": "one function: `log_extra(name, values)` adds a column to the tables of completions",
    "log_metric": "one function: `log_metric(name, value)` adds a figure to the step's log",
}
"""What a reward is called with beside `completions`: a list with one value per completion, unless it is one object."""


def completion_text(completion: Any) -> str:
    """Return the text of one completion: a plain string, or TRL's ``[{"role": "assistant", "content": …}]``."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def load_rewards(names: Sequence[str], task: Task) -> list[Reward]:
    """Return the reward functions of a stage, ready for trl.GRPOTrainer.

    Args:
        names: files of rewards/ (``format``) or dotted paths (``my_package.scores.brevity_reward``).
        task: handed to every reward as ``task``.

    Raises:
        UserError: when a name has no function, or one asks for a column that rows no longer have.
    """
    return [_bind(_find(name), task) for name in names]


def read_questions(columns: dict[str, list[Any]]) -> list[Question]:
    """Return the rows that a batch's columns are of, as far as a judge reads them.

    Args:
        columns: id, question, answer and, where they are there, attributes and groups, as mappings.
    """
    none: list[dict[str, Any]] = [{}] * len(columns["id"])
    told = zip(
        *(columns[name] for name in ("id", "question", "answer")),
        *(columns.get(name, none) for name in ("attributes", "groups")),
        strict=True,
    )
    return [
        Question(row_id, (), **_told(question), answer=answer, attributes=attributes, groups=groups)
        for row_id, question, answer, attributes, groups in told
    ]


def _told(question: str) -> dict[str, Any]:
    """What a row's column says of it; judges remember options, so they must not be a list."""
    told: dict[str, Any] = json.loads(question)
    return {**told, "options": tuple(told.get("options", ()))}


def _find(name: str) -> Reward:
    module, function = reward_function(name)
    try:
        found: Reward = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"reward_funcs: {name!r}: {error}; expected a function {function} in {module}") from error
    if "label" in inspect.signature(found).parameters:
        raise UserError(
            f"reward_funcs: {name!r} asks for the column label; rows have answer in its place, and question for the judge "
            "(docs/rewards.md): rename the parameter"
        )
    return found


def _bind(reward: Reward, task: Task) -> Reward:
    # TRL logs a reward under its __name__.
    @functools.wraps(reward)
    def scored(completions: list[Any], **columns: Any) -> list[float | None]:
        for name in ("attributes", "groups"):
            if name in columns:
                columns[name] = [json.loads(text) for text in columns[name]]
        if "question" in columns:
            columns["question"] = read_questions(columns)
        return reward([completion_text(completion) for completion in completions], task=task, **columns)

    return scored
