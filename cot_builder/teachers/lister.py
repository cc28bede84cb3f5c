"""The offline teacher of `shapes`: lists the objects of a picture in reading order until it knows the answer.

    1 2 red ball 1 2 3 blue cube 1 3 3 green ball 2

It knows the objects and not the answer, so it is right where it looks right. Its configuration declares an imperfection, because
with a perfect teacher SFT leaves reinforcement nothing to do: it may misread a colour or a shape, and of a picture of many
objects it may look at the first few and answer from those. Filters see the answer alone, so what is kept are short lists and
long ones where what it did not look at changes nothing: rejection sampling as real teachers suffer it. It is a pure function of
(configuration, run seed, row, attempt).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cot_builder.teachers.base import OfflineTeacher, TeacherQuestion
from cot_builder.teachers.config import ListerConfig
from pipeline.scoring.response import render
from pipeline.tasks.shapes import COLOURS, SHAPES, Asks, Thing, reason, things_of


class ListerTeacher(OfflineTeacher[ListerConfig]):
    """See the module."""

    version = 2

    def _told(self, question: TeacherQuestion) -> dict[str, Any]:
        return {"shown": {name: question.row.attributes[name] for name in ("objects", "boxes", "asks")}}

    def _reply(self, told: Mapping[str, Any]) -> str:
        return self.write(told["shown"], told["seed"])

    def write(self, shown: Mapping[str, Any], seed: int) -> str:
        """Return the reply about one picture.

        Args:
            shown: the attributes of a row of `shapes`: its objects and what is asked.
            seed: fixes what it misreads and whether it stops looking.
        """
        config = self._config
        # Each choice has its own generator, so that changing one rate leaves the other choices as they were.
        reads, patience = random.Random(f"{seed}:misread"), random.Random(f"{seed}:stop").random()
        things = [self._read(one, reads) for one in things_of(shown["objects"])]
        asks = Asks(**{**shown["asks"], "options": tuple(shown["asks"]["options"])})
        stops = config.looks_at if patience < config.stop_rate else None
        words, answer, _ = reason(things, asks, stops)
        return render(" ".join(words), answer)

    def _read(self, one: Thing, reads: random.Random) -> Thing:
        """The object as it sees it."""
        if reads.random() >= self._config.misread_rate:
            return one
        if reads.random() < 0.5:
            return dataclasses.replace(one, colour=_another(one.colour, list(COLOURS), reads))
        return dataclasses.replace(one, shape=_another(one.shape, list(SHAPES), reads))


def _another(word: str, words: Sequence[str], rng: random.Random) -> str:
    return rng.choice([other for other in words if other != word])
