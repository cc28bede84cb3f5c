"""The offline teacher of `trails`: follows the arrows of a board and writes down where it is and what it sees.

    13 up 8 left 7 down 12 fear

It knows the board and not the label, so it is right where it reads right. Its configuration declares an imperfection, because
with a perfect teacher SFT leaves reinforcement nothing to do: it may misread an arrow, and it may give up on a long walk and
name the label it always names then. Filters see the answer alone, so what is kept are short walks, and long ones on which it
was right by luck: rejection sampling as real teachers suffer it. It is a pure function of (configuration, run seed, row,
attempt).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from cot_builder.teachers.base import OfflineTeacher, TeacherQuestion
from cot_builder.teachers.config import WalkerConfig
from pipeline.scoring.response import render
from pipeline.tasks.trails import ARROWS, SIDE, START, board_of, directions, number_of, step

MOST_ARROWS = SIDE * SIDE
"""A misread arrow may lead it in a circle; then it stops here."""


class WalkerTeacher(OfflineTeacher[WalkerConfig]):
    """See the module."""

    version = 1

    def _told(self, question: TeacherQuestion) -> dict[str, Any]:
        return {"board": question.row.attributes["board"]}

    def _reply(self, told: Mapping[str, Any]) -> str:
        return self.write(told["board"], told["seed"])

    def write(self, rows: Sequence[Sequence[str]], seed: int) -> str:
        """Return the reply about one board.

        Args:
            rows: what is on each field, as an annotation holds it.
            seed: fixes what it misreads and whether it gives up.
        """
        board, config = board_of(rows), self._config
        # Each choice has its own generator, so that changing one rate leaves the other choices as they were.
        reads, patience = random.Random(f"{seed}:misread"), random.Random(f"{seed}:give up").random()
        place, words = START, [number_of(START)]
        for walked in range(MOST_ARROWS):
            seen = board[place]
            if seen not in ARROWS:
                return render(" ".join([*words, seen]), seen)
            if walked == config.gives_up_after and patience < config.give_up_rate:
                return render(" ".join([*words, config.give_up_answer]), config.give_up_answer)
            if reads.random() < config.misread_rate:
                seen = reads.choice([name for name in directions(place) if name != seen])
            place = step(place, seen)
            words += [seen, number_of(place)]
        return f"<think>{' '.join(words)}</think>"
