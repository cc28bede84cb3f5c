"""The number, or the list of numbers, a text answers with (our reading; benchmarks ask a language model, or take any number).

In this order: the last ``\\boxed{…}``; the last declaration ("Answer: …", "the answer is …"); the last bold number; in the last
sentence with a number what follows its last "=", "is", "so"; the last number there. A text that says it cannot answer has none.

Read are ``1,234.5`` ``-3`` ``−3`` ``3/4`` ``1 3/4`` ``\\frac{3}{4}`` ``\\sqrt{2}`` ``2\\pi`` ``1.2e3`` ``1.2 \\times
10^{3}`` ``50%`` ``$5`` and "three". A ratio (1:2), a time and a range are no number; what stands around one ("cm", "years")
is not converted. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.scoring.markup import REFUSAL, boxed, plain

_SMALL = (
    "zero one two three four five six seven eight nine ten",
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty",
)
_WORDS = {word: number for number, word in enumerate(" ".join(_SMALL).split())} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
    "hundred": 100,
}
_TENS = "|".join(word for word, number in _WORDS.items() if 20 <= number < 100)
_UNITS = "|".join(word for word, number in _WORDS.items() if 1 <= number < 10)
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_GROUP = r"\{([^{}]{1,40})\}"
_S = r"\s{0,3}"  # Unbounded runs of optional white space would make hostile text quadratic; so would digits started in mid-run.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)\]}}])[-+])?(?:{_S}[$€£¥])?{_S}(?P<minus>(?<![\w.)\]}}])-)?(?:"
    rf"(?P<whole>(?<!\d)\d+)?{_S}\\[dt]?frac{_S}{_GROUP}{_S}{_GROUP}"
    rf"|(?<![\d.])(?:(?P<mixed>\d+)\s{{1,3}})?(?P<top>\d+(?:\.\d+)?){_S}/{_S}(?P<bottom>\d+(?:\.\d+)?)(?![\d/])"
    rf"|(?P<factor>(?<!\d)(?:{_DIGITS}))?{_S}\\sqrt{_S}(?:{_GROUP}|(\d))"
    rf"|(?P<digits>(?<![A-Za-z_\d])(?<!\d:)(?:{_DIGITS})(?!\d*{_S}:{_S}\d))"
    rf"(?:{_S}(?:\\times|\\cdot|[x×*·]){_S}10{_S}\^?{_S}\{{?{_S}(?P<power>[-+]?\d{{1,3}})\}}?"
    rf"|[eE](?P<exponent>[-+]?\d{{1,3}})(?!\w)|{_S}\^{_S}\{{?{_S}(?P<raised>[-+]?\d{{1,3}})\}}?)?"
    rf"(?P<pi>{_S}(?:\\pi\b|π))?"
    rf")(?P<percent>{_S}\\?%|\s{{1,3}}percent\b)?"
    rf"|(?<![\w-])(?P<word>(?:(?:{_TENS})[-\s](?:{_UNITS})|{'|'.join(_WORDS)}))(?![\w])",
    re.IGNORECASE,
)
_DECLARED = re.compile(
    r"\banswer\b[^.\n:=]{0,60}?(?:\b(?:is|are|was|be|equals?)\b|[:=])[\s:]*|\bfinal\s+answer\b[\s:]*|答案\s*(?:是|为)?\s*[:：]?\s*",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"=|≈|\\approx|\b(?:is|are|was|be|equals?|has|have|had|gives?|get|gets|yields?|so|thus|therefore)\b", re.IGNORECASE
)
_EQUALS = re.compile(r"=|≈|\\approx")
_BOLD = re.compile(r"\*\*([^*\n]{1,40})\*\*")
_ONE_IS_MEANT = re.compile(
    r"(?:^|\b(?:is|are|was|were|has|have|only|exactly|just|contains?|answer|equals?|there['’]s)|[:=])\W*$", re.I
)
_RANGE = re.compile(r"\s*(?:-|\bto\b|\bor\b)\s*\d")
_RANGE_BEFORE = re.compile(r"\d\s*(?:-|\bto\b|\bor\b)\s*$")
_SENTENCE = re.compile(r"\n+|(?<=[^\d\s])\.\s+|(?<=\d)\.\s+(?=[A-Z])|[!?]\s+")


@dataclass(frozen=True)
class Number:
    """A number as written in a text.

    Args:
        value: what it is.
        percent: whether a percent sign or "percent" follows.
        start, end: where it stands in the text that was searched.
    """

    value: float
    percent: bool
    start: int
    end: int

    @property
    def readings(self) -> tuple[float, ...]:
        """What it may mean: 50% is 50 where a percentage is asked for, and 0.5 where a share is."""
        return (self.value, self.value / 100) if self.percent else (self.value,)


def numbers(text: str) -> Iterator[Number]:
    """Every number of a text, in order; what has no finite value (``3/0``) is left out."""
    text = text.replace("−", "-").replace("–", "-")
    for match in _NUMBER.finditer(text):
        if (match["word"] or "").lower() == "one" and not _ONE_IS_MEANT.search(
            text[max(0, match.start() - 20) : match.start()]
        ):
            continue  # A pronoun: "the smallest one".
        value = _value(match)
        if value is not None and math.isfinite(value):
            yield Number(value, match["percent"] is not None, match.start(), match.end())


def _value(match: re.Match[str]) -> float | None:
    if match["word"]:
        return float(sum(_WORDS[part] for part in re.split(r"[-\s]", match["word"].lower())))
    sign = -1.0 if "-" in (match["sign"], match["minus"]) else 1.0
    try:
        if match["digits"]:
            value = _plain(match["digits"]) ** int(match["raised"] or 1) * (math.pi if match["pi"] else 1)
            return sign * value * 10.0 ** int(match["power"] or match["exponent"] or 0)
        if match["top"]:
            return sign * (float(match["mixed"] or 0) + float(match["top"]) / float(match["bottom"]))
        groups = match.groups()
        first = _NUMBER.groupindex["whole"]  # The unnamed groups of \frac follow it, those of \sqrt follow `factor`.
        if groups[first] is not None:
            parts = [next(numbers(groups[place]), None) for place in (first, first + 1)]
            if parts[0] is None or parts[1] is None:
                return None
            return sign * (float(match["whole"] or 0) + parts[0].value / parts[1].value)
        second = _NUMBER.groupindex["factor"]
        under = next(numbers(groups[second] or groups[second + 1] or ""), None)
        if under is None or under.value < 0:
            return None
        return sign * _plain(match["factor"] or "1") * math.sqrt(under.value)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


def _plain(digits: str) -> float:
    return float(digits.replace(",", ""))


def stated_tail(text: str) -> str | None:
    """The part of a text that states its answer, without markup; None when there is none."""
    stated = _stated(text)
    return stated[0] if stated else None


def _stated(text: str) -> tuple[str, bool] | None:
    """The part that states the answer, and whether it is all answer (a box, a bold word, what follows "Answer:")."""
    if not text.strip():
        return None
    in_box = boxed(text)
    if in_box is not None and in_box.strip():
        return _clean(in_box), True
    bold = [part for part in _BOLD.findall(text) if _has_number(part)]
    text = _clean(text)
    declared = [match for match in _DECLARED.finditer(text) if _has_number(text[match.end() : match.end() + 200])]
    if declared:
        return _SENTENCE.split(text[declared[-1].end() : declared[-1].end() + 400].strip(), maxsplit=1)[0], True
    if bold:
        return _clean(bold[-1]), True
    if REFUSAL.search(text):
        return None
    parts = [part for part in _SENTENCE.split(text) if part]
    holding = [part for part in parts if _has_number(part)]
    prose = [part for part in holding if "|" not in part]  # Rows of a table conclude nothing.
    return (prose or holding or parts or [text])[-1], False


def stated_number(text: str) -> Number | None:
    """The number a text answers with; None when it states none."""
    stated = _stated(text)
    found = list(numbers(stated[0])) if stated else []
    if not found or not stated:
        return None
    tail, is_answer = stated
    pattern = _EQUALS if is_answer else _CLOSING
    places = [match.end() for match in pattern.finditer(tail)]
    after = [number for number in found if places and number.start >= places[-1]]
    outside = [number for number in found if tail.count("(", 0, number.start) == tail.count(")", 0, number.start)]
    if not is_answer and not after and outside:
        found = outside  # "7 years (12 - 5)"
    chosen = after[0] if after else found[0] if is_answer else found[-1]
    in_range = _RANGE.match(tail, chosen.end) or _RANGE_BEFORE.search(tail[max(0, chosen.start - 20) : chosen.start])
    return None if in_range else chosen


def stated_list(text: str) -> list[float] | None:
    """The numbers of the last bracketed list a text states, or of its stated part ("2014 and 2016"); None when there are none."""
    text = _clean(text)
    brackets = re.findall(r"[\[({]([^\[\](){}]*)[\])}]", text)
    listed = [values for part in brackets if len(values := [number.value for number in numbers(part)]) > 1]
    if listed:
        return listed[-1]
    tail = stated_tail(text)
    return [number.value for number in numbers(tail)] or None if tail else None


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.replace("\\$", "").replace("{,}", ",")).replace("⁄", "/")
    return plain(text).replace("−", "-").replace("–", "-").replace("\\!", "").replace("\\;", " ")


def _has_number(text: str) -> bool:
    return _NUMBER.search(text) is not None
