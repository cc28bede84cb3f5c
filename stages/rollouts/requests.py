"""What is sent to a rollout server, and what of its answers is refused. Pure: no server, no model."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from pipeline.data.images import encode_picture
from pipeline.errors import UserError
from pipeline.system import chat_api


def group_runs(first: int, length: int, num_generations: int) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of one group's samples in a process's slice, which groups may straddle at both ends.

    Args:
        first: the slice's place among all processes' samples.
        length: its samples.
        num_generations: samples of a group.
    """
    edges = [0, *(place for place in range(1, length) if (first + place) % num_generations == 0), length]
    return list(itertools.pairwise(edges))


def cache_counts(metrics: str) -> dict[str, tuple[float, float]]:
    """Return (hits, queries) of the caches of a vLLM server, in tokens of prompts (`prefix`) and pictures (`image`).

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


class DataUrls:
    """Data URLs of pictures, each encoded once, in the thread that asks for it first; the others wait for that one.

    Encoding compresses nothing: the bytes go no further than this machine, and deflating a picture takes longer than sending it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # With the pictures themselves, so that none of them is freed and its id given to another.
        self._urls: dict[int, tuple[Any, Future[str]]] = {}

    def __call__(self, image: Any) -> str:
        """Return the data URL of a PIL image; nothing of it is lost."""
        with self._lock:
            first = id(image) not in self._urls
            _, url = self._urls.setdefault(id(image), (image, Future()))
        if first:
            try:
                url.set_result(_data_url(image))
            except BaseException as error:
                url.set_exception(error)
        return url.result()


def _data_url(image: Any) -> str:
    # Pictures are RGB (pipeline.data.images.open_rgb). BMP holds that as it is; of other modes it may lose a channel.
    kind = "bmp" if image.mode == "RGB" else "png"
    return chat_api.data_url(encode_picture(image, kind), kind)


def served_messages(prompt: Sequence[dict[str, Any]], data_url: Callable[[Any], str]) -> list[dict[str, Any]]:
    """Return a prompt of TRL as an OpenAI client sends it.

    Args:
        prompt: messages whose content may hold PIL images.
        data_url: what is sent for an image.
    """

    def served(part: dict[str, Any]) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": data_url(part["image"])}} if part["type"] == "image" else part

    return [
        {**message, "content": [served(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]


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
