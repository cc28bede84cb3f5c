"""A build: settle every row by asking, then settle it again from the journal, in order, to write what was kept.

Asking fills the journal and remembers only which rows it could not settle. Writing (cot_builder/output/write.py) runs the same
recipe over the journal in the order of the split. So memory stays small, the same replies give the same bytes whatever order
they came in, and a second build asks nothing again.
"""

from __future__ import annotations

import asyncio
import resource
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cot_builder.build.ask import Asker
from cot_builder.build.first_replies import FirstReplies
from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import BuildPlan
from cot_builder.build.progress import Progress
from cot_builder.row import AskTeacher, Outcome, Row, Tried
from cot_builder.teachers.base import Teacher, TeacherDown, Unanswered
from cot_builder.teachers.config import AttributeConfig, ListerConfig, TeacherConfig, WalkerConfig
from cot_builder.teachers.images import TeacherImage
from pipeline.data.conversations import unanswered
from pipeline.data.images import ImageError
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.types import Question


@dataclass
class BuildOutcome:
    """The outcome of asking."""

    unasked: dict[int, str] = field(default_factory=dict)
    """Index of a row that could not be settled: why."""
    down: list[str] = field(default_factory=list)
    """Messages of the teachers that stopped answering."""
    requests: int = 0
    """Replies that were not in the journal before."""
    stopped_by: signal.Signals | None = None
    """The signal that ended it early."""
    failure: Exception | None = None
    """What ended it early otherwise."""


def teachers_of(plan: BuildPlan) -> dict[str, Teacher]:
    """Return the plan's teachers, ready to ask."""
    return make_teachers(
        plan.teachers, plan.task, plan.split.rows, seed=plan.config.seed, concurrency=plan.cot.concurrency
    )


def ask(plan: BuildPlan, journal: ReplyCache) -> tuple[BuildOutcome, float]:
    """Ask every row that the journal cannot answer, under a live line.

    Returns:
        What came of it, and the seconds it took.

    Raises:
        UserError: when replies cannot be recorded.
    """
    try:
        return asyncio.run(_ask_all(plan, journal))
    except asyncio.CancelledError:
        # The second signal.
        raise KeyboardInterrupt from None


async def settle(plan: BuildPlan, index: int, ask: AskTeacher, teachers: tuple[str, ...] | None = None) -> Outcome:
    """Run the recipe on one row. An unreadable picture is a rejection like any other.

    Args:
        plan: the build.
        index: of the row in the split.
        ask: how teachers are asked.
        teachers: those to ask; None: the row's own.

    Raises:
        Unanswered: when a reply it needs is not to be had.
        UserError: when the recipe keeps a row that brings no prompt and that the task's judge does not find right.
    """
    example = plan.split.rows[index]
    names = teachers or plan.assigned[index]
    pictures = tuple(TeacherImage(path, plan.digests.get(path)) for path in example.images)
    try:
        outcome = await plan.recipe.settle(Row(example, names, plan, pictures, ask))
    except ImageError as error:
        # The task found it whole, so its disk is away: a later build asks again.
        if error.reason == "missing_image":
            raise Unanswered("the picture is missing") from error
        return Outcome(None, (Tried(names[0], "picture", 0, None, "", "unreadable_image", str(error)),))
    finally:
        plan.digests.update({picture.path: picture.digest for picture in pictures if picture.is_read})
    kept = None if plan.recipe.brings_prompt else outcome.kept
    if kept is not None and (problem := unanswered(plan.task, [example], [kept["completion"]])):
        raise UserError(f"recipe {plan.recipe.name}: {problem}")
    return outcome


