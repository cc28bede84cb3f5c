"""1.0 for a completion whose answer the task's judge finds right, 0.0 for any other, malformed ones included."""

from __future__ import annotations

from typing import Any

from pipeline.data.task import Task


def accuracy_reward(
    completions: list[str], *, label: list[str], style: list[str], task: Task, **columns: Any
) -> list[float]:
    """Score the answer against the gold label; "awe or fear" scores 0.0.

    In think style the whole answer must spell the label; a direct answer, which has no form, must state it and no other.

    Args:
        completions: raw completion texts.
        label: gold label per completion.
        style: what the prompt asked for: think, whose answer stands in its tags, or direct, which is all answer.
        task: whose judge decides; the same one the builder and the evaluation use.
    """
    rows = zip(completions, label, style, strict=True)
    return [float(task.judge(completion, gold, how).correct) for completion, gold, how in rows]
