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
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


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


def render(think: str, answer: str) -> str:
    """Return the canonical text of a response; `parse` gives the same parts back.

    Raises:
        ValueError: when a part is empty or itself holds one of the four tags.
    """
    parts = {"think": think.strip(), "answer": answer.strip()}
    for name, part in parts.items():
        if not part:
            raise ValueError(f"the {name} part is empty")
        if _TAG.search(part):
            raise ValueError(f"the {name} part holds a tag: {part[:80]!r}")
    return f"<think>{parts['think']}</think>\n<answer>{parts['answer']}</answer>"


def parse(text: str) -> Response | Malformed:
    """Parse a completion.

    Args:
        text: the raw completion; white space around it is ignored (SmolVLM starts every completion with a space).

    Returns:
        `Response`, or `Malformed` with the first broken rule. Never raises on text.
    """
    if not text.strip():
        return Malformed("empty")
    tags = list(_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    if tuple(names) != TAGS:
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


_OPENED = re.compile(r"<think>\s*\Z")


def opens_thought(prompt: str) -> bool:
    """Check whether a prompt ends with ``<think>``, as chat templates of thinking models write it for the model."""
    return _OPENED.search(prompt) is not None


def continuation(prompt: str, response: str) -> str:
    """Return what is to be written behind a prompt so that a response stands there; `completed` gives the response back.

    Args:
        prompt: as the model reads it. Where it opens a thought, a response that has none closes it at once.
        response: of `render`, or an answer alone.
    """
    if not opens_thought(prompt):
        return response
    return response.removeprefix("<think>") if response.startswith("<think>") else f"</think>\n{response}"


def completed(prompt: str, text: str) -> str:
    """Return a completion with the ``<think>`` that its prompt ends with: a thought opened for the model is the completion's."""
    return f"<think>{text}" if opens_thought(prompt) else text


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
