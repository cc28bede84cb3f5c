"""1.0 for a completion whose answer the task's judge finds right, 0.0 for any other, malformed ones included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.data.task import Task
from pipeline.metrics.alarm_measures import NOT_A_LABEL
from pipeline.types import Question


def accuracy_reward(
    completions: list[str],
    *,
    question: list[Question],
    style: list[str],
    task: Task,
    log_metric: Callable[[str, float], object] | None = None,
    **columns: Any,
) -> list[float]:
    """Score the answer by the row's own judge; of closed labels "awe or fear" scores 0.0.

    In think style the whole <answer> part is read; a direct answer, which has no form, must state the right one and no other.
    What a benchmark guesses in the place of an answer that it cannot read earns nothing.

    Args:
        completions: raw completion texts.
        question: the row each completion answers.
        style: what the prompt asked for: think, whose answer stands in its tags, or direct, which is all answer.
        task: whose judge decides; the same one the builder and the evaluation use.
        log_metric: is told the share of answers that are none of the labels, or several, where answers are closed.
    """
    judged = [task.judge(row, text, how) for text, row, how in zip(completions, question, style, strict=True)]
    closed = [
        verdict for verdict, row in zip(judged, question, strict=True) if task.labels is not None or row.kind == "label"
    ]
    if log_metric is not None and closed:
        log_metric(NOT_A_LABEL, sum(verdict.reason == "not_a_label" for verdict in closed) / len(closed))
    return [float(verdict.earned) for verdict in judged]
