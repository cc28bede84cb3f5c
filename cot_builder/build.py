"""A build: ask each row of its teacher until a reply is kept, then write what was kept, in order.

Two phases. Asking fills the journal and remembers, per row, only the numbers of its replies there. Writing
(cot_builder/output.py) reads them back in the order of the split and judges them. So memory stays small, the same
replies give the same bytes whatever order they came in, and a second build asks nothing again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cot_builder.journal import Journal
from cot_builder.progress import Progress
from cot_builder.prompt import Prompt, load_prompt
from cot_builder.teachers import (
    AttributeConfig,
    Teacher,
    TeacherConfig,
    TeacherDown,
    Unanswered,
    UnreadableImage,
    check_teacher,
    load_teacher,
    make_teachers,
)
from cot_builder.verify import Accepted, accept
from pipeline.config import CotConfig, RunConfig
from pipeline.errors import UserError
from pipeline.run import RunDir
from pipeline.tasks import Example, Split, Task, load_task


@dataclass(frozen=True)
class Plan:
    """Everything a build needs, resolved and checked."""

    config: RunConfig
    cot: CotConfig
    folder: Path
    task: Task
    split: Split
    teachers: dict[str, TeacherConfig]
    prompt: Prompt

    def teacher_of(self, row: Example) -> int:
        """Which teacher a row is asked of: by its id, so that it does not depend on the other rows."""
        return int.from_bytes(hashlib.sha256(f"teacher:{row.id}".encode()).digest()[:8]) % len(self.teachers)

    def origin(self, name: str) -> tuple[str, str | None]:
        """(mode, prompt version) of a teacher's rows: how it came by its answer, and what it was asked."""
        if isinstance(self.teachers[name], AttributeConfig):
            return "attribute", None
        return self.prompt.mode, self.prompt.name


@dataclass(frozen=True)
class Settled:
    """What became of one row: its replies' numbers in the journal, and why there is no (further) one."""

    replies: tuple[int, ...] = ()
    unasked: str | None = None
    unreadable: str | None = None


@dataclass
class Asked:
    """The outcome of asking."""

    rows: list[Settled | None]
    """One per row; None for those not reached."""
    down: list[str]
    """Messages of the teachers that stopped answering."""
    requests: int = 0
    """Replies that were not in the journal before."""


def plan(config: RunConfig) -> Plan:
    """Resolve and check a build.

    Raises:
        UserError: naming everything that is wrong with the configuration.
    """
    cot = config.cot
    if cot is None:
        raise UserError("this run has no cot: block, so there is nothing to build")
    counts = {"attempts": cot.attempts, "concurrency": cot.concurrency, "min_rows": cot.min_rows}
    problems = [f"cot.{name}: {count} is less than 1" for name, count in counts.items() if count < 1]
    if not cot.teachers:
        problems.append("cot.teachers: empty; name at least one file of configs/teachers")
    teachers: dict[str, TeacherConfig] = {}
    for name in cot.teachers:
        short = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        if short in teachers:
            problems.append(f"cot.teachers: {short!r} is named twice")
        try:
            teachers[short] = load_teacher(name)
        except UserError as error:
            problems += error.problems
    prompt = None
    try:
        prompt = load_prompt(cot.prompt)
    except UserError as error:
        problems += error.problems
    if problems or prompt is None:
        raise UserError(problems)
    run = RunDir(config.output_dir, config.name)
    task = load_task(config.task, run.cache)
    problems = [problem for name, teacher in teachers.items() for problem in check_teacher(teacher, name, task)]
    if problems:
        raise UserError(problems)
    return Plan(config, cot, run.cot, task, task.select(cot.split), teachers, prompt)


def ask(plan: Plan, journal: Journal, progress: Progress) -> Asked:
    """Ask every row that the journal cannot answer. Rows a dead teacher leaves unasked are said to be so."""
    asked = Asked([None] * len(plan.split.examples), [])
    try:
        asyncio.run(_ask_all(plan, journal, progress, asked))
    except* UserError as group:
        raise group.exceptions[0] from None
    progress.finish()
    return asked