async def _ask_all(plan: BuildPlan, journal: ReplyCache) -> tuple[BuildOutcome, float]:
    teachers = teachers_of(plan)
    asked = BuildOutcome()
    progress = Progress(
        len(plan.rows), endpoints=lambda: [end for each in teachers.values() for end in each.endpoints()]
    )
    asker, first = Asker(teachers, journal, progress), FirstReplies(plan, teachers)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A connection is a file, and many systems begin with 1024 of them.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    stop = _Stop(teachers, asked)
    clock = asyncio.create_task(_tick(progress))
    # One per teacher, so that a slow one holds up its own rows only.
    lanes: dict[str, list[int]] = defaultdict(list)
    # What was refused before comes last: a teacher's other replies tell that it answers, if all of these are refused again.
    for index in sorted(plan.rows, key=lambda row: plan.split.rows[row].id in journal.rows_asked_again):
        names = plan.assigned[index]
        # Rows that also ask a server wait for that, not for the offline teacher's one worker.
        lanes[next((name for name in names if not plan.is_offline(name)), names[0])].append(index)
    queues = {name: iter(indices) for name, indices in lanes.items()}
    try:
        async with asyncio.TaskGroup() as group:
            for name, indices in lanes.items():
                rows = queues[name]
                for _ in range(min(len(indices), teachers[name].concurrency)):
                    group.create_task(_work(plan, name, rows, asker, progress, asked, first))
    finally:
        # Those of a teacher that is down.
        for rows in queues.values():
            asked.unasked.update(dict.fromkeys(rows, "not asked yet"))
        stop.restore()
        clock.cancel()
        progress.finish()
        asked.requests = asker.requests
        for teacher in teachers.values():
            await teacher.close()
    if asked.failure is not None:
        raise asked.failure
    return asked, progress.seconds


async def _work(
    plan: BuildPlan,
    lane: str,
    rows: Iterator[int],
    ask: Asker,
    progress: Progress,
    asked: BuildOutcome,
    first: FirstReplies,
) -> None:
    """Settle rows from `rows`, shared by all workers of a lane, until there are none or its teacher is down."""
    for index in rows:
        if asked.stopped_by is not None or asked.failure is not None:
            return
        try:
            outcome = await settle(plan, index, ask)
        except TeacherDown as error:
            message = f"teacher {error.teacher}: {error}"
            asked.unasked[index] = message
            if message not in asked.down:
                asked.down.append(message)
            if error.teacher == lane:
                return
            progress.row(False, None)
        except Unanswered as error:
            asked.unasked[index] = str(error)
            progress.row(False, None)
        except Exception as error:
            # A full disk, or a fault of ours: replies in flight are paid for, so they are waited for.
            asked.failure = asked.failure or error
            ask.stop("stopped")
            return
        else:
            first.note(plan.split.rows[index].id, outcome)
            progress.row(outcome.kept is not None, outcome.reason)
        # An offline teacher, or a full journal, must not keep the others waiting.
        await asyncio.sleep(0)


async def _tick(progress: Progress) -> None:
    """Keep the line alive, above all while nothing is answered."""
    while True:
        await asyncio.sleep(0.2)
        progress.tick()


class _Stop:
    """The first Ctrl-C, SIGTERM or SIGHUP sends nothing more and waits for what is in flight; a Ctrl-C after it ends at once."""

    def __init__(self, teachers: dict[str, Teacher], asked: BuildOutcome) -> None:
        self._loop = asyncio.get_running_loop()
        self._teachers, self._asked = teachers, asked
        self._task = asyncio.current_task()
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        # Under nohup, on purpose.
        if self._before[signal.SIGHUP] == signal.SIG_IGN:
            del self._before[signal.SIGHUP]
        for number in self._before:
            self._loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: signal.Signals) -> None:
        if self._asked.stopped_by is not None:
            # A closed terminal and a batch system send theirs several times, once for each process and by each shell.
            if number == signal.SIGINT and self._task is not None:
                self._task.cancel()
            return
        self._asked.stopped_by = number
        for teacher in self._teachers.values():
            teacher.stop("stopped")

    def restore(self) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)


def make_teachers(
    configs: dict[str, TeacherConfig], task: Task, examples: Sequence[Question], *, seed: int, concurrency: int
) -> dict[str, Teacher]:
    """Return teachers ready to ask, by name; each must have passed `check_teacher`."""
    teachers: dict[str, Teacher] = {}
    for name, config in configs.items():
        if isinstance(config, AttributeConfig):
            from cot_builder.teachers.attribute import AttributeTeacher

            teachers[name] = AttributeTeacher(
                name,
                config,
                examples,
                seed,
                task.labels.descriptions if task.labels is not None else None,
                own_answers=task.labels is None,
            )
        elif isinstance(config, WalkerConfig):
            from cot_builder.teachers.walker import WalkerTeacher

            teachers[name] = WalkerTeacher(name, config, seed)
        elif isinstance(config, ListerConfig):
            from cot_builder.teachers.lister import ListerTeacher

            teachers[name] = ListerTeacher(name, config, seed)
        else:
            from cot_builder.teachers.openai import OpenAITeacher

            teachers[name] = OpenAITeacher(name, config, seed, concurrency)
    return teachers
