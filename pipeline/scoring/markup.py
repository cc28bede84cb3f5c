"""What every reading of a text begins with: markup off, the last box, and whether the text refuses to answer."""

from __future__ import annotations

import re
import unicodedata

REFUSAL = re.compile(
    r"\b(?:can(?:not|['’]t)|could\s+not|unable\s+to|impossible\s+to|not\s+possible\s+to)\s+(?:\w+\s+){0,3}?"
    r"(?:determined?|provided?|answer(?:ed)?|solved?|say|tell|know|find|help|process|identify|see|view|give|analy[sz]e)\b"
    r"|\bimpossible\s+to\s+\w+|\b(?:do(?:es)?\s+not|do(?:es)?n['’]t)\s+(?:provide|contain|include|specify|give|have|know)\b"
    r"|\b(?:not|no|without)\s+(?:enough|sufficient|any)\s+(?:\w+\s+)?(?:information|context|data)\b|\binsufficient\b",
    re.IGNORECASE,
)
"""Phrases of a text that says it cannot answer. It then states nothing unless it declares an answer all the same."""

MAX_CHARS = 20_000
"""More than any answer; of a longer text the end is read, where answers are."""

_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|mathit|bf|rm)\s*\{([^{}]*)\}")


def plain(text: str) -> str:
    """Text without Markdown's and LaTeX's markup, blank lines and runs of spaces: ``**B**`` and ``\\text{B}`` read as B."""
    text = text[-MAX_CHARS:]
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    if "\\" in text:
        text = _LATEX.sub(r"\1", text)
        for mark in ("\\(", "\\)", "\\[", "\\]", "\\,", "\\ "):
            text = text.replace(mark, " ")
    for mark in ("**", "__", "`", "$"):
        text = text.replace(mark, "")
    return _BLANK_LINES.sub("\n", _SPACES.sub(" ", text))


def boxed(text: str) -> str | None:
    """What stands in the last ``\\boxed{…}``; None when there is none."""
    text = text[-MAX_CHARS:]
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start:place]
    return text[start:]  # Cut off by the token limit.
