"""Which of several options a text answers with, where it says so plainly.

Published rules of multiple-choice benchmarks look for a letter somewhere: the first character, the last " B ". They read
"Based on the picture" as B and cannot read "**C**". `stated_choice` reads statements, in this order (our reading):

1. ``\\boxed{B}``;
2. the whole text: "b", "(B)", "**B**", "Option B", "B. a dog", "a dog";
3. the last declaration: "Answer: B", "the correct option is a dog", "option B is correct", "I choose B", "so it is (B).";
4. what opens the text: "B. a dog, because …", "Yes, it is", or a letter that opens its last line; not in a list of options;
5. the first or the last line, if it is as in 2;
6. the one marked letter, "(B)" or "option B", that the text names and does not negate;
7. where all options are numbers, the number the text states; else the one option whose text occurs in it and is not negated.
   A text that says it cannot answer states nothing here;
8. in a short text, the one capital letter that stands alone.

A letter is meant before an option's text, since letters are what a prompt asks for: of the options "B", "A", the answer "B" is
the second. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.scoring.markup import REFUSAL, boxed, plain
from pipeline.scoring.numbers import numbers, stated_number

REASONS = ("empty", "no_answer", "several_answers", "not_an_option")
"""Every reason `stated_choice` can give: blank; nothing stated; more than one option stated; a letter past the last option."""


@dataclass(frozen=True)
class Stated:
    """The option a text states, as its letter; or None and one of `REASONS`."""

    letter: str | None
    reason: str | None = None


_SEVERAL = Stated(None, "several_answers")
_NO_OPTION = Stated(None, "not_an_option")

_OPEN, _CLOSE = r"[(\[{<\"'“‘]*", r"[)\]}>\"'”’]*"
_NOUN = r"(?:option|choice|letter|answer)"
_LEADING = re.compile(
    rf"[\s:=\->–—]*(?:(?:it|this|that)(?:['’]s|\s+is)\s+)?(?:(?:the|an)\s+)?(?:(?:correct|final|best|right)\s+)*(?:{_NOUN}\s*(?:is)?[:\s]\s*)?"
    rf"(?P<open>{_OPEN})(?P<letter>[A-Za-z])(?![\w'’]\w|\w)(?P<close>{_CLOSE})(?P<after>\s*)(?P<next>\S?)",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    rf"\s*(?:,|/|&|\+|\band\b|\bor\b)+\s*(?:(?:and|or)\s+)?(?:{_NOUN}\s+)?{_OPEN}([A-Z])(?=[)\].,;:!?*]|\s*$|\s*\n)"
)
_CONNECTOR = re.compile(r"(?:because|since|as|and|or|for|which|due|given|is|was|based)\b|[(\-–—\n]", re.IGNORECASE)
_DECLARATION = re.compile(
    r"\b(?:answer|ans|option|choice|letter|conclusion)\b[\"']?(?:\s+(?:to|for|among|from|here)\b[^.\n:]{0,80}?)?\s*(?:\(s\))?\s*"
    r"(?:(?:is|are|was|be|(?:would|should|must|will)\s+be)\b\s*(?:therefore|thus|clearly|indeed|likely|probably|most likely)?\s*|"
    r"[:=→>\-–])[\s:]*"
    r"|答案\s*(?:是|为|選|选)?\s*[:：]?\s*"
    r"|\b(?:i|we)(?:['’]d|\s+would|\s+will)?\s+(?:choose|select|pick|go\s+with|opt\s+for|answer)\b[\s:]*",
    re.IGNORECASE,
)
_SAID_RIGHT = re.compile(
    rf"\b(?:{_NOUN}\s+)?{_OPEN}(?-i:([A-Z]))(?:{_CLOSE}|[.)]\s[^\n]{{0,80}}?)\s+(?:is|seems|appears|looks|must\s+be|would\s+be)\s+(?:to\s+be\s+)?"
    r"(?:the\s+)?(?:most\s+|only\s+|best\s+)?(?:correct|right|best|accurate|appropriate|likely|answer)"
    r"(?:\s+(?:answer|option|choice|one|statement))?(?=\s*(?:[.,;:!?)]|$|because\b|since\b|as\b|here\b))",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    rf"\b(?:therefore|thus|hence|so)\b[,:]?\s+(?:it(?:['’]s|\s+is|\s+must\s+be)\s+|the\s+)?(?:{_NOUN}\s+)?{_OPEN}"
    rf"(?-i:([A-Z])){_CLOSE}\s*[.!]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_LETTER = re.compile(rf"^[ *#>\-•]{{0,9}}{_OPEN}([A-Z])(?:[)\]}}]+|[.:](?!\w))", re.MULTILINE)
_OPENING_WORD = re.compile(r"([A-Z]),?\s+(?:because|since|as|is|not|and\s+not|but\s+not|rather)\b")
_MARKED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\"?([A-Z])\b(?!['’]\w)")
_CAPITAL = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_SHORT = 80
_NEGATED = re.compile(r"^\W*(?:(?:definitely|clearly|certainly)\s+)?(?:n['’]t|not|never|neither)\b", re.IGNORECASE)
_BUT = re.compile(r"\b(?:but|rather|instead)\b[\s,]*(?:rather|actually|instead|it\s+is|it['’]s)?\s*", re.IGNORECASE)
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|than|except|excludes?|eliminates?|without)|n['’]t|\b(?:rule[sd]?\s+out|instead\s+of))"
    r"\W+(?:\w+\W+){0,2}$",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"^\W*(?:(?:is|are|was|were|does|do|can|could|would|seems?)\s*(?:not\b|n['’]t)|cannot|(?:is|are|seems?|looks?)\s+(?:\w+\s+)?"
    r"(?:incorrect|wrong|false|ruled|excluded|unlikely|impossible))",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w)")


def letters(count: int) -> str:
    """The letters of `count` options, A first.

    Raises:
        ValueError: when there are more options than letters.
    """
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} options have no letters; there are {len(string.ascii_uppercase)}")
    return string.ascii_uppercase[:count]


def stated_choice(text: str, options: Sequence[str]) -> Stated:
    """The option `text` answers with.

    Args:
        text: an answer or a whole completion, untrusted.
        options: their texts in order; A is the first.
    """
    if not text.strip():
        return Stated(None, "empty")
    known = letters(len(options))
    options = [plain(option) for option in options]
    keys = [_key(option) for option in options]
    in_box = boxed(text)
    if in_box is not None and (found := _whole(plain(in_box), known, keys)):
        return found
    text = plain(text)
    if text.lstrip().startswith("A:"):  # "Q: … A: no, it is …", where no is another option's text.
        after = text.lstrip()[2:]
        turn = _same_text(after, known, keys) or _opening_option(after, known, keys)
        if turn:
            return turn
    return (
        _whole(text, known, keys)
        or _declared(text, known, keys)
        or _opening(text, known, keys)
        or _first_or_last_line(text, known, keys)
        or _marked(text, known)
        or _content(text, known, keys, options)
        or _lone(text, known)
        or Stated(None, "no_answer")
    )


def _key(text: str) -> str:
    """What two spellings of an option have in common: case, white space, outer punctuation and articles do not count."""
    return _ARTICLE.sub("", " ".join(text.casefold().split()).strip(" .,;:!?\"'`*()[]{}<>“”‘’"))


def _letter(letter: str, known: str) -> Stated:
    return Stated(letter.upper()) if letter.upper() in known else _NO_OPTION


def _whole(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The option that the whole of `text` is."""
    match = _LEADING.match(text)
    if match and (found := _several(text, match, known)):
        return found
    rest = text[match.end("close") :].strip(" .,;:!?*)\n\t") if match else ""
    if match and not rest:
        stated = _letter(match["letter"], known)
        return stated if stated.letter else _same_text(text, known, keys) or stated  # An option may be the word "x".
    if same := _same_text(text, known, keys):
        return same
    if match and match["letter"].upper() in known and _key(rest) == keys[known.index(match["letter"].upper())] != "":
        return Stated(match["letter"].upper())
    return None


