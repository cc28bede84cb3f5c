"""How a split's answers say which option is right, where one row alone does not tell: by letter, text or number.

"1" is the second of the options "a dog", "a cat" where answers count from 0 (ScienceQA, AI2D) and the first where they count from
1; of the options "4", "2", "3" it may be either, and where another set answers with texts, neither. All rows together say it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.data.questions.text import same_texts
from pipeline.scoring.multiple_choice import letters

CODES: Mapping[str, str] = {
    "letter": "the letters of options",
    "text": "the texts of options",
    "from 0": "the places of options, counted from 0",
    "from 1": "the places of options, counted from 1",
}
"""What an answer may be, and how a plan tells it."""
NEARLY_ALL = 0.99
"""Share of the answers that must be of one code: a few may be wrong, and sets of several sources have no code."""


def readings(value: Any, options: Sequence[str]) -> dict[str, str]:
    """Return the letter that an answer means, by each of `CODES` that it can be of."""
    known, text = letters(len(options)), " ".join(str(value).split())
    found = {}
    if (letter := text.strip("().: ").upper()) in known and len(letter) == 1:
        found["letter"] = letter
    if len(same := same_texts(text, options)) == 1:
        found["text"] = same[0]
    if re.fullmatch(r"\d{1,2}", text):
        found |= {
            code: known[place]
            for code, place in (("from 0", int(text)), ("from 1", int(text) - 1))
            if 0 <= place < len(known)
        }
    return found


def code_of(answers: Iterable[tuple[Any, Sequence[str]]]) -> str | None:
    """Return the one of `CODES` that nearly all answers of a split are of; None where several are, or none is.

    Args:
        answers: (the gold answer, the row's options) of every row that has options.
    """
    counts: Counter[str] = Counter()
    total = 0
    for value, options in answers:
        found = readings(value, options)
        counts.update(found.keys())
        total += bool(found)
    most = counts.most_common(2)
    if not most or most[0][1] < NEARLY_ALL * total or (len(most) > 1 and most[1][1] == most[0][1]):
        return None
    return most[0][0]
