"""The one exception for what a user can mend. Entry points print its message without a traceback and exit with 2."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: the message names the value, the rule and the cure.

    Args:
        problems: one message, or all of them at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
