"""What every reading of a text begins with: markup and thought off, the last box, whole words, and what refuses to answer."""

from __future__ import annotations

import re
import unicodedata

_UNABLE = r"(?:can(?:not|['’]t|\s+not)|could\s+not|couldn['’]t|(?:un|not\s+)able\s+to|(?:im|not\s+)possible\s+to)"
_ANSWERING = (
    "determined?|provided?|answer(?:ed)?|solved?|say|tell|know|find|help|process|identify|see|view|give|analy[sz]e"
    "|select|choose|pick|decide|conclude|recommend"
)
_FACTS = "information|context|data|details?|answers?"
_SHOWN = "images?|pictures?|photos?|charts?|graphs?|tables?|diagrams?|figures?|options|numbers?|values?"
REFUSAL = re.compile(
    rf"\b{_UNABLE}\s+(?:\w+\s+){{0,3}}?(?:{_ANSWERING})\b"
    r"|\bimpossible\s+to\s+\w+|\b(?:do(?:es)?\s+not|do(?:es)?n['’]t)\s+(?:know|specify)\b"
    r"|\b(?:do(?:es)?\s+not|do(?:es)?n['’]t)\s+(?:(?:contain|include|give|have)"
    rf"\s+(?:\w+\s+){{0,4}}?(?:{_FACTS})|provide\s+(?:\w+\s+){{0,4}}?(?:{_FACTS}|{_SHOWN}))\b"
    r"|\b(?:not|no|without)\s+(?:enough|sufficient|any)\s+(?:\w+\s+)?(?:information|context|data)\b|\binsufficient\b"
    r"|(?:无法|無法|不能)(?:确定|確定|判断|判斷|回答|得出|选择|選擇|看到|识别|識別)",
    re.IGNORECASE,
)
"""Phrases of a text that says it cannot answer. It then states nothing unless it declares an answer all the same."""

MAX_CHARS = 20_000
"""More than any answer; of a longer text the end is read, where answers are."""

# Marks that may be part of a word: C#, -5, 100%, hot_dog.
_KEPT = frozenset("-_/\\#%&@")
_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
_KATAKANA, _HANGUL = re.compile(r"[\u30a1-\u30fa\u30fc-\u30fe]"), re.compile(r"[\uac00-\ud7a3]")
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_BETWEEN_BOXES = re.compile(r"[\s$,;/]*(?:\b(?:or|and)\b|[,;/])[\s$]*", re.IGNORECASE)
_MOST_BOXES = 26
_TURN = re.compile(r"[.!?;。]\s*|\n|\b(?:but|however|though)\b", re.IGNORECASE)
_ANSWER_BLOCK = re.compile(r"<answer>((?:(?!<answer>)[^\0]){0,2000}?)</answer>")
_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|mathit|bf|rm)\s*\{([^{}]*)\}")


def plain(text: str) -> str:
    """Return text without Markdown's and LaTeX's markup, blank lines and runs of spaces: ``**B**`` and ``\\text{B}``
    read as B.
    """
    text = text[-MAX_CHARS:]
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    if "\\" in text:
        text = _LATEX.sub(r"\1", text)
        for mark in ("\\(", "\\)", "\\[", "\\]", "\\,", "\\ "):
            text = text.replace(mark, " ")
    for mark in ("**", "__", "`", "$"):
        text = text.replace(mark, "")
    return _BLANK_LINES.sub("\n", _SPACES.sub(" ", text))


def boxes(text: str) -> list[str]:
    """Return what stands in the last ``\\boxed{…}``, and in those joined to it by "or", "and" or a comma; [] without a box."""
    text = text[-MAX_CHARS:]
    found: list[str] = []
    stop = len(text)
    while (start := max(text.rfind("\\boxed{", 0, stop), text.rfind("\\fbox{", 0, stop))) >= 0:
        content, end = _braced(text, text.index("{", start) + 1)
        if found and not _BETWEEN_BOXES.fullmatch(text, end, stop):
            break
        found.insert(0, content)
        stop = start
        if len(found) == _MOST_BOXES:
            break
    return found


def boxed(text: str) -> str | None:
    """Return what stands in the last ``\\boxed{…}``; None when there is none."""
    found = boxes(text)
    return found[-1] if found else None


def _braced(text: str, start: int) -> tuple[str, int]:
    """What stands from `start` to its closing brace, and the place behind that; all the rest where it was cut off."""
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start:place], place + 1
    return text[start:], len(text)


def bare(text: str) -> str:
    """Return text without the white space, the invisible marks and the punctuation of any script around it: "「red」。"
    is red.
    """
    start, end = 0, len(text)
    while start < end and _is_mark(text[start]):
        start += 1
    while start < end and _is_mark(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_mark(character: str) -> bool:
    kind = unicodedata.category(character)
    return character == "`" or (kind[0] in "PZ" and character not in _KEPT) or kind in ("Cc", "Cf")


def is_whole_word(text: str, start: int, end: int) -> bool:
    """Check whether text[start:end] is no part of a longer word.

    Thai, Khmer, Lao, Burmese, Tibetan, Chinese and Japanese are written without spaces, so any place counts there, but not
    within a run of katakana; a Korean word may have a particle behind it.
    """
    before, after = text[start - 1 : start], text[end : end + 1]
    if after and unicodedata.category(after)[0] == "M":
        return False
    return not _joined(before, text[start]) and (
        bool(_HANGUL.match(text[end - 1])) or not _joined(text[end - 1], after)
    )


def _joined(left: str, right: str) -> bool:
    """Whether two neighbours belong to one word."""
    if not left or not right or not _in_word(left) or not _in_word(right):
        return False
    if _WITHOUT_SPACES.match(left) or _WITHOUT_SPACES.match(right):
        return bool(_KATAKANA.match(left) and _KATAKANA.match(right))
    return True


def _in_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character)[0] in "LNM"


def answer_part(text: str) -> str | None:
    """Return what of a free completion is its answer: the one <answer> block, else what follows the thought, else all of it.

    Returns:
        None where nothing is: a thought that was not brought to its end, or blocks that say different things.
    """
    blocks = {block.strip() for block in _ANSWER_BLOCK.findall(text)}
    if blocks:
        return blocks.pop() if len(blocks) == 1 else None
    _, closed, rest = text.rpartition("</think>")
    if closed and rest.strip():
        return rest
    return None if text.lstrip().startswith("<think>") and not closed else text


def after_refusal(text: str) -> str:
    """Return what a text says once it no longer refuses: all of one that does not, of another what follows that clause."""
    end = 0
    for match in REFUSAL.finditer(text):
        end = match.end()
    turn = _TURN.search(text, end) if end else None
    return text[turn.end() :] if turn else "" if end else text
