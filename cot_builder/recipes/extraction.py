"""Fine-grained descriptions that hold what a question needs: visual extraction tuning (Extract+Think, arXiv 2511.17487).

    once per question:  what to observe in a picture to answer it          (text only)
    question + answer:  self-contained declarative statements              (text only, 1,024 tokens)
    for each attempt:   a detailed description of the picture that works the statements in   (2,048 tokens)

The training pair is (perception prompt that names what to observe -> description), as columns `prompt` and `completion`: an SFT
stage with ``data: cot`` takes them as they are. The paper describes 512 x 512 pictures: set the teacher's `image_size`.

Its prompts lie in the repository markendo/downscaling_intelligence (MIT): ``visual_extraction_tuning_pipeline.py`` for statements
and descriptions, ``lmms_eval_custom_files/`` for perceivers. Ours are words of our own; asking the text-only questions greedily
is our reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from cot_builder.filters.accept import Rejected, accept_text
from cot_builder.filters.answers import answer_words
from cot_builder.filters.reply_text import plain_text
from cot_builder.row import Outcome, Row, Tried
from pipeline.config.schema import CotConfig
from pipeline.config.special_tokens import special_token_in

if TYPE_CHECKING:
    from cot_builder.prompts import Prompt
    from cot_builder.teachers.config import TeacherConfig

PROMPT = "describe_v1"
_OBSERVE, _STATEMENTS, _PERCEIVE = "observe_v1", "statements_v1", "perceive_v1"
_OBSERVE_TOKENS, _STATEMENT_TOKENS, _DESCRIPTION_TOKENS = 128, 1024, 2048
_MODE = "description"
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+")

COLUMNS = [
    pa.field("prompt", pa.string()),
    pa.field("completion", pa.string()),
    pa.field("statements", pa.list_(pa.string())),
    pa.field("observe", pa.string()),
    pa.field("teacher", pa.string()),
    pa.field("mode", pa.string()),
    pa.field("attempt", pa.int32()),
    pa.field("prompt_version", pa.string()),
    pa.field("hints", pa.list_(pa.string())),
]


def prompts(cot: CotConfig) -> list[str]:
    """Return names of every prompt a build with these settings may use."""
    observe = [_OBSERVE] if cot.contents is None else []
    return [cot.prompt or PROMPT, *observe, _STATEMENTS, _PERCEIVE]


def problems(cot: CotConfig, teachers: dict[str, TeacherConfig], prompts: dict[str, Prompt]) -> Iterator[str]:
    """Yield settings this recipe cannot work with."""
    for name, teacher in teachers.items():
        if teacher.kind not in ("openai", "attribute"):
            yield f"cot.teachers: {name} describes no picture; the extraction recipe needs served teachers, or attribute"
    if cot.fallback or any("fallback" in own for own in cot.per_class.values()):
        yield "cot.fallback: the extraction recipe always shows the answer, so it has no fallback; remove it"
    if cot.cross_check:
        yield "cot.cross_check: is for the reasoning recipe; descriptions draw no conclusion to check"
    if cot.contents is None and set(teachers) <= set(cot.quotas):
        yield (
            "cot.quotas: one teacher is asked what to observe for all questions, and each has a quota; leave one without, or say "
            "what to observe (cot.contents)"
        )
    main = prompts[cot.prompt or PROMPT]
    if "statements" not in main.uses:
        yield f"cot.prompt: {main.name} is not a description prompt (it must use statements); {PROMPT} is"


async def settle(row: Row) -> Outcome:
    """See the module."""
    plan, example = row.plan, row.example
    hints, policy = plan.hints(example), row.policy
    tried: list[Tried] = []
    if not row.pictures:
        return Outcome(None, (Tried(row.teachers[0], _MODE, 0, None, "", "no_picture"),))
    observe = await _observed(row)
    # Statements are asked for greedily, so another attempt would get the same reply.
    silent: set[str] = set()
    for attempt in range(policy.attempts):
        for teacher in row.teachers:
            if teacher in silent:
                continue
            values = {"label": answer_words(plan.task, example), "hints": hints}
            question = row.question(
                "statements", plan.prompts[_STATEMENTS], 0, picture=False, values=values, temperature=0.0,
                max_tokens=_STATEMENT_TOKENS,
            )  # fmt: skip
            reply = await row.ask(teacher, question)
            text = plain_text(reply)
            statements = _lines(text) if reply.refused is None else []
            if not statements or not observe:
                silent.add(teacher)
                detail = "nothing to observe" if not observe else ""
                reason = "no_statements" if reply.refused is None else reply.refused_as
                tried.append(
                    Tried(teacher, "statements", attempt, plan.prompts[_STATEMENTS].version, text, reason, detail)
                )
                continue
            values = {"observe": observe, "statements": statements}
            question = row.question(
                _MODE, plan.prompt, attempt, picture=True, values=values, temperature=policy.temperature(attempt),
                max_tokens=_DESCRIPTION_TOKENS,
            )  # fmt: skip
            reply = await row.ask(teacher, question)
            verdict = accept_text(example, reply, plan.cot.filters, plan.special_tokens)
            text = plain_text(reply)
            if isinstance(verdict, Rejected):
                found = (verdict.reason, verdict.detail, None)
                tried.append(Tried(teacher, _MODE, attempt, plan.prompt.version, text, *found, reply.usage))
                continue
            tried.append(Tried(teacher, _MODE, attempt, plan.prompt.version, text, None, usage=reply.usage))
            kept = {
                **row.origin,
                "prompt": plan.prompts[_PERCEIVE].render(plan.task, example, observe=observe),
                "completion": verdict,
                "statements": statements,
                "observe": observe,
                "teacher": teacher,
                "mode": _MODE,
                "attempt": attempt,
                "prompt_version": plan.prompt.version,
                "hints": [hint["name"] for hint in hints],
            }
            return Outcome(kept, tuple(tried))
    return Outcome(None, tuple(tried))


async def _observed(row: Row) -> str:
    """What to look for in the picture; "" where nobody says."""
    plan = row.plan
    if plan.contents is not None:
        return plan.contents.find(row.example.id, row.bare_question) or ""
    # One text for all rows of one question, so it is asked of one teacher, the same for every row; not of one with a quota.
    asked = row.question(
        "observe", plan.prompts[_OBSERVE], 0, picture=False, temperature=0.0, max_tokens=_OBSERVE_TOKENS
    )
    said = await row.ask(next(name for name in plan.teachers if name not in plan.cot.quotas), asked)
    observe = " ".join(plain_text(said).split()).rstrip(" .") if said.refused is None else ""
    # It would stand in every row's prompt.
    return "" if special_token_in(observe, plan.special_tokens) else observe


def _lines(text: str) -> list[str]:
    """Statements, one per line, without bullets; each once."""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))
