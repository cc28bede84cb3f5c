"""1.0 for a completion whose answer the task's judge finds right, 0.0 for any other, malformed ones included."""

from __future__ import annotations

from typing import Any

from pipeline.data.task import Task
from pipeline.types import Question


def accuracy_reward(
    completions: list[str], *, question: list[Question], style: list[str], task: Task, **columns: Any
) -> list[float]:
    """Score the answer by the row's own judge; of closed labels "awe or fear" scores 0.0.

    In think style the whole <answer> part is read; a direct answer, which has no form, must state the right one and no other.

    Args:
        completions: raw completion texts.
        question: the row each completion answers.
        style: what the prompt asked for: think, whose answer stands in its tags, or direct, which is all answer.
        task: whose judge decides; the same one the builder and the evaluation use.
    """
    rows = zip(completions, question, style, strict=True)
    return [float(task.judge(row, completion, how).correct) for completion, row, how in rows]
