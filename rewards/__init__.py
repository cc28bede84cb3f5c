"""Pure scoring for GRPO. One file per reward: ``rewards/<name>.py`` defines ``<name>_reward(completions, **columns)``.

A reward gets the batch's completions (TRL's conversational form), every column of the rows (``label``, ``id``) and the
``task``; it returns one float per completion, or None where it does not apply. No torch, no files, no state.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.data.task import Task
from pipeline.errors import UserError

Reward = Callable[..., list[float | None]]


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
        UserError: when a name has no function.
    """
    return [_bind(_find(name), task) for name in names]


def _find(name: str) -> Reward:
    module, _, function = name.rpartition(".") if "." in name else (f"rewards.{name}", "", f"{name}_reward")
    try:
        return getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"reward_funcs: {name!r}: {error}; expected a function {function} in {module}") from error


def _bind(reward: Reward, task: Task) -> Reward:
    # TRL logs a reward under its __name__.
    @functools.wraps(reward)
    def scored(completions: list[Any], **columns: Any) -> list[float | None]:
        return reward([completion_text(completion) for completion in completions], task=task, **columns)

    return scored
