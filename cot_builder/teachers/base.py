"""What a teacher is: it turns a `TeacherQuestion` into a `TeacherRequest`, whose key covers everything that can change the reply,
and a request into a `Reply`. cot_builder/teachers/config.py says how one is configured.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from cot_builder.prompts import Prompt
from cot_builder.teachers.config import OfflineConfig
from cot_builder.teachers.images import TeacherImage
from pipeline.files import digest
from pipeline.types import Question


@dataclass(frozen=True)
class TeacherQuestion:
    """What a recipe wants to know of one teacher: everything that varies from one request to the next."""

    row: Question
    mode: str
    """answer_hidden, answer_given, or what else the recipe calls it; recorded."""
    attempt: int
    """Counts from 0; every attempt has its own sampling seed."""
    prompt: Prompt
    text: str
    """The rendered prompt, with ``<image 1>`` where a picture has a place of its own in it."""
    pictures: tuple[TeacherImage, ...] = ()
    """In order; none for a question about text alone, which is then the same question whichever row it comes from."""
    picture_first: bool = False
    """Whether pictures without a mark in the text stand before it."""
    temperature: float | None = None
    """None: the teacher's own."""
    max_tokens: int | None = None
    """None: the teacher's own."""
    choices: tuple[str, ...] = ()
    """The only texts allowed, for short label-only replies; empty leaves the reply free."""


@dataclass(frozen=True)
class TeacherRequest:
    """One question to one teacher. `record` holds everything that can change the reply, and nothing secret."""

    record: dict[str, Any]
    key: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> TeacherRequest:
        return cls(record, digest(record))


GIVEN_UP = "given_up"
"""In a refused reply's usage: why its request was given up (server_error, moderated, no_reply)."""


@dataclass(frozen=True)
class Reply:
    """What a teacher said. `refused` is set when the server refused the request itself (HTTP 400) with that message, or when it
    was given up because the server failed at it alone."""

    text: str
    refused: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    """finish_reason, prompt_tokens, completion_tokens, where the server says them; `GIVEN_UP` where it was given up."""
    thought: str = ""
    """What a thinking model thought, where its server tells it apart from the text."""

    @property
    def refused_as(self) -> str:
        """The reason of a refused reply."""
        return str(self.usage.get(GIVEN_UP, "request_refused"))


@dataclass(frozen=True)
class EndpointState:
    """How one server is doing, for the live line."""

    url: str
    load: int
    """Requests in flight."""
    limit: int
    """How many may be."""
    answered: int
    failed: int
    resting: bool


class Unanswered(Exception):
    """No reply was to be had for a request; the row stays unasked and a later build asks again."""


class TeacherDown(Unanswered):
    """The teacher as a whole cannot be reached or refuses to serve; asking for more rows is useless now."""

    teacher = ""
    """Its name, once known."""


class Teacher(Protocol):
    """What the build needs of a teacher."""

    name: str
    concurrency: int
    """Rows that may wait for it at one time."""
    sample: tuple[TeacherQuestion, TeacherRequest] | None
    """A question that it has answered, now or in an earlier build."""

    def request(self, question: TeacherQuestion) -> TeacherRequest:
        """Return everything the reply to a question depends on. Pure but for the picture's digest.

        Raises:
            ImageError: when it needs the picture and cannot read it.
        """

    async def ask(self, question: TeacherQuestion, request: TeacherRequest) -> Reply:
        """Send a request.

        Raises:
            Unanswered: when there is no reply after bounded retries.
            ImageError: when it needs the picture and cannot read it.
        """

    async def still_answers(self) -> bool:
        """Check whether `sample` is answered now as well; false where there is none."""

    def endpoints(self) -> list[EndpointState]:
        """Return its servers; none when it is offline."""

    def stop(self, why: str) -> None:
        """Send nothing more: requests that wait raise TeacherDown(why), those in flight may finish."""

    async def close(self) -> None:
        """Give connections back."""


Config = TypeVar("Config", bound=OfflineConfig)


class OfflineTeacher(Generic[Config]):
    """What teachers without servers have in common: they take one row at a time, never fail and have nothing to end.

    A reply follows from the configuration, the run's seed, the attempt and what `_told` takes from a row; `_reply` writes it.

    Args:
        name: recorded with every row.
        config: what it does wrong, with its seed.
        run_seed: part of every seed.
        fixed: what else every reply depends on.
    """

    concurrency = 1
    sample: tuple[TeacherQuestion, TeacherRequest] | None = None
    version: ClassVar[int | str]
    """Part of every request's key: another one asks all its rows anew. Change it when other text is written."""

    def __init__(self, name: str, config: Config, run_seed: int, **fixed: str) -> None:
        self.name = name
        self._config = config
        self._run_seed = run_seed
        own = dataclasses.asdict(config)
        self._fixed = {"teacher": config.kind, "config": own, "source": self.version, **fixed}

    def request(self, question: TeacherQuestion) -> TeacherRequest:
        """Return everything the reply depends on; the picture and the prompt are not among it."""
        row = question.row
        seed = draw_seed(self._run_seed, self._config.seed, row.id, question.attempt)
        return TeacherRequest.of({**self._fixed, "id": row.id, "seed": seed, **self._told(question)})

    async def ask(self, question: TeacherQuestion, request: TeacherRequest) -> Reply:
        """Return the reply to a request; never fails."""
        return Reply(self._reply(request.record))

    def _told(self, question: TeacherQuestion) -> dict[str, Any]:
        """What it goes by, beside the seed of what goes wrong."""
        raise NotImplementedError

    def _reply(self, told: Mapping[str, Any]) -> str:
        """What it says to a request of that record."""
        raise NotImplementedError

    async def still_answers(self) -> bool:
        """Return true: it never fails."""
        return True

    def endpoints(self) -> list[EndpointState]:
        """Return none."""
        return []

    def stop(self, why: str) -> None:
        """Do nothing: nothing is under way."""

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""


def draw_seed(run_seed: int, teacher_seed: int | str, row_id: str, attempt: int) -> int:
    """Return the sampling seed of one request: 31 bits that depend on all four, the same on every machine."""
    return random.Random(f"{run_seed}:{teacher_seed}:{row_id}:{attempt}").getrandbits(31)
