"""What a cell of a row holds, and what makes a row one that cannot be asked."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from pipeline.scoring.multiple_choice import letters

RawRow = dict[str, Any]
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
"""What a row of another form than expected makes plain code raise."""
MORE_CELLS = "_more_cells"
"""The key of what a line of a .csv or .tsv file holds beyond its columns."""


class Unusable(ValueError):
    """A row that cannot be asked; `reason` is a short snake_case word that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(detail)


def is_empty(value: Any) -> bool:
    """Check whether a cell holds nothing: None, no text, or what pandas writes for it."""
    return value is None or str(value).strip().lower() in ("", "nan")


def listed(value: Any) -> list[Any]:
    """Return a list given as a list, as its Python text ("['a', 'b']") or as nothing.

    Raises:
        Unusable: when it is none of these.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise Unusable("malformed_row", f"{value[:80]!r} is not a list") from error
    if not isinstance(value, list | tuple):
        raise Unusable("malformed_row", f"{str(value)[:80]!r} is not a list")
    return list(value)


def gold_letter(value: Any, options: Sequence[str]) -> str | None:
    """Return the letter of the gold answer, out of "B", "(B)" or "b."; None where it is not published ("", "?", "-").

    Raises:
        Unusable: when it is no letter of the options, or there are no options or too many.
    """
    if not 2 <= len(options) <= 26:
        raise Unusable("unusable_options", f"{len(options)} options")
    text = str(value if value is not None else "").strip().strip("().").upper()
    if text in ("", "?", "-", "NONE"):
        return None
    if len(text) != 1 or text not in letters(len(options)):
        raise Unusable(
            "answer_not_an_option", f"the answer is {str(value)[:40]!r}, the options are {letters(len(options))}"
        )
    return text
