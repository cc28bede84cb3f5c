"""The text of a reply as it is judged: thoughts that a server tells apart are put back, and wrappers are taken off.

Nothing is guessed about the words: only where the thought stands, and a fence around the whole.
"""

from __future__ import annotations

import re

from cot_builder.teachers.base import Reply
from pipeline.scoring.response import Malformed, parse

_FENCE = re.compile(r"```+|~~~+")
_OPEN, _CLOSE = "<think>", "</think>"


def reasoned_text(reply: Reply) -> str:
    """Return a reply that was to reason, in the form its grammar asks for as far as the reply holds it.

    A thought told apart from the text (`Reply.thought`), or closed by a tag that the model's chat template opened, is the
    reasoning, unless the rest is well formed by itself.
    """
    if reply.refused is not None:
        return reply.refused
    text = unfenced(reply.text)
    head, closed, rest = text.partition(_CLOSE)
    if closed and _OPEN not in head:
        inner = unfenced(rest)
        if not isinstance(parse(inner), Malformed):
            return inner
        return f"{_OPEN}{head.strip()}{_CLOSE}{inner}"
    if reply.thought.strip() and text and _OPEN not in text:
        thought = reply.thought.replace(_OPEN, "").replace(_CLOSE, "").strip()
        return f"{_OPEN}{thought}{_CLOSE}\n{text}"
    return text


def plain_text(reply: Reply) -> str:
    """Return a reply that was to be free text or a label: without a thought before it, and without a fence around it."""
    if reply.refused is not None:
        return reply.refused
    head, closed, rest = reply.text.partition(_CLOSE)
    return unfenced(rest if closed and head.count(_OPEN) <= 1 else reply.text).strip()


def unfenced(text: str) -> str:
    """Return what a fence holds, when it is around the whole text; else the text."""
    text = text.strip().removeprefix("\ufeff")
    first, newline, rest = text.partition("\n")
    opening = _FENCE.match(first)
    if not opening or not newline or not rest.endswith(fence := opening.group()):
        return text
    inside = rest.removesuffix(fence)
    return text if fence in inside or fence[0] in first[len(fence) :] else inside.strip()