def _same_text(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The one option whose text this is."""
    if len(text) > 2 * max(map(len, keys), default=0) + 100:
        return None
    key = _key(text)
    same = [letter for letter, each in zip(known, keys, strict=True) if key and each == key]
    return Stated(same[0]) if len(same) == 1 else None


def _several(text: str, match: re.Match[str], known: str) -> Stated | None:
    """`_SEVERAL` when the letter found is joined with another one, as in "A or C"."""
    if not match["letter"].isupper():
        return None
    other = _ANOTHER.match(text, match.end("close"))
    return _SEVERAL if other and other[1] != match["letter"] and other[1] in known else None


def _start(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The option that `text` starts with: what follows "the answer is"."""
    if _NEGATED.match(text):
        turn = _BUT.search(text.split("\n", 1)[0])
        return _start(text[turn.end() :], known, keys) if turn else None
    match = _LEADING.match(text)
    if match and (found := _several(text, match, known)):
        return found
    if match and _stands_alone(text, match):
        return _letter(match["letter"], known)
    head = _key(re.split(r"\n|(?<=\w)[.;!?](?=\s|$)", text.strip(), maxsplit=1)[0])
    for letter, key in sorted(zip(known, keys, strict=True), key=lambda pair: -len(pair[1])):
        if key and head.startswith(key) and not head[len(key) : len(key) + 1].isalnum():
            rest = re.match(r"\s*(?:,|/|\bor\b|\band\b)\s*", head[len(key) :])
            more = _start(head[len(key) + rest.end() :], known, keys) if rest else None
            if more and more.letter != letter:
                return _SEVERAL
            return Stated(letter) if list(keys).count(key) == 1 else None
    return None


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a leading letter is an answer and no word: "A because", "(b)", "B the dog"; not "a dog", "A dog", "I think"."""
    if match["close"] or match["next"] in tuple(".,;:!?)*<"):
        return True
    if not match["next"]:
        return match["letter"].isupper() or not match["after"].strip()
    if not match["letter"].isupper():
        return False
    return match["letter"] not in "AI" or "\n" in match["after"] or bool(_CONNECTOR.match(text, match.start("next")))


def _declared(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The last of the text's declarations that names an option."""
    found: list[tuple[int, Stated]] = []
    for match in _DECLARATION.finditer(text):
        if (stated := _start(text[match.end() : match.end() + 400], known, keys)) is not None:
            found.append((match.end(), stated))
    for pattern in (_SAID_RIGHT, _CONCLUSION):
        found += [(match.start(1), _letter(match[1], known)) for match in pattern.finditer(text)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _opening(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The letter or option that opens the text, or the letter that opens its last line; None in a list of options."""
    text = text.strip()
    opening = {match[1] for match in _LINE_LETTER.finditer(text)} & set(known)
    last = text.rfind("\n") + 1
    match = _LINE_LETTER.match(text) or _OPENING_WORD.match(text) or _LINE_LETTER.match(text, last)
    if match:
        wrong = opening - {match[1]} or _NOT_AFTER.match(text[match.end(1) : match.end(1) + 60])
        return None if wrong else _letter(match[1], known)
    return _opening_option(text, known, keys)


def _opening_option(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The one option whose text opens this one and ends at a mark: "Yes, it is"."""
    head = " ".join(text[: 2 * max(map(len, keys), default=0) + 20].casefold().split())
    same = [
        letter
        for letter, key in zip(known, keys, strict=True)
        if len(key) > 1
        and not key.isdigit()
        and head.startswith(key)
        and head[len(key) : len(key) + 1] in tuple(",.;:!")
    ]
    return Stated(same[0]) if len(same) == 1 else None


def _first_or_last_line(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The option that the first or the last of several lines is; None in a list of options."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or len({match[1] for match in _LINE_LETTER.finditer(text)} & set(known)) > 1:
        return None
    first, last = _whole(lines[0], known, keys), _whole(lines[-1], known, keys)
    if first and last and first != last:
        return _SEVERAL
    return last or first


def _marked(text: str, known: str) -> Stated | None:
    """The one letter in parentheses, or after "option", that is not negated."""
    named: set[str] = set()
    negated: set[str] = set()
    for match in _MARKED.finditer(text):
        letter = match[1] or match[2]
        if letter in known:
            (negated if _is_negated(text, match.start(), match.end()) else named).add(letter)
    named -= negated
    if len(named) > 1:
        return _SEVERAL
    return Stated(named.pop()) if named else None


def _lone(text: str, known: str) -> Stated | None:
    """The one capital letter that stands alone in a short text ("I'm not sure, but B"); A and I only at its end, being words."""
    if len(text) > _SHORT or REFUSAL.search(text):
        return None
    found = {
        match[1]
        for match in _CAPITAL.finditer(text)
        if match[1] in known
        and (match[1] not in "AI" or not text[match.end() :].strip(" .!"))
        and not _is_negated(text, match.start(), match.end())
    }
    if len(found) > 1:
        return _SEVERAL
    return Stated(found.pop()) if found else None


def _content(text: str, known: str, keys: Sequence[str], options: Sequence[str]) -> Stated | None:
    """The option whose text the text holds, or whose number it states; None where it says that it cannot answer."""
    if REFUSAL.search(text) and not any(REFUSAL.search(key) for key in keys):
        return None
    values = _values(options)
    if values is None:
        return _mentioned(text, known, keys)
    found = stated_number(text)
    same = [letter for letter, value in zip(known, values, strict=True) if found is not None and value == found.value]
    return Stated(same[0]) if len(same) == 1 else None


def _values(options: Sequence[str]) -> list[float] | None:
    """The options' numbers, where each is one and they share what stands around it ("12 cm", "15 cm"); else None."""
    found = [list(numbers(option)) for option in options]
    if any(len(values) != 1 for values in found):
        return None
    around = {
        option[: value.start].strip() + option[value.end :].strip()
        for option, [value] in zip(options, found, strict=True)
    }
    return [value.value for [value] in found] if len(around) == 1 else None


def _mentioned(text: str, known: str, keys: Sequence[str]) -> Stated | None:
    """The one option whose text occurs as whole words and is not negated; a longer option hides a shorter one within it."""
    text = " ".join(text.casefold().split())
    taken: list[tuple[int, int]] = []
    named: list[str] = []
    for letter, key in sorted(zip(known, keys, strict=True), key=lambda pair: -len(pair[1])):
        if len(key) < 2 and key.isascii() and not key.isdigit():
            continue
        places = [place for place in _places(text, key) if not any(a < place[1] and place[0] < b for a, b in taken)]
        taken += places
        if any(not _is_negated(text, start, end) for start, end in places):
            named.append(letter)
    if len(named) > 1:
        return _SEVERAL
    return Stated(named[0]) if named else None


def _places(text: str, key: str) -> Iterator[tuple[int, int]]:
    start = text.find(key)
    while start >= 0:
        end = start + len(key)
        before, after = text[start - 1 : start], text[end : end + 1]
        inside_number = key[-1].isdigit() and re.match(r"[.,]\d", text[end : end + 2])
        inside_number = inside_number or (key[0].isdigit() and re.search(r"\d[.,]$", text[max(0, start - 2) : start]))
        inside_word = (before.isalnum() and key[0].isalnum()) or (after.isalnum() and key[-1].isalnum())
        if not inside_word and not inside_number:
            yield start, end
        start = text.find(key, end)


def _is_negated(text: str, start: int, end: int) -> bool:
    """Whether "not", "rather than", … stand within two words before, or "is wrong" after, in the same sentence."""
    before = re.split(r"[.!?;\n]\s|,\s*but\b|\bbut\b", text[max(0, start - 60) : start])[-1]
    return bool(_NOT_BEFORE.search(before) or _NOT_AFTER.match(text[end : end + 60]))