def teachers_of(plan: Plan) -> list[Teacher]:
    """The plan's teachers, ready to ask."""
    return make_teachers(
        plan.teachers,
        plan.task,
        plan.split.examples,
        prompt=plan.prompt,
        seed=plan.config.seed,
        concurrency=plan.cot.concurrency,
    )


async def _ask_all(plan: Plan, journal: Journal, progress: Progress, asked: Asked) -> None:
    teachers = teachers_of(plan)
    try:
        async with asyncio.TaskGroup() as group:
            for position, teacher in enumerate(teachers):
                rows = _rows_of(plan, position)
                for _ in range(teacher.concurrency):
                    group.create_task(_work(plan, teacher, rows, journal, progress, asked))
    finally:
        for teacher in teachers:
            await teacher.close()


def _rows_of(plan: Plan, position: int) -> Iterator[int]:
    """Indices of the rows that are asked of one teacher."""
    return (index for index, row in enumerate(plan.split.examples) if plan.teacher_of(row) == position)


async def _work(
    plan: Plan, teacher: Teacher, rows: Iterator[int], journal: Journal, progress: Progress, asked: Asked
) -> None:
    """Settle rows from `rows`, shared by all workers of a teacher, until there are none or the teacher is down."""
    for index in rows:
        try:
            asked.rows[index] = await _settle(plan, teacher, plan.split.examples[index], journal, progress, asked)
        except TeacherDown as down:
            message = f"teacher {teacher.name}: {down}"
            if message not in asked.down:
                asked.down.append(message)
            return
        progress.tick()
        await asyncio.sleep(0)  # An offline teacher, or a full journal, must not keep the others waiting.


async def _settle(
    plan: Plan, teacher: Teacher, row: Example, journal: Journal, progress: Progress, asked: Asked
) -> Settled:
    numbers: list[int] = []
    for attempt in range(plan.cot.attempts):
        try:
            request = teacher.request(row, attempt)
            found = journal.find(request.key)
            if found is None:
                reply = await teacher.ask(row, request)
                number = journal.add(request, reply, row_id=row.id, teacher=teacher.name, attempt=attempt)
                asked.requests += 1
            else:
                number, reply = found
        except UnreadableImage as error:
            progress.rejected += 1
            return Settled(tuple(numbers), unreadable=str(error))
        except TeacherDown:
            raise
        except Unanswered as error:
            progress.unasked += 1
            return Settled(tuple(numbers), unasked=str(error))
        numbers.append(number)
        if isinstance(accept(row, reply, plan.task), Accepted):
            progress.kept += 1
            return Settled(tuple(numbers))
    progress.rejected += 1
    return Settled(tuple(numbers))


async def preview(plan: Plan, journal: Journal, rows: int, show: Callable[[str], None]) -> None:
    """Ask every teacher about the first rows and show replies and verdicts; the build finds them in the journal."""
    teachers = teachers_of(plan)
    try:
        for row in plan.split.examples[:rows]:
            show(f"\n== {row.id} ({row.label}) {row.image}")
            for teacher in teachers:
                try:
                    request = teacher.request(row, 0)
                    found = journal.find(request.key)
                    reply = found[1] if found else await teacher.ask(row, request)
                    if not found:
                        journal.add(request, reply, row_id=row.id, teacher=teacher.name, attempt=0)
                except (Unanswered, UnreadableImage) as error:
                    show(f"-- {teacher.name}: {type(error).__name__}: {error}")
                    continue
                verdict = accept(row, reply, plan.task)
                state = "kept" if isinstance(verdict, Accepted) else f"rejected: {verdict.reason}"
                show(f"-- {teacher.name}: {state}\n{reply.text if reply.refused is None else reply.refused}")
    finally:
        for teacher in teachers:
            await teacher.close()
