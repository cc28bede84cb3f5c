"""The one judge of teachers' replies: which become training rows. Pure: a bad reply is data with a reason, never an exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cot_builder.filters.answers import closed_answers
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
from pipeline.scoring.response import Malformed, parse, render
from pipeline.types import Judgement, Question

if TYPE_CHECKING:
    from pipeline.config.schema import FilterConfig

GIVEN_UP_REASONS = ("server_error", "no_reply", "moderated")
"""Reasons of a request at which a server failed again and again while it answered others."""
NO_REPLIES = ("request_refused", *GIVEN_UP_REASONS)
"""Reasons of a request that nothing was said to."""
REASONS = (
    "unreadable_image",
    "no_picture",
    *NO_REPLIES,
    "no_statements",
    "refusal",
    "truncated",
    *GRAMMAR_REASONS,
    "not_a_label",
    "not_an_answer",
    "wrong_label",
    "wrong_answer",
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
    """What the reply answered, where it could be read; it counts as a vote whatever the reason."""
    right: bool = False
    """Whether that is the gold answer."""


def accept(
    row: Question, reply: Reply, task: Task, filters: FilterConfig, mode: str, special: Sequence[str] = ()
) -> Accepted | Rejected:
    """Judge a teacher's reasoned reply about a row; the first broken rule is the reason.

    A reply that is cut off at the token limit is `truncated` where the grammar is broken, whatever the grammar says of the
    rest: its cure is a larger max_tokens, not a better prompt. One that is whole in spite of the limit is judged as any other.

    Args:
        row: the row, with its gold answer and its annotated attributes.
        reply: what the teacher said.
        task: the judge of grammar and answer.
        filters: the limits.
        mode: answer_given: reasoning that names the answer before its conclusion is leakage as well. attribute: the offline
            teacher's templates, which are judged by grammar, answer, leaked phrases and contradiction alone. What reasoning
            names can be told where a row's answers are closed (`closed_answers`), and is not asked elsewhere.
        special: further tokens that the student's tokenizer reads as control tokens.
    """
    if reply.refused is not None:
        return Rejected(reply.refused_as, reply.refused)
    said = reasoned_text(reply)
    verdict = task.judge(row, said, "think")
    answer, right = verdict.answer, verdict.earned
    if mode != "attribute" and (words := refusal(said)):
        return Rejected("refusal", words, answer, right)
    if answer is None or verdict.think is None:
        return _unreadable(reply, verdict, task)
    if not right:
        return Rejected(
            "wrong_label" if task.labels is not None else "wrong_answer", f"{answer}, not {row.gold}", answer
        )
    if token := special_token_in(verdict.think, special):
        return Rejected("special_token", token, answer, right)
    closed = closed_answers(task, row)
    if mode != "attribute" and closed and (named := other_conclusion(verdict.think, answer, closed)):
        return Rejected("other_conclusion", f"concludes {named}, answers {answer}", answer, right)
    if mode == "answer_given" and closed and (named := label_before_conclusion(verdict.think, row.gold, closed)):
        return Rejected("leakage", f"names {named} before its conclusion", answer, right)
    if fault := _fault(verdict.think, row, filters, prose=mode != "attribute"):
        return Rejected(*fault, answer, right)
    if closed is None or answer not in closed.names:
        # There is no one spelling, so the teacher's own is kept, in which it was found right.
        response = parse(said)
        assert not isinstance(response, Malformed)
        if token := special_token_in(response.answer, special):
            return Rejected("special_token", token, answer, right)
        answer = response.answer
    return Accepted(verdict.think, answer, render(verdict.think, answer))


def _unreadable(reply: Reply, verdict: Judgement, task: Task) -> Rejected:
    """Why no answer could be read: the broken rule of the grammar, or that what stands in <answer> is none."""
    broken = verdict.reason or "not_a_label"
    if verdict.think is not None and task.labels is None:
        return Rejected("not_an_answer", broken)
    return Rejected("truncated", broken) if _cut_off(reply) and broken in GRAMMAR_REASONS else Rejected(broken)


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


def reasoning_without_labels(think: str, labels: LabelSet | None) -> str:
    """Return reasoning without the sentences that name a label or an alias, its conclusion first of all; "" when
    nothing is left.

    Without a closed list of answers nothing tells which sentence names one, so the last goes, which concludes.
    """
    if labels is None:
        return " ".join(sentences(think)[:-1])
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
