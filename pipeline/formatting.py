"""How a report writes numbers and other people's text: percent, points, p values, durations, sizes, and what cannot be shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

# Besides line breaks and tabs: the joiners and marks that words of Persian, Hindi, Hebrew or Arabic are written with, and hyphens
# that show where a word may be broken.
_KEPT = "\n\t\u200c\u200d\u200e\u200f\u00ad"


def printable(text: str) -> str:
    """Return text without what cannot be shown or encoded: controls, lone surrogates and direction overrides become �."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cf") and c not in _KEPT else c for c in text)


def join_counts(counts: Mapping[str, int]) -> str:
    """Return ``wrong_label 3, no_think 1``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as percent without the sign; a dash when undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """Return a difference of shares in signed percentage points."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Return seconds as a person says them: 34 s, 3.7 min, 2.1 h."""
    if seconds is None:
        return "–"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return bytes as a person says them: 6 MB, 12.3 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def p_value(p: float) -> str:
    """Return a p value as a report prints it: "< .001" or "= .034"."""
    told = p_number(p)
    return told if told.startswith("<") else f"= {told}"


def p_number(p: float) -> str:
    """Return a p value to three places, as a table has it: "< .001" or ".034"."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
