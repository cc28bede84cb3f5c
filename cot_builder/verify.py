"""Which replies become training rows. Pure: a bad reply is data with a reason, never an exception."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cot_builder.teachers import Reply
from pipeline.response import REASONS as GRAMMAR_REASONS
from pipeline.response import render
from pipeline.tasks import Example, Task

REASONS = (*GRAMMAR_REASONS, "not_a_label", "wrong_label", "leakage", "request_refused", "unreadable_image")
"""Every reason a row can be rejected for."""

# Words that only a teacher who was told the answer, or who talks about the exercise, writes.
_LEAKAGE = re.compile(
    r"""\b(?:
      (?:the|this)\ (?:given|provided|gold|target|true|assigned|specified)\ (?:label|answer|emotion|class|category)
    | (?:the|this)\ (?:correct|right|expected|known)\ (?:label|answer|option|choice)
    | ground[-\ ]truth
    | (?:label+ed|annotated|tagged)\ as
    | (?:as|was|were|is)\ (?:given|told|instructed)\ (?:in|by)\ the\ (?:prompt|question|label)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Accepted:
    """A reply worth training on, in its canonical form."""

    think: str
    answer: str
    completion: str


@dataclass(frozen=True)
class Rejected:
    """A reply that is not; `reason` is one of `REASONS`."""

    reason: str


def accept(row: Example, reply: Reply, task: Task) -> Accepted | Rejected:
    """Judge a teacher's reply about a row: grammar, label, then leakage; the first broken rule is the reason."""
    if reply.refused is not None:
        return Rejected("request_refused")
    verdict = task.judge(reply.text, row.label)
    if verdict.label is None or verdict.think is None:
        return Rejected(verdict.reason or "not_a_label")
    if not verdict.correct:
        return Rejected("wrong_label")
    if leaks(verdict.think):
        return Rejected("leakage")
    return Accepted(verdict.think, verdict.label, render(verdict.think, verdict.label))


def leaks(think: str) -> bool:
    """Whether the reasoning speaks of an answer it was told, or of the labelling itself."""
    return _LEAKAGE.search(think) is not None
