"""The one judge of teachers' replies: which become training rows. Pure: a bad reply is data with a reason, never an exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cot_builder.filters.contradiction import contradiction
from cot_builder.filters.language import other_language
from cot_builder.filters.reply_text import plain_text, reasoned_text
from cot_builder.filters.text_rules import (
    label_before_conclusion,
    leaked_phrase,
    length,
    other_conclusion,
    refusal,
    repetition,
    sentences,
)
from cot_builder.teachers.base import Reply
from pipeline.config.special_tokens import special_token_in
from pipeline.data.task import Task
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.response import REASONS as GRAMMAR_REASONS
from pipeline.scoring.response import render
from pipeline.types import Question

if TYPE_CHECKING:
    from pipeline.config.schema import FilterConfig

GIVEN_UP_REASONS = ("server_error", "no_reply", "moderated")
"""Reasons of a request at which a server failed again and again while it answered others."""
REASONS = (
    "unreadable_image",
    "request_refused",
    *GIVEN_UP_REASONS,
    "no_statements",
    "refusal",
    "truncated",
    *GRAMMAR_REASONS,
    "not_a_label",
    "wrong_label",
    "special_token",
    "other_conclusion",
    "leakage",
    "wrong_language",
    "too_short",
    "too_long",
    "repetition",
    "contradiction",
    "low_agreement",
    "cross_check_failed",
    "near_duplicate",
    "balanced_out",
)
"""Every reason a reply or a row can be rejected for, in the order in which they are asked."""


@dataclass(frozen=True)
class Accepted:
    """A reply worth training on, in its canonical form."""

    think: str
    answer: str
    completion: str


@dataclass(frozen=True)
class Rejected:
    """A reply that is not; `reason` is one of `REASONS`, and `detail` says what was found."""

    reason: str
    detail: str = ""
    answer: str | None = None
    """The canonical label the reply answered with, where it could be read; it counts as a vote whatever the reason."""


def accept(
    row: Question, reply: Reply, task: Task, filters: FilterConfig, mode: str, special: Sequence[str] = ()
) -> Accepted | Rejected:
    """Judge a teacher's reasoned reply about a row; the first broken rule is the reason.

    A reply that is cut off at the token limit is `truncated` where the grammar is broken, whatever the grammar says of the
    rest: its cure is a larger max_tokens, not a better prompt. One that is whole in spite of the limit is judged as any other.

    Args:
        row: the row, with its label and its annotated attributes.
        reply: what the teacher said.
        task: the judge of grammar and label.
        filters: the limits.
        mode: answer_given: reasoning that names the label before its conclusion is leakage as well. attribute: the offline
            teacher's templates, which are judged by grammar, label, leaked phrases and contradiction alone.
        special: further tokens that the student's tokenizer reads as control tokens.
    """
    if reply.refused is not None:
        return Rejected(reply.refused_as, reply.refused)
    said = reasoned_text(reply)
    verdict = task.judge(row, said, "think")
    if mode != "attribute" and (words := refusal(said)):
        return Rejected("refusal", words, verdict.answer)
    if verdict.answer is None or verdict.think is None:
        broken = verdict.reason or "not_a_label"
        return Rejected("truncated", broken) if _cut_off(reply) and broken in GRAMMAR_REASONS else Rejected(broken)
    answer = verdict.answer
    if not verdict.correct:
        return Rejected("wrong_label", f"{answer}, not {row.gold}", answer)
    if token := special_token_in(verdict.think, special):
        return Rejected("special_token", token, answer)
    if mode != "attribute" and (named := other_conclusion(verdict.think, answer, task.closed_labels)):
        return Rejected("other_conclusion", f"concludes {named}, answers {answer}", answer)
    if mode == "answer_given" and (named := label_before_conclusion(verdict.think, row.gold, task.closed_labels)):
        return Rejected("leakage", f"names {named} before its conclusion", answer)
    if fault := _fault(verdict.think, row, filters, prose=mode != "attribute"):
        return Rejected(*fault, answer)
    return Accepted(verdict.think, answer, render(verdict.think, answer))


def accept_text(row: Question, reply: Reply, filters: FilterConfig, special: Sequence[str] = ()) -> str | Rejected:
    """Judge free text about a row, such as a description: the stripped text, or why it is not kept.

    It has no grammar that would show whether it is whole, so one that was cut off at the token limit is `truncated` always.
    """
    if reply.refused is not None:
        return Rejected(reply.refused_as, reply.refused)
    text = plain_text(reply)
    if words := refusal(text):
        return Rejected("refusal", words)
    if _cut_off(reply):
        return Rejected("truncated")
    if not text:
        return Rejected("empty")
    if token := special_token_in(text, special):
        return Rejected("special_token", token)
    fault = _fault(text, row, filters, prose=True)
    return Rejected(*fault) if fault else text


def reasoning_without_labels(think: str, labels: LabelSet) -> str:
    """Return reasoning without the sentences that name a label or an alias, its conclusion first of all; "" when
    nothing is left.
    """
    if not labels.mentioned(think):
        return think.strip()
    return " ".join(sentence for sentence in sentences(think) if not labels.mentioned(sentence))


def _cut_off(reply: Reply) -> bool:
    return reply.usage.get("finish_reason") == "length"


def _fault(text: str, row: Question, filters: FilterConfig, *, prose: bool) -> tuple[str, str] | None:
    """The first rule for texts that `text` breaks, and what was found; `prose` is text that no template wrote."""
    if leaked := leaked_phrase(text):
        return "leakage", leaked
    if prose:
        if filters.language is not None and (other := other_language(text, filters.language)):
            return "wrong_language", other
        if out := length(text, filters.min_words, filters.max_words):
            return out
        if repeated := repetition(text, filters.max_repetition):
            return "repetition", repeated
    if filters.contradiction and (against := contradiction(text, row.attributes)):
        return "contradiction", against
    return None
