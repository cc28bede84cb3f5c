"""Whether written steps are the true ones: a right answer alone may be luck."""

from __future__ import annotations


def is_exact(think: str | None, trace: str) -> bool | None:
    """Check a reasoning against the true steps of its row, white space aside.

    Args:
        think: what was written; None where no reasoning could be read, which is then not exact.
        trace: the true steps; "" where the task cannot tell.

    Returns:
        None where the task cannot tell.
    """
    return (think or "").split() == trace.split() if trace else None
