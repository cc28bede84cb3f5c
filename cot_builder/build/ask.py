"""The ways a recipe's questions are answered: from the journal and the teachers, or from the journal alone."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from cot_builder.build.journal import ReplyCache
from cot_builder.build.progress import Progress
from cot_builder.teachers.base import GIVEN_UP, Reply, Teacher, TeacherDown, TeacherQuestion, TeacherRequest, Unanswered
from pipeline.data.images import ImageError


class Asker:
    """Answers from the journal, else asks the teacher and records its reply before it is used.

    A question that is being asked is not asked a second time: who wants the same one waits for the first one's reply.
    """

    def __init__(self, teachers: Mapping[str, Teacher], journal: ReplyCache, progress: Progress) -> None:
        self.requests = 0
        """Replies that were not in the journal before."""
        self._teachers, self._journal, self._progress = teachers, journal, progress
        self._under_way: dict[str, asyncio.Future[Reply]] = {}
        self._refusals: Counter[str] = Counter()
        """Teacher: how many of its first requests were refused, one after the other."""
        self._served: set[str] = set()

    def stop(self, why: str) -> None:
        """Send nothing more; what is in flight may finish and is recorded."""
        for teacher in self._teachers.values():
            teacher.stop(why)

    async def __call__(self, name: str, question: TeacherQuestion) -> Reply:
        teacher = self._teachers[name]
        for picture in question.pictures:
            if not picture.is_read and teacher.endpoints():
                # Reading a file must not hold up the others.
                await asyncio.to_thread(getattr, picture, "digest")
        request = teacher.request(question)
        found = self._journal.find(request.key)
        if found is not None:
            self._progress.reply(found.usage, cached=True)
            self._note_sample(teacher, question, request, found)
            return readable(found, question)
        if request.key in self._under_way:
            return readable(await asyncio.shield(self._under_way[request.key]), question)
        answer = self._under_way[request.key] = asyncio.get_running_loop().create_future()
        try:
            try:
                reply = await teacher.ask(question, request)
            except ImageError as error:
                # May be back next time, unlike a damaged file's bytes.
                if error.reason == "missing_image":
                    raise
                reply = Reply("", usage={_UNREADABLE: error.reason})
            self._journal.add(request, reply, row_id=question.row.id, teacher=name, attempt=question.attempt)
        except BaseException as error:
            if isinstance(error, TeacherDown):
                error.teacher = name
            answer.set_exception(error if isinstance(error, Exception) else Unanswered("stopped"))
            # Seen, whether or not anybody waits for it.
            answer.exception()
            raise
        finally:
            del self._under_way[request.key]
        answer.set_result(reply)
        self.requests += 1
        self._note_sample(teacher, question, request, reply)
        await self._watch(name, teacher, reply)
        self._progress.reply(reply.usage, cached=False)
        return readable(reply, question)

    def _note_sample(self, teacher: Teacher, question: TeacherQuestion, request: TeacherRequest, reply: Reply) -> None:
        """Remember a question that the teacher has answered, one with a picture rather than without."""
        if reply.refused is None and _UNREADABLE not in reply.usage and (question.pictures or teacher.sample is None):
            teacher.sample = (question, request)

    async def _watch(self, name: str, teacher: Teacher, reply: Reply) -> None:
        """Stop a teacher that refuses every request from the first: its server is set up wrongly, not the rows.

        Where all that is left to ask is what was refused before (`build --retry`), rows are to blame: what the teacher has
        answered in an earlier build is asked again to tell.
        """
        if reply.refused is None or GIVEN_UP in reply.usage:
            self._served.add(name)
        elif name not in self._served:
            self._refusals[name] += 1
            if self._refusals[name] != _MOST_REFUSALS:
                return
            if await teacher.still_answers():
                self._served.add(name)
            else:
                why = f"refuses every request ({(reply.refused or '')[:300]}); mend it and build again with --retry-refused"
                teacher.stop(why)


_MOST_REFUSALS = 20


class Replay:
    """Answers from the journal, asks nobody, and counts what the answers had cost."""

    def __init__(self, teachers: Mapping[str, Teacher], journal: ReplyCache) -> None:
        self.used: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Teacher: requests, prompt_tokens and completion_tokens."""
        self._teachers, self._journal = teachers, journal
        self._texts: set[str] = set()
        """Keys of questions about text alone, which many rows may share."""

    async def __call__(self, name: str, question: TeacherQuestion) -> Reply:
        key = self._teachers[name].request(question).key
        found = self._journal.find(key)
        if found is None:
            raise Unanswered("not in the journal")
        if question.pictures or key not in self._texts:
            counts = {kind: found.usage.get(kind) or 0 for kind in ("prompt_tokens", "completion_tokens")}
            self.used[name].update({"requests": 1, **counts})
        if not question.pictures:
            self._texts.add(key)
        return readable(found, question)


_UNREADABLE = "unreadable_image"
"""Marks the record of a picture that could not be decoded, so that writing knows it without trying again."""


def readable(reply: Reply, question: TeacherQuestion) -> Reply:
    """Return a reply from the journal.

    Raises:
        ImageError: when what is on record is that the picture could not be decoded.
    """
    if _UNREADABLE in reply.usage:
        raise ImageError(reply.usage[_UNREADABLE], next(iter(question.row.images), Path()))
    return reply
