"""The ways a recipe's questions are answered: from the journal and the teachers, or from the journal alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cot_builder.journal import Journal
from cot_builder.progress import Progress
from cot_builder.teachers import Question, Reply, Teacher, TeacherDown, Unanswered
from pipeline.images import ImageError


class Asker:
    """Answers from the journal, else asks the teacher and records its reply before it is used.

    A question that is being asked is not asked a second time: who wants the same one waits for the first one's reply.
    """

    def __init__(self, teachers: Mapping[str, Teacher], journal: Journal, progress: Progress) -> None:
        self.requests = 0
        """Replies that were not in the journal before."""
        self._teachers, self._journal, self._progress = teachers, journal, progress
        self._under_way: dict[str, asyncio.Future[Reply]] = {}

    async def __call__(self, name: str, question: Question) -> Reply:
        teacher = self._teachers[name]
        if question.picture is not None and not question.picture.is_read and teacher.endpoints():
            await asyncio.to_thread(getattr, question.picture, "digest")  # Reading a file must not hold up the others.
        request = teacher.request(question)
        found = self._journal.find(request.key)
        if found is not None:
            self._progress.reply(found.usage, cached=True)
            return _readable(found, question)
        if request.key in self._under_way:
            return _readable(await asyncio.shield(self._under_way[request.key]), question)
        answer = self._under_way[request.key] = asyncio.get_running_loop().create_future()
        try:
            try:
                reply = await teacher.ask(question, request)
            except ImageError as error:
                if error.reason == "missing_image":  # May be back next time, unlike a damaged file's bytes.
                    raise
                reply = Reply("", usage={_UNREADABLE: error.reason})
            self._journal.add(request, reply, row_id=question.row.id, teacher=name, attempt=question.attempt)
        except BaseException as error:
            if isinstance(error, TeacherDown):
                error.teacher = name
            answer.set_exception(error if isinstance(error, Exception) else Unanswered("stopped"))
            answer.exception()  # Seen, whether or not anybody waits for it.
            raise
        finally:
            del self._under_way[request.key]
        answer.set_result(reply)
        self.requests += 1
        self._progress.reply(reply.usage, cached=False)
        return _readable(reply, question)


class Replay:
    """Answers from the journal and asks nobody."""

    def __init__(self, teachers: Mapping[str, Teacher], journal: Journal) -> None:
        self._teachers, self._journal = teachers, journal

    async def __call__(self, name: str, question: Question) -> Reply:
        found = self._journal.find(self._teachers[name].request(question).key)
        if found is None:
            raise Unanswered("not in the journal")
        return _readable(found, question)


_UNREADABLE = "unreadable_image"
"""Marks the record of a picture that could not be decoded, so that writing knows it without trying again."""


def _readable(reply: Reply, question: Question) -> Reply:
    if _UNREADABLE in reply.usage:
        raise ImageError(reply.usage[_UNREADABLE], question.row.image)
    return reply
