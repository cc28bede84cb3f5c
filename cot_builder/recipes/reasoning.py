"""Reasoning that leads from the picture to its label: ``<think>…</think><answer>…</answer>``.

    for each attempt:                       the label is hidden (answer_hidden)
        ask every teacher of the row
        keep the first reply that passes every filter, the vote and the cross-check
    if none did and there is a fallback:    the label is shown (answer_given), and the row says so
        ask once more, in the same way
    otherwise the row is rejected, for the reason of the reply that came furthest

"Self-supervised CoT data construction" with several teachers is the paper's (arXiv 2506.18048); it publishes neither prompts,
nor votes, nor filters, so all of that is our reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cot_builder.filters.accept import NO_REPLIES, Accepted, accept, reasoning_without_labels
from cot_builder.filters.answers import closed_answers
from cot_builder.filters.reply_text import plain_text, reasoned_text
from cot_builder.row import Outcome, Row, Tried
from cot_builder.teachers.config import short_name
from pipeline.config.schema import CotConfig

if TYPE_CHECKING:
    from cot_builder.prompts import Prompt
    from cot_builder.teachers.config import TeacherConfig

PROMPT = "answer_hidden_v1"
_CHECK_PROMPT = "cross_check_v1"
# A label is a few tokens; the server holds the reply to the labels anyway.
_CHECK_TOKENS = 32
ATTRIBUTE, HIDDEN, GIVEN = "attribute", "answer_hidden", "answer_given"

_VOTE = pa.struct([(name, pa.int32() if name == "attempt" else pa.string()) for name in
                   ("teacher", "mode", "attempt", "answer", "reason")])  # fmt: skip
COLUMNS = [
    pa.field("think", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("completion", pa.string()),
    pa.field("teacher", pa.string()),
    pa.field("mode", pa.string()),
    pa.field("attempt", pa.int32()),
    pa.field("prompt_version", pa.string()),
    pa.field("hints", pa.list_(pa.string())),
    pa.field("votes", pa.list_(_VOTE)),
    pa.field("agreement", pa.float32()),
    pa.field("check_text", pa.float32()),
    pa.field("check_image", pa.float32()),
]


def prompts(cot: CotConfig) -> list[str]:
    """Return names of every prompt a build with these settings may use."""
    fallbacks = [cot.fallback, *(own.get("fallback") for own in cot.per_class.values())]
    checks = [_CHECK_PROMPT] if cot.cross_check else []
    return list(dict.fromkeys([cot.prompt or PROMPT, *(name for name in fallbacks if name), *checks]))


def problems(cot: CotConfig, teachers: dict[str, TeacherConfig], prompts: dict[str, Prompt]) -> Iterator[str]:
    """Yield settings this recipe cannot work with."""
    fallbacks = {cot.fallback, *(own.get("fallback") for own in cot.per_class.values())} - {None}
    for name in sorted(map(str, fallbacks)):
        if prompts[name].mode != GIVEN:
            yield f"cot.fallback: prompt {name} does not show the label; answer_given_v1 does"
    offline = [name for name, teacher in teachers.items() if teacher.kind != "openai"]
    if offline and any(own.get("attempts") == 0 for own in cot.per_class.values()):
        yield f"cot.per_class: no attempts leaves rows of the offline teacher {offline[0]} unasked; give at least 1"
    if cot.contents is not None:
        yield "cot.contents: what to observe is read by the extraction recipe alone; leave it out"
    if not cot.cross_check:
        return
    served = [name for name, teacher in teachers.items() if teacher.kind == "openai"]
    reader = cot.cross_check.teacher
    if reader is not None and short_name(reader) in offline:
        yield f"cot.cross_check.teacher: {reader} is offline and reads nothing; name a served teacher"
    if reader is None and len(served) < 2:
        yield "cot.cross_check: needs a second served teacher to read the reasoning; name one in cross_check.teacher"
    elif reader is None:
        yield from _unread(cot, served)


def _unread(cot: CotConfig, served: list[str]) -> Iterator[str]:
    """Teachers whose replies only one with a quota could read, which is for the rows that it is asked about."""
    for author in served:
        others = [name for name in served if name != author]
        if set(others) <= set(cot.quotas):
            yield (
                f"cot.cross_check: what {author} writes would be read by {' or '.join(others)}, whose quota counts no reading; "
                "name a reader in cross_check.teacher, or leave the quota out"
            )


async def settle(row: Row) -> Outcome:
    """See the module."""
    policy = row.policy
    tried: list[Tried] = []
    for attempt in range(policy.attempts):
        temperature = policy.temperature(attempt)
        kept = await _round(row, row.plan.prompt, attempt, tried, row.teachers, temperature=temperature)
        if kept:
            return Outcome(kept, tuple(tried))
    served = tuple(name for name in row.teachers if not row.plan.is_offline(name))
    if policy.fallback and served:
        fallback = row.plan.prompts[policy.fallback]
        # Its first attempt, however many went before it.
        kept = await _round(row, fallback, 0, tried, served)
        if kept:
            return Outcome(kept, tuple(tried))
    return Outcome(None, tuple(tried))


async def _round(
    row: Row, prompt: Prompt, attempt: int, tried: list[Tried], teachers: tuple[str, ...], **options: Any
) -> dict[str, Any] | None:
    """Ask every teacher once and judge the replies; gives the columns of the first that may be kept."""
    plan, example = row.plan, row.example
    hints, shown = plan.hints(example), "hints" in prompt.uses
    values = {"label": example.gold, "hints": hints}
    question = row.question(prompt.mode, prompt, attempt, picture=True, values=values, **options)
    replies = await row.ask_all((teacher, question) for teacher in teachers)
    accepted: list[tuple[int, Accepted]] = []
    for teacher, reply in zip(teachers, replies, strict=True):
        offline = plan.is_offline(teacher)
        mode, version = (ATTRIBUTE, None) if offline else (prompt.mode, prompt.version)
        verdict = accept(example, reply, plan.task, plan.cot.filters, mode, plan.special_tokens)
        text = reasoned_text(reply)
        if isinstance(verdict, Accepted):
            accepted.append((len(tried), verdict))
            tried.append(Tried(teacher, mode, attempt, version, text, None, "", verdict.answer, reply.usage, True))
        else:
            found = (verdict.reason, verdict.detail, verdict.answer)
            tried.append(Tried(teacher, mode, attempt, version, text, *found, reply.usage, verdict.right))
    agreement = _agreement(tried)
    for position, verdict in accepted:
        chosen = tried[position]
        reason, detail, scores = None, "", dict[str, float]()
        # A row that fell back has failed the vote already; what was told the label is not to be judged by it again.
        if chosen.mode == HIDDEN and agreement is not None and agreement < plan.cot.filters.min_agreement:
            reason, detail = "low_agreement", f"{agreement:.2f}"
        elif plan.cot.cross_check and chosen.mode != ATTRIBUTE:
            scores, reason, detail = await _cross_check(row, chosen.teacher, verdict.think)
        if reason is None:
            return {
                **row.origin,
                "think": verdict.think,
                "answer": verdict.answer,
                "completion": verdict.completion,
                "teacher": chosen.teacher,
                "mode": chosen.mode,
                "attempt": chosen.attempt,
                "prompt_version": chosen.prompt_version,
                "hints": [hint["name"] for hint in hints] if shown and chosen.mode != ATTRIBUTE else [],
                "votes": [_vote(each) for each in tried],
                "agreement": agreement,
                "check_text": scores.get("text"),
                "check_image": scores.get("image"),
            }
        tried[position] = Tried(**{**vars(chosen), "reason": reason, "detail": detail})
    return None


async def _cross_check(row: Row, author: str, think: str) -> tuple[dict[str, float], str | None, str]:
    """(score per view, reason or None, detail): can a second teacher arrive at the label without the conclusion?"""
    check, plan = row.plan.cot.cross_check, row.plan
    assert check is not None
    closed = closed_answers(plan.task, row.example)
    reader, left = plan.reader(author, row.example), reasoning_without_labels(think, closed)
    if not left:
        return {}, "cross_check_failed", "every sentence names an option, so nothing is left to conclude from"
    scores: dict[str, float] = {}
    for view in check.views:
        values = {"reasoning": left, "sees_picture": view == "image"}
        questions = [
            row.question(
                f"check_{view}", plan.prompts[_CHECK_PROMPT], sample, picture=view == "image", values=values,
                temperature=0.0 if check.samples == 1 else 1.0, max_tokens=_CHECK_TOKENS, choices=closed.names if closed else (),
            )
            for sample in range(check.samples)
        ]  # fmt: skip
        replies = await row.ask_all((reader, question) for question in questions)
        refused = next((reply for reply in replies if reply.refused is not None), None)
        # Says nothing of the reasoning, and its cure is another.
        if refused is not None:
            return scores, refused.refused_as, f"by {reader}, who was to read it: {refused.refused}"
        hits = sum(plan.task.judge(row.example, plain_text(reply), "direct").earned for reply in replies)
        scores[view] = hits / check.samples
    low = [f"{view} {score:.2f} < {check.min_score:g}" for view, score in scores.items() if score < check.min_score]
    return scores, "cross_check_failed" if low else None, f"read by {reader}: {', '.join(low)}" if low else ""


def _agreement(tried: list[Tried]) -> float | None:
    """Share of the replies that were not told the answer and give it; None when there are none.

    A request that failed is no reply. Of a right one the reason may be that its reader's request did.
    """
    hidden = [each for each in tried if each.mode == HIDDEN and (each.right or each.reason not in NO_REPLIES)]
    return sum(each.right for each in hidden) / len(hidden) if hidden else None


def _vote(each: Tried) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("teacher", "mode", "attempt", "answer", "reason")}
