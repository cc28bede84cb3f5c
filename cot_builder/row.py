"""What a recipe sees of one row: the example, its teachers, a way to ask them, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cot_builder.filters.accept import REASONS
from cot_builder.prompts import Prompt
from cot_builder.teachers.base import Reply, TeacherQuestion
from cot_builder.teachers.images import TeacherImage
from pipeline.data.questions.image_marks import without_marks
from pipeline.types import Question

if TYPE_CHECKING:
    from pipeline.config.schema import CotConfig
    from pipeline.data.contents import Contents
    from pipeline.data.task import Task

AskTeacher = Callable[[str, TeacherQuestion], Awaitable[Reply]]
"""Asks a teacher, by name. Raises Unanswered when there is no reply to be had, ImageError on an unreadable picture."""


@dataclass(frozen=True)
class Tried:
    """One reply about a row, and what was made of it."""

    teacher: str
    mode: str
    attempt: int
    prompt_version: str | None
    text: str
    reason: str | None
    """Why it was not kept; None for the one that was."""
    detail: str = ""
    answer: str | None = None
    """What it answered, also when it was rejected for something else."""
    usage: dict[str, Any] = field(default_factory=dict)
    right: bool = False
    """Whether that is the gold answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row. `kept` holds the recipe's columns, or is None."""

    kept: dict[str, Any] | None
    tried: tuple[Tried, ...]

    @property
    def reason(self) -> str | None:
        """Why a row was not kept: the reason of the reply that came furthest (`verify.REASONS`), the last of equals."""
        if self.kept is not None:
            return None
        reasons = [each.reason for each in self.tried if each.reason is not None]
        # A recipe may have reasons of its own, which come after all of these.
        return max(reversed(reasons), key=lambda reason: REASONS.index(reason) if reason in REASONS else len(REASONS))


@dataclass(frozen=True)
class Policy:
    """How the rows of one class are asked."""

    attempts: int
    temperatures: Sequence[float]
    fallback: str | None
    """Name of the prompt that shows the label, or None to reject."""

    def temperature(self, attempt: int) -> float | None:
        """Return the temperature of an attempt, which counts from 0; None leaves the teacher's own."""
        return self.temperatures[min(attempt, len(self.temperatures) - 1)] if self.temperatures else None


class BuildContext(Protocol):
    """What a recipe knows of the build; `cot_builder.build.plan.BuildPlan` is one."""

    @property
    def task(self) -> Task: ...
    @property
    def cot(self) -> CotConfig: ...
    @property
    def teachers(self) -> Mapping[str, Any]: ...
    @property
    def prompts(self) -> Mapping[str, Prompt]: ...
    @property
    def prompt(self) -> Prompt: ...
    @property
    def special_tokens(self) -> Sequence[str]: ...
    @property
    def contents(self) -> Contents | None: ...
    def policy(self, row: Question) -> Policy: ...
    def is_offline(self, teacher: str) -> bool: ...
    def reader(self, author: str, row: Question) -> str: ...
    def hints(self, row: Question) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Row:
    """One row in the hands of a recipe.

    Args:
        example: the row.
        teachers: names of the teachers it is asked of, preferred first.
        plan: the build.
        pictures: its pictures in order, shared by all requests about it.
        ask: how a teacher is asked.
    """

    example: Question
    teachers: tuple[str, ...]
    plan: BuildContext
    pictures: tuple[TeacherImage, ...]
    ask: AskTeacher

    @property
    def origin(self) -> dict[str, Any]:
        """The columns every recipe starts with: id and label."""
        return {"id": self.example.id, "label": self.example.gold}

    @property
    def policy(self) -> Policy:
        """How rows of its class are asked."""
        return self.plan.policy(self.example)

    @property
    def bare_question(self) -> str:
        """Its question as one reads it who sees no picture."""
        return without_marks(self.example.text).strip()

    def question(self, mode: str, prompt: Prompt, attempt: int, *, picture: bool, **options: Any) -> TeacherQuestion:
        """Return a question about this row. `options` are fields of `TeacherQuestion`, and `values` those of the prompt."""
        values = options.pop("values", {})
        known = {name: value for name, value in values.items() if name in prompt.uses}
        text = prompt.render(self.plan.task, self.example, **known)
        if picture and self.pictures:
            options |= {"pictures": self.pictures, "picture_first": prompt.picture_first}
        else:
            text = without_marks(text)
        return TeacherQuestion(self.example, mode, attempt, prompt, text, **options)

    async def ask_all(self, questions: Iterable[tuple[str, TeacherQuestion]]) -> list[Reply]:
        """Ask several teachers at once.

        Raises:
            Exception: the first of their failures, once all have ended: a reply that was paid for is never thrown away.
        """
        asked = [self.ask(teacher, question) for teacher, question in questions]
        if len(asked) == 1:
            return [await asked[0]]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return [reply for reply in replies if isinstance(reply, Reply)]
