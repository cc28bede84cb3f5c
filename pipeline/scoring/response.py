"""The one grammar of a reasoned answer: ``<think>…</think><answer>…</answer>``.

The CoT builder's filter, the format and accuracy rewards and the evaluation all call `parse`, so they cannot disagree
about what is well formed. The rule is strict: exactly one think block, then exactly one answer block, both non-empty,
and nothing but white space around them. It is a linear scan, so a hostile 100 kB completion costs microseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GRAMMAR_VERSION = "1"
"""Recorded in every manifest; changes whenever a text could parse differently."""

# Case-sensitive: the tags are a protocol, not prose.
_TAG = re.compile(r"<(/?)(think|answer)>")
_ORDER = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Response:
    """A well-formed completion: the reasoning and the answer, both stripped of surrounding white space."""

    think: str
    answer: str


@dataclass(frozen=True)
class Malformed:
    """A completion that breaks the grammar; `reason` is one of `REASONS`."""

    reason: str


REASONS = (
    "empty",
    "no_think",
    "no_answer",
    "unclosed_think",
    "unclosed_answer",
    "several_thinks",
    "several_answers",
    "wrong_order",
    "text_outside",
    "empty_think",
    "empty_answer",
)
"""Every reason `parse` can give."""


def render(think: str, answer: str, opened: bool = False) -> str:
    """Return the canonical text of a response; `parse` gives the same parts back.

    Args:
        think: the reasoning.
        answer: what it arrives at.
        opened: whether the prompt ends with ``<think>`` already, as some chat templates write it; the text then begins
            inside.

    Raises:
        ValueError: when a part is empty or itself holds one of the four tags.
    """
    parts = {"think": think.strip(), "answer": answer.strip()}
    for name, part in parts.items():
        if not part:
            raise ValueError(f"the {name} part is empty")
        if _TAG.search(part):
            raise ValueError(f"the {name} part holds a tag: {part[:80]!r}")
    return f"{'' if opened else '<think>'}{parts['think']}</think>\n<answer>{parts['answer']}</answer>"


def parse(text: str, opened: bool = False) -> Response | Malformed:
    """Parse a completion.

    Args:
        text: the raw completion; white space around it is ignored (SmolVLM starts every completion with a space).
        opened: whether the prompt ends with ``<think>`` already, as some chat templates write it. The tag then belongs to the
            completion as if it stood there, so that a completion which opens a second one has several.

    Returns:
        `Response`, or `Malformed` with the first broken rule. Never raises on text.
    """
    if not text.strip():
        return Malformed("empty")
    if opened:
        text = "<think>" + text
    tags = list(_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    if tuple(names) != _ORDER:
        return Malformed(_broken_rule(names))
    think_open, think_close, answer_open, answer_close = tags
    outside = text[: think_open.start()] + text[think_close.end() : answer_open.start()] + text[answer_close.end() :]
    if outside.strip():
        return Malformed("text_outside")
    think = text[think_open.end() : think_close.start()].strip()
    answer = text[answer_open.end() : answer_close.start()].strip()
    if not think:
        return Malformed("empty_think")
    if not answer:
        return Malformed("empty_answer")
    return Response(think, answer)


def _broken_rule(names: list[str]) -> str:
    if "<think>" not in names:
        return "no_think"
    if names.count("<think>") > 1 or names.count("</think>") > 1:
        return "several_thinks"
    if "</think>" not in names:
        return "unclosed_think"
    if "<answer>" not in names:
        return "no_answer"
    if names.count("<answer>") > 1 or names.count("</answer>") > 1:
        return "several_answers"
    if "</answer>" not in names:
        return "unclosed_answer"
    return "wrong_order"
