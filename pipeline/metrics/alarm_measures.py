"""What the alarms of training read: one figure each, from the rows of metrics.jsonl in order. Pure: no files, no torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

LogRow = Mapping[str, Any]
"""One row of metrics.jsonl."""
Measure = Callable[[LogRow], float | None]
"""Called with every row in order; None where a row says nothing new."""
SWAP_CHANGE, SWAP_ROUNDING = "images/swap_change", "images/swap_rounding"
"""Keys of what other pictures do to the logits, and of what rounding may, see `stages.models.seeing`."""

NOT_A_LABEL = "answers/not_a_label_ratio"
"""Key of the share of samples that answer with none of the labels, see `rewards.accuracy`."""

SKIPPED = "skipped_steps"
"""Key of the steps of a row that DeepSpeed skipped and that left finite weights, see `stages.training.skipped_steps`."""


def figure(row: LogRow, key: str) -> float | None:
    """A finite number of a row; the others are the business of `nan` alone."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def skipped(window: int) -> Measure:
    """Optimizer steps in a row that were skipped; one rollout makes as many as it has updates."""
    run, before = 0.0, 0

    def measure(row: LogRow) -> float | None:
        nonlocal run, before
        steps, before = row["step"] - before, row["step"]
        found = figure(row, SKIPPED) or 0.0
        run = run + found if found == steps else found
        return run

    return measure


def not_finite(window: int) -> Measure:
    """Figures that are not finite. Those of skipped steps, which left the weights whole, count from half a window in a row on."""
    in_a_row = skipped(window)

    def measure(row: LogRow) -> float | None:
        found = sum(isinstance(value, float) and not math.isfinite(value) for value in row.values())
        whole = 0 < (in_a_row(row) or 0.0) <= window / 2
        return 0.0 if whole else float(found)

    return measure


def last(key: str) -> Callable[[int], Measure]:
    return lambda window: lambda row: figure(row, key)


def mean(key: str) -> Callable[[int], Measure]:
    """The mean of the last values, once half a window is there."""

    def begin(window: int) -> Measure:
        values: deque[float] = deque(maxlen=window)

        def measure(row: LogRow) -> float | None:
            value = figure(row, key)
            if value is None:
                return None
            values.append(value)
            return sum(values) / len(values) if 2 * len(values) >= window else None

        return measure

    return begin


def share_of_start(key: str) -> Callable[[int], Measure]:
    """The mean of the last window by the mean of the stage's first half window, once both are there."""

    def begin(window: int) -> Measure:
        start: list[float] = []
        recent = mean(key)(window)

        def measure(row: LogRow) -> float | None:
            value = figure(row, key)
            if value is not None and 2 * len(start) < window:
                start.append(value)
                return None
            now = recent(row)
            reference = sum(start) / len(start) if start else 0.0
            return now / reference if now is not None and reference > 0 else None

        return measure

    return begin


def unclipped(window: int) -> Measure:
    """Steps that could clip so far, 0 from the first clipped token on.

    The first update of a rollout is none of them: there the ratio is 1. Its row is the one with rewards.
    """
    steps, before, clipped = 0, 0, False

    def measure(row: LogRow) -> float | None:
        nonlocal steps, before, clipped
        low, high = (figure(row, f"clip_ratio/{side}_mean") for side in ("low", "high"))
        steps += row["step"] - before - ("reward" in row)
        before = row["step"]
        clipped = clipped or bool(low) or bool(high)
        return 0.0 if clipped else float(steps)

    return measure


def parted(window: int) -> Measure:
    """How far validation accuracy is below its best, 0 while the mean reward is below what it was at that best."""
    rewards: deque[float] = deque(maxlen=window)
    best, reward_then = -math.inf, -math.inf

    def measure(row: LogRow) -> float | None:
        nonlocal best, reward_then
        reward, accuracy = figure(row, "reward"), figure(row, "eval_accuracy")
        if reward is not None:
            rewards.append(reward)
        if accuracy is None or not rewards:
            return None
        now = sum(rewards) / len(rewards)
        if accuracy > best:
            best, reward_then = accuracy, now
        return best - accuracy if now >= reward_then else 0.0

    return measure


def unseen(window: int) -> Measure:
    """How far other pictures move the logits, as a share of the largest; 0 where rounding may have moved them as far."""

    def measure(row: LogRow) -> float | None:
        change, noise = figure(row, SWAP_CHANGE), figure(row, SWAP_ROUNDING)
        return None if change is None else change if change > (noise or 0.0) else 0.0

    return measure
