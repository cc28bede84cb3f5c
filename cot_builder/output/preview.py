"""A look before money is spent: a few rows through every teacher, as a page. The build finds the replies in the journal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence

from cot_builder.build.ask import Asker
from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import BuildPlan
from cot_builder.build.progress import Progress
from cot_builder.build.run import settle, teachers_of
from cot_builder.output.gallery import PreviewReply, PreviewRow, preview_page
from cot_builder.row import Tried
from cot_builder.teachers.base import Reply, TeacherQuestion, Unanswered
from pipeline.files import write_atomic
from pipeline.formatting import join_counts

_Row = tuple[int, list[tuple[list[PreviewReply], Counter[str]]]]
"""Index of a row, and per teacher its replies and the tokens they used."""


def preview(plan: BuildPlan, journal: ReplyCache, rows: int) -> tuple[str, list[str]]:
    """Ask, write ``cot/preview.html`` and return the outcome in words, and a problem per teacher of whom no reply was kept."""
    asked = asyncio.run(_ask(plan, journal, rows))
    shown = [
        PreviewRow(
            example.id,
            example.gold,
            next(iter(example.images), None),
            [reply for replies, _ in of_teachers for reply in replies],
            example.text if plan.task.question is None else "",
        )
        for index, of_teachers in asked
        for example in [plan.split.rows[index]]
    ]
    forecast = "\n".join(_forecast(plan, asked))
    title = f"{plan.config.name}: preview of {len(shown)} rows"
    page = plan.folder / "preview.html"
    write_atomic(page, preview_page(title, shown, plan.prompt_texts, forecast))
    words = [
        f"{row.id} ({row.label})  {reply.teacher}, {reply.mode or 'asked'}: {reply.state}  {_beginning(reply)}"
        for row in shown
        for reply in row.replies
    ]
    replies = [reply for row in shown for reply in row.replies]
    problems = [problem for name in plan.asked if (problem := _problem(name, replies))]
    return "\n".join([*words, *([forecast] if forecast else []), str(page)]), problems


def _beginning(reply: PreviewReply) -> str:
    return " ".join((reply.text or reply.detail).split())[:300]


def _problem(teacher: str, replies: Sequence[PreviewReply]) -> str:
    """What is wrong with a teacher none of whose replies was kept, in the words of the first; "" with one that was."""
    own = [reply for reply in replies if reply.teacher == teacher]
    if not own or any(reply.state == "kept" for reply in own):
        return ""
    counts = join_counts(Counter(reply.state for reply in own))
    said = " ".join((own[0].detail or own[0].text).split())[:500]
    return f"teacher {teacher}: none of {len(own)} replies is kept ({counts}); the first: {said}"


def _forecast(plan: BuildPlan, asked: list[_Row]) -> Iterator[str]:
    """What the whole build will cost, by what these rows did."""
    for position, name in enumerate(plan.asked):
        used = sum((of_teachers[position][1] for _, of_teachers in asked), Counter[str]())
        if not used.total():
            continue
        rows = sum(name in plan.assigned[index] for index in plan.rows)
        read, written = (used[kind] / len(asked) for kind in ("prompt_tokens", "completion_tokens"))
        yield (
            f"{name}: {read:,.0f} tokens in and {written:,.0f} out per row; "
            f"its {rows:,} rows come to about {read * rows:,.0f} in and {written * rows:,.0f} out"
        )


async def _ask(plan: BuildPlan, journal: ReplyCache, rows: int) -> list[_Row]:
    teachers = teachers_of(plan)
    asker = Asker(teachers, journal, Progress(rows))
    once = set[tuple[str, str, int]]()
    """Questions about text alone, which are asked once for all rows."""

    async def of(index: int, name: str) -> tuple[list[PreviewReply], Counter[str]]:
        used = Counter[str]()

        async def ask(teacher: str, question: TeacherQuestion) -> Reply:
            reply = await asker(teacher, question)
            if question.pictures or (teacher, question.text, question.attempt) not in once:
                used.update({kind: reply.usage.get(kind) or 0 for kind in ("prompt_tokens", "completion_tokens")})
            once.add((teacher, question.text, question.attempt))
            return reply

        try:
            outcome = await settle(plan, index, ask, (name,))
        except Unanswered as error:
            return [PreviewReply(name, "", "", "unasked", str(error), 0)], used
        return [_reply(each) for each in outcome.tried], used

    async def row(index: int) -> _Row:
        return index, await asyncio.gather(*(of(index, name) for name in plan.asked))

    try:
        return await asyncio.gather(*(row(index) for index in plan.rows[:rows]))
    finally:
        for teacher in teachers.values():
            await teacher.close()


def _reply(each: Tried) -> PreviewReply:
    tokens = (each.usage.get("prompt_tokens") or 0) + (each.usage.get("completion_tokens") or 0)
    return PreviewReply(each.teacher, each.mode, each.text, each.reason or "kept", each.detail, tokens)
