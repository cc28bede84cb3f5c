"""The end of a message about a name that is not known: the nearest right one, or all there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: object, known: Iterable[str]) -> str:
    """``did you mean train?``, or ``there are: test, train`` when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(str(word), words, 1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(words) or 'none'}"
