"""A reward of the user's own, named in a config by its dotted path: something a random student can win."""

from __future__ import annotations

from typing import Any


def parity_reward(completions: list[str], *, answer: list[str], **columns: Any) -> list[float | None]:
    """1.0 for an even number of characters, 0.0 for an odd one; None, which is "does not apply", for rows labelled awe."""
    return [
        None if gold == "awe" else float(len(text) % 2 == 0) for text, gold in zip(completions, answer, strict=True)
    ]


def infinite_reward(completions: list[str], **columns: Any) -> list[float | None]:
    """What a reward with a bug may return."""
    return [float("inf")] * len(completions)


def constant_reward(completions: list[str], **columns: Any) -> list[float | None]:
    """The same for all, from which nothing is learned."""
    return [1.0] * len(completions)


def parity_of_some_reward(completions: list[str], *, answer: list[str], **columns: Any) -> list[float]:
    """`parity_reward` for half of the labels; 0.5 for the other half, whatever is written."""
    return [0.5 if gold > "d" else float(len(text) % 2 == 0) for text, gold in zip(completions, answer, strict=True)]
