"""What is sent to a rollout server, and what of its answers is refused. Pure: no server, no model."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError


def group_runs(first: int, length: int, num_generations: int) -> list[tuple[int, int]]:
    """(start, stop) of each run of one group's samples in a process's slice, which groups may straddle at both ends.

    Args:
        first: the slice's place among all processes' samples.
        length: its samples.
        num_generations: samples of a group.
    """
    edges = [0, *(place for place in range(1, length) if (first + place) % num_generations == 0), length]
    return list(itertools.pairwise(edges))


def cache_counts(metrics: str) -> dict[str, tuple[float, float]]:
    """(hits, queries) of the caches of a vLLM server, in tokens of prompts (`prefix`) and pictures (`image`).

    Args:
        metrics: what it answers to /metrics; the counts of several engines are added.
    """
    sums = {"prefix_hits": 0.0, "prefix_queries": 0.0, "mm_hits": 0.0, "mm_queries": 0.0}
    for cache, what, value in re.findall(
        r"^vllm:(prefix|mm)_cache_(hits|queries)_total(?:{.*})? (\S+)$", metrics, re.MULTILINE
    ):
        sums[f"{cache}_{what}"] += float(value)
    return {
        "prefix": (sums["prefix_hits"], sums["prefix_queries"]),
        "image": (sums["mm_hits"], sums["mm_queries"]),
    }


def served_messages(prompt: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prompt of TRL as an OpenAI client sends it; images as PNG, which loses nothing."""
    return [
        {**message, "content": [_served_part(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]


def _served_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    png = io.BytesIO()
    part["image"].save(png, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def check_prompt(served: Sequence[int], own: Sequence[int]) -> None:
    """Refuse rollouts of a prompt that the server read otherwise than the trainer.

    Raises:
        UserError: naming the first token that differs.
    """
    served, own = list(served), list(own)
    if served == own:
        return
    place = next((place for place, pair in enumerate(zip(served, own, strict=False)) if pair[0] != pair[1]), None)
    where = (
        f"token {place} is {served[place]}, not {own[place]}"
        if place is not None
        else "one is the beginning of the other"
    )
    raise UserError(
        f"the rollout server reads a prompt as {len(served)} tokens, the trainer as {len(own)} ({where}): completions would "
        "answer another prompt than the one that is trained; use rollouts: transformers for this model"
    )
