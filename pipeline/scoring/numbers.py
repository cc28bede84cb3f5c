"""The number, or the list of numbers, a text answers with (our reading; benchmarks ask a language model, or take any number).

In this order: the last ``\\boxed{…}``; the last declaration ("Answer: …", "the answer is …"); the last bold number; the last
sentence with a number. Of what is found so the number it opens with is meant, else what follows its last "=", "is", "so", else
its last number. A limit is no answer where a count stands beside it ("2 bags with at least 60 buttons" is 2), and neither is
the power of a unit (12 cm^2). A text that says it cannot answer has none.

Read are ``1,234.5`` ``-3`` ``−3`` ``3/4`` ``1 3/4`` ``\\frac{3}{4}`` ``\\sqrt{2}`` ``2\\pi`` ``1.2e3`` ``1.2 \\times
10^{3}`` ``50%`` ``$5`` ``3k`` ``2.5 million``, and words: "three", "minus three hundred and five", "two thirds". A ratio (1:2), a
time and a range are no number, unless its ends are one value ("0.3 or 30%"); what stands around one ("cm", "years") is not
converted. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import bisect
import itertools
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
}
_TENS = "|".join(word for word, number in _WORDS.items() if number >= 20)
_UNITS = "|".join(word for word, number in _WORDS.items() if 1 <= number < 10)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# A quarter may be a coin.
_SHARES = {
    "half": 2,
    "third": 3,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
_SMALLER = rf"(?:(?:{_TENS})(?:[-\s](?:{_UNITS}))?|{'|'.join(_WORDS)})"
# Not of "two hundred-dollar bills".
_WHOLE = r"(?!-(?!and\b))"
_HUNDREDS = rf"(?:(?:{_SMALLER}[-\s])?hundred{_WHOLE}(?:[-\s](?:and[-\s])?{_SMALLER})?|{_SMALLER})"
_LARGE = rf"(?:{'|'.join(word for word in _SCALES if word != 'hundred')}){_WHOLE}"
_IN_WORDS = (
    # "two thirds", and "one half" of something, but neither "two fifth graders" nor "one half eaten apple".
    rf"(?:(?:{_UNITS})[-\s](?:{'|'.join(f'{word}s' for word in _SHARES)}|halves)(?!-)"
    rf"|one[-\s](?:{'|'.join(_SHARES)})(?=\s*(?:$|[.,;:!?)\]*]|of\b))"
    rf"|half\sa\s(?:hundred{_WHOLE}|{_LARGE})"
    rf"|(?:(?:a[-\s](?=hundred\b))?{_HUNDREDS}|a[-\s]{_LARGE})(?:[-\s]{_LARGE}(?:[-\s](?:and[-\s])?{_HUNDREDS})?)*)"
)
# What is halved may follow: "two and a half million".
_AND_A_HALF = rf"\s{{1,3}}and\s{{1,3}}a\s{{1,3}}half\b(?:\s{{1,3}}(?:{'|'.join(_SCALES)})\b(?!-))?"
_SIGNED = re.compile(
    r"(?:^|[=:;,.!?(\[\"'“*]|\b(?:is|are|was|were|be|to|of|at|about|equals?|reads?|from|than|by|answer|approximately|as|so"
    r"|thus|therefore|hence|and|(?<!\bplus )or|between|around|roughly|exactly|only|just|nearly|almost|below|above|ha[sd]|have"
    r"|shows?|shown|says?|see|indicates?|displays?|recorded|gets?|got|gives?|gave|becomes?|became|yields?|means?|reach(?:es|ed)?"
    r"|hits?))\s*$",
    re.IGNORECASE,
)
"""What stands before a minus in words that is a sign: "5 minus 3" and "the sum minus 3" are differences."""
# More groups than any number has, lest a long row of them be tried at each.
_DIGITS = r"\d{1,3}(?:,\d{3}){1,20}(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_GROUP = r"\{([^{}]{1,40})\}"
# Unbounded runs of optional white space would make hostile text quadratic; so would digits started in mid-run.
_S = r"\s{0,3}"
_NO_POWER = (
    # The 2 of cm^2; that of 10^2 is part of its number.
    r"(?<!\^)(?<!\^\{)(?<!\^-)(?<!\^\{-)(?<!\^\+)(?<!\^\{\+)"
)
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)\]}}])[-+]|\b(?:minus|negative)\s{{1,3}})?(?:{_S}[$€£¥])?{_S}(?P<minus>(?<![\w.)\]}}])-)?(?:"
    rf"(?P<whole>(?<!\d)\d+)?{_S}\\[dt]?frac{_S}{_GROUP}{_S}{_GROUP}"
    rf"|(?<![\d.])(?:(?P<mixed>\d+)\s{{1,3}})?(?P<top>\d+(?:\.\d+)?){_S}/{_S}(?P<bottom>\d+(?:\.\d+)?)(?![\d/])"
    rf"|(?P<factor>(?<!\d)(?:{_DIGITS}))?{_S}\\sqrt{_S}(?:{_GROUP}|(\d))"
    # At once, since the 1 of 1.5:2 is part of a ratio too, and a part of a run of digits could be tried at each of its places.
    rf"|(?P<digits>(?<![A-Za-z_\d])(?<!\d:)(?<!\d\.){_NO_POWER}(?>{_DIGITS})(?!\d*{_S}:{_S}\d))"
    rf"(?:{_S}(?:\\times|\\cdot|[x×*·]){_S}10{_S}\^?{_S}\{{?{_S}(?P<power>[-+]?\d{{1,3}})\}}?"
    rf"|[eE](?P<exponent>[-+]?\d{{1,3}})(?!\w)|{_S}\^{_S}\{{?{_S}(?P<raised>[-+]?\d{{1,3}})\}}?)?"
    rf"(?P<pi>{_S}(?:\\pi\b|π))?"
    rf")(?:\s{{1,3}}(?P<scale>{'|'.join(_SCALES)})\b(?!-)|(?P<kilo>k)(?!\w))?"
    rf"(?P<and_half>{_AND_A_HALF})?(?P<percent>{_S}\\?%|\s{{1,3}}percent\b)?"
    rf"|(?<![\w-])(?P<said>(?:minus|negative)\s{{1,3}})?(?P<word>{_IN_WORDS})(?P<more_half>{_AND_A_HALF})?"
    r"(?P<percent_said>\s{1,3}percent\b)?(?!\w)",
    re.IGNORECASE,
)
_DECLARED = re.compile(
    r"(?P<announced>\bhere(?:['’]s|\s+is|\s+are)\s+(?:\w+\s+){0,3}?)?"
    r"(?:\bfinal\s+)?\banswer\b(?:[^.\n:=]{0,60}?(?:\b(?:is|are|was|be|equals?)\b|[:=])[\s:]*|(?<=final\sanswer)[\s:]*)"
    r"|答案\s*(?:是|为|為)?\s*[:：]?\s*",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:\b(?:greater|higher|larger|bigger|longer|taller|older|younger|lower|smaller|shorter|less|more|fewer|later|earlier)\s+than"
    r"(?:\s+or\s+equal\s+to)?|\b(?:at\s+(?:least|most)|above|below|over|under|exceed(?:s|ed|ing)?)|[<>≤≥])"
    r"\s*(?:about\s+|an?\s+)?[$€£¥]?\s*$"
    r"|\b(?:that|which|who|with|having|where)\b[^.;!?\n]{0,40}\b(?:exactly|precisely|only|(?:equal|up)\s+to)\s*[$€£¥]?\s*$",
    re.IGNORECASE,
)
"""What stands before a number that others are held against."""
_RISING = re.compile(r"\b(?:greater|higher|larger|lower|smaller)\s+than\s*[$€£¥]?\s*$", re.IGNORECASE)
"""Said of a value, never of a count: the count may follow ("greater than 0.92 % in 3 years")."""
_RELATIVE = re.compile(r"(?<!,)\s(?:that|which|who|whose\s+\w+)\s+(?:each\s+|only\s+|all\s+|also\s+)?$", re.IGNORECASE)
# More than any answer; each of a hostile text's thousands would be searched for numbers.
_MOST_DECLARATIONS = 50
_ALONE = re.compile(r"^\W*(?:(?:about|around|approximately|roughly|exactly|only|nearly|almost)\s+)?\W*$", re.IGNORECASE)
_REASON = re.compile(r",?\s(?:as|since|because)\s", re.IGNORECASE)
_UNIT_FOLLOWS = re.compile(r"\s?[A-Za-zµμΩ°]")
_CLOSING = re.compile(
    r"=|≈|\\approx|\b(?P<doing>(?:is|are|was|be)\s+\w+ing\b)"
    r"|\b(?:is|are|was|be|equals?|has|have|had|gives?|get|gets|yields?|so|thus|therefore)\b"
    # "3 are standing and 2 are sitting, for a total of 5", but not "2 dogs, making it loud".
    r"|,\s+(?:(?:(?:for|in|making|giving)\s+)?(?:a\s+)?total(?:l?ing)?(?:\s+of)?|making|giving)"
    rf"(?=:?\s*(?:\d|(?:{'|'.join(_WORDS)})\b))"
    rf"|,(?=\s+(?:\d{{1,9}}|{'|'.join(_WORDS)})\s+(?:in\s+(?:total|all)|altogether)\b)",
    re.IGNORECASE,
)
"""What a sentence concludes with."""
_SUBJECT_BEFORE = re.compile(r"(?:^|[,;:]|\b(?:and|but|while|where|which|there|only|is|are|was))\s*$", re.IGNORECASE)
_SUBJECT = re.compile(r"(?:\s+[\w'’-]+){0,4}\s*")
"""What stands before and behind a number that counts who does something: "4 people", "3 of whom"."""
_PART_OF = re.compile(
    r"\s+(?:of|(?:\w+\s+){0,2}out\s+of)(?:\s+(?:the|all|these|those|a|total|of)){0,4}\s*", re.IGNORECASE
)
"""What stands between a part and its whole: "3 of the 5", "3 dogs out of 5"."""
# NFKC makes 31/2 of 3½.
_MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_SUPERSCRIPT = re.compile(r"<sup>\s{0,3}([-+]?\d{1,3})\s{0,3}</sup>")
_EQUALS = re.compile(r"=|≈|\\approx")
_BOLD = re.compile(r"\*\*([^*\n]{1,40})\*\*")
_ONE_IS_MEANT = re.compile(
    r"(?:^|\b(?:is|are|was|were|be|has|have|only|exactly|just|contains?|answer|equals?|there['’]s|sees?|count(?:s|ed)?|shows?"
    r"|depicts?|displays?|features?|finds?|found)|[:=])\W*$",
    re.IGNORECASE,
)
_UNIT_CHARS = 30
_RANGE = re.compile(r"\s*(?:-|\bto\b|(?P<or>\bor\b))\s*\d")
_RANGE_BEFORE = re.compile(r"\d%?\s*(?:-|\bto\b|(?P<or>\bor\b))\s*$")
_SENTENCE = re.compile(r"\n+|(?<=[^\d\s])\.\s+|(?<=\d)\.\s+(?=[A-Z])|[!?]\s+")


@dataclass(frozen=True)
class Number:
    """A number as written in a text.

    Args:
        value: what it is.
        percent: whether a percent sign or "percent" follows.
        start, end: where it stands in the text that was searched.
        text: as written.
        after: the first characters behind it, where its unit is.
        scale: what its last word multiplies by, as in "5 million"; 1 without one.
    """

    value: float
    percent: bool
    start: int
    end: int
    text: str
    after: str
    scale: int = 1

    @property
    def readings(self) -> tuple[float, ...]:
        """What it may mean: 50% is 50 where a percentage is asked for, and 0.5 where a share is; 5 million is 5 of millions."""
        if self.scale > 1:
            return (self.value, self.value / self.scale)
        return (self.value, self.value / 100) if self.percent else (self.value,)


def numbers(text: str) -> Iterator[Number]:
    """Yield every number of a text, in order; what has no finite value (``3/0``) is left out."""
    text = text.replace("−", "-").replace("–", "-")
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        said = match["said"] or (match["sign"] if len(match["sign"] or "") > 1 else None)
        if (
            (match["word"] or "").lower() == "one"
            and not said
            and not _ONE_IS_MEANT.search(text[max(0, start - 20) : start])
        ):
            # A pronoun: "the smallest one".
            continue
        value = _value(match)
        # In place, so that only the text itself begins there.
        difference = said and said[0] in "mM" and not _SIGNED.search(text, max(0, start - 20), start)
        if said and difference:
            start += len(said)
        if value is not None and math.isfinite(value):
            after = text[end : end + _UNIT_CHARS]
            sign = -1.0 if said and not difference else 1.0
            percent = match["percent"] is not None or match["percent_said"] is not None
            yield Number(sign * value, percent, start, end, text[start:end], after, _scale(match))


def _scale(match: re.Match[str]) -> int:
    """What the last word of a number multiplies by, from a thousand on and of dozens; 1 without such a word."""
    said = (match["and_half"] or match["more_half"], match["scale"], match["word"])
    return 1000 if match["kilo"] else max(_scale_of(text or "") for text in said)


def _scale_of(text: str) -> int:
    """What the last word of a text multiplies by, as `_scale` tells it."""
    last = re.split(r"[-\s]", text)[-1].lower()
    return 1 if last == "hundred" else _SCALES.get(last, 1)


def _value(match: re.Match[str]) -> float | None:
    """The value of a number, but for a sign in words."""
    if match["word"]:
        value, unit = _in_words(match["word"].lower()), _scale_of(match["word"])
    else:
        written = _written_value(match)
        if written is None:
            return None
        unit = 1000 if match["kilo"] else _SCALES[match["scale"].lower()] if match["scale"] else 1
        value = written * unit
    half = match["and_half"] or match["more_half"]
    return (value + math.copysign(unit / 2, value)) * _scale_of(half) if half else value


def _in_words(text: str) -> float:
    """The value of "three hundred and five thousand" or "two thirds"."""
    parts = [part for part in re.split(r"[-\s]", text) if part != "and"]
    if (share := _SHARES.get(parts[-1].removesuffix("s").replace("halve", "half"))) and len(parts) == 2:
        return _WORDS[parts[0]] / share
    if parts[0] == "half":
        return _SCALES[parts[-1]] / 2
    whole = part_of = 0
    for part in parts:
        if part in ("hundred", "dozen"):
            part_of = max(part_of, 1) * _SCALES[part]
        elif part in _SCALES:
            whole, part_of = whole + max(part_of, 1) * _SCALES[part], 0
        else:
            part_of += _WORDS.get(part, 1 if part == "a" else 0)
    return float(whole + part_of)


def _written_value(match: re.Match[str]) -> float | None:
    """The value of digits, a fraction or a root."""
    sign = -1.0 if "-" in (match["sign"], match["minus"]) else 1.0
    try:
        if match["digits"]:
            value = _plain(match["digits"]) ** int(match["raised"] or 1) * (math.pi if match["pi"] else 1)
            return sign * value * 10.0 ** int(match["power"] or match["exponent"] or 0)
        if match["top"]:
            return sign * (float(match["mixed"] or 0) + float(match["top"]) / float(match["bottom"]))
        groups = match.groups()
        # The unnamed groups of \frac follow it, those of \sqrt follow `factor`.
        first = _NUMBER.groupindex["whole"]
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
    """Return the part of a text that states its answer, without markup; None when there is none."""
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
    for match in reversed(list(_DECLARED.finditer(text))[-_MOST_DECLARATIONS:]):
        if told := _told(text[match.end() : match.end() + 400], match["announced"] is not None):
            return told, True
    if bold:
        return _clean(bold[-1]), True
    if REFUSAL.search(text):
        return None
    parts = [part for part in _SENTENCE.split(text) if part]
    holding = [part for part in parts if _has_number(part)]
    # Rows of a table conclude nothing.
    prose = [part for part in holding if "|" not in part]
    return (prose or holding or parts or [text])[-1], False


def _told(text: str, announced: bool) -> str | None:
    """The sentence that a declaration gives as the answer; None where it gives none with a number.

    Args:
        text: what follows the declaration.
        announced: whether it only announces a text ("Here is the answer to your question:"), which then has its own last word.
    """
    parts = [part for part in _SENTENCE.split(text.strip()) if part and part.strip()]
    told = parts[0] if parts else ""
    if len(parts) > 1 and told.rstrip().endswith((":", "=")):
        told += " " + parts[1]
    first = next(numbers(told), None)
    return told if first is not None and (not announced or _ALONE.match(told[: first.start])) else None


def stated_number(text: str) -> Number | None:
    """Return the number a text answers with; None when it states none."""
    stated = _stated(text)
    every = list(numbers(stated[0])) if stated else []
    if not every or not stated:
        return None
    tail, is_answer = stated
    found = _without_wholes(tail, _without_limits(tail, every))
    if is_answer and _ALONE.match(tail[: found[0].start]):
        places = [match.end() for match in _EQUALS.finditer(tail)]
        chosen = next((number for number in found if places and number.start >= places[-1]), found[0])
    else:
        chosen = _concluded(tail, found)
    return _unless_range(tail, chosen, every)


def _concluded(tail: str, found: list[Number]) -> Number:
    """The number a sentence arrives at: what follows its last closing word, else its last one."""
    reason = _REASON.search(tail, found[0].end)
    if reason:
        tail, found = tail[: reason.start()], [number for number in found if number.start < reason.start()]
    places = [place for match in _CLOSING.finditer(tail) if (place := _place(tail, match, found)) is not None]
    if not places and found[0].start <= 2 and _UNIT_FOLLOWS.match(tail, found[0].end):
        # "12 out of 20 houses"
        return found[0]
    after = [number for number in found if places and number.start >= places[-1]]
    if after:
        return after[0]
    outside = [number for number in found if tail.count("(", 0, number.start) == tail.count(")", 0, number.start)]
    # "7 years (12 - 5)"
    return (outside or found)[-1]


def _place(tail: str, match: re.Match[str], found: list[Number]) -> int | None:
    """Where what a closing word concludes with begins; None where it concludes nothing.

    Those who do something stand before it: "4 people are sitting at 2 tables".
    """
    if _is_relative(tail, match.start(), found[0]):
        return None
    place = bisect.bisect_right(found, match.start(), key=lambda number: number.end)
    if not match["doing"] or not place:
        return match.end()
    start, between = found[place - 1].start, tail[found[place - 1].end : match.start()]
    is_subject = len(between) <= _UNIT_CHARS and _SUBJECT.fullmatch(between)
    if is_subject and _SUBJECT_BEFORE.search(tail[max(0, start - 20) : start]):
        return start
    # Without a number behind it what was said before stands.
    return match.end() if found[-1].start >= match.end() else None


def _is_relative(tail: str, place: int, first: Number) -> bool:
    """Whether the word at `place` only says more about a count: "2 racks that have"."""
    return first.start < place and bool(_RELATIVE.search(tail[max(0, place - 40) : place]))


def _without_limits(tail: str, found: list[Number]) -> list[Number]:
    """The numbers that no other is held against; all of them where no count stands before the first limit."""
    limits = [bool(_LIMIT.search(tail[max(0, number.start - 60) : number.start])) for number in found]
    if not any(limits) or limits[0]:
        kept = [number for number, limit in zip(found, limits, strict=True) if not limit]
        rising = any(limits) and _RISING.search(tail[max(0, found[0].start - 60) : found[0].start])
        return kept if rising and kept else found
    return [number for number, limit in zip(found, limits, strict=True) if not limit]


def _without_wholes(tail: str, found: list[Number]) -> list[Number]:
    """The numbers of which no other is a part."""
    parts = [bool(_PART_OF.fullmatch(tail, one.end, other.start)) for one, other in itertools.pairwise(found)]
    return [found[0], *(number for number, part in zip(found[1:], parts, strict=True) if not part)]


def _unless_range(tail: str, chosen: Number, every: list[Number]) -> Number | None:
    """The chosen number, or None where it is one end of a range or of two alternatives that are not the same value."""
    after = _RANGE.match(tail, chosen.end)
    before = _RANGE_BEFORE.search(tail[max(0, chosen.start - 20) : chosen.start])
    if not after and not before:
        return chosen
    place = every.index(chosen) + (1 if after else -1)
    other = every[place] if 0 <= place < len(every) else None
    said = after["or"] if after else before["or"] if before else None
    if other is None or not said or not _same_value(tail, chosen, other):
        return None
    return other if other.percent else chosen


def _same_value(tail: str, one: Number, other: Number) -> bool:
    """Whether two numbers are one value in two forms: 0.3 and 30%, 0.33 and 1/3."""
    for left, right in ((one, other), (other, one)):
        decimals = re.search(r"\.(\d{2,})\D*$", tail[right.start : right.end])
        for value in left.readings:
            if any(math.isclose(value, known) for known in right.readings):
                return True
            if decimals and not left.percent and round(value, len(decimals[1])) == right.value:
                return True
    return False


def written(value: float) -> str:
    """Return a number as a label: whole ones without decimals, others with all their digits (1234567, 0.1)."""
    return str(int(value)) if value.is_integer() and abs(value) <= 2**53 else f"{value:.15g}"


def stated_list(text: str) -> list[float] | None:
    """Return the numbers of the last bracketed list a text states, or of its stated part ("2014 and 2016"); None
    when there are none.
    """
    text = _clean(text)
    brackets = re.findall(r"[\[({]([^\[\](){}]*)[\])}]", text)
    listed = [values for part in brackets if len(values := [number.value for number in numbers(part)]) > 1]
    if listed:
        return listed[-1]
    tail = stated_tail(text)
    return [number.value for number in numbers(tail)] or None if tail else None


def _clean(text: str) -> str:
    text = _SUPERSCRIPT.sub(r"^\1", text.replace("\\$", "").replace("{,}", ","))
    text = unicodedata.normalize("NFKC", _MIXED.sub(" ", text)).replace("⁄", "/")
    return plain(text).replace("−", "-").replace("–", "-").replace("\\!", "").replace("\\;", " ")


def _has_number(text: str) -> bool:
    return _NUMBER.search(text) is not None
