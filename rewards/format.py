"""1.0 for a completion that the response grammar accepts, 0.0 for any other."""

from __future__ import annotations

from typing import Any

from pipeline.scoring.response import Response, parse


def format_reward(completions: list[str], **columns: Any) -> list[float]:
    """Score the form alone: exactly one non-empty think, one non-empty answer, in order, nothing outside.

    Args:
        completions: raw completion texts.
        columns: unused.
    """
    return [float(isinstance(parse(completion), Response)) for completion in completions]
