"""The one exception for what a user can mend. Entry points print its message without a traceback and exit with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can mend: the message names the value, the rule and the cure.

    Args:
        problems: one message, or all of them at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return ``did you mean train?``, or ``there are: test, train`` when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(str(word), words, 1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(words) or 'none'}"
