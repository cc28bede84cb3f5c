"""Which of several options a text answers with, where it says so plainly.

Published rules of multiple-choice benchmarks look for a letter somewhere: the first character, the last " B ". They read
"Based on the picture" as B and cannot read "**C**". `stated_choice` reads statements, in this order (our reading):

0. of a text with one ``<answer>…</answer>``, or one that follows ``</think>``, that part alone; of an unfinished thought nothing;
1. ``\\boxed{B}``;
2. the whole text: "b", "(B)", "**B**", "Option B", "B. a dog", "a dog";
3. the last declaration: "Answer: B", "the correct option is a dog", "option B is correct", "I choose B", "so it is (B)", "故选B";
4. what opens the text: "B. a dog, because …", "Yes, it is", or a letter that opens its last line; not in a list of options;
5. the first or the last line, if it is as in 2;
6. the one marked letter, "(B)" or "option B", that the text names and does not negate, after any refusal;
7. where all options are numbers, the number the text states; else the one option whose text occurs in it and is not negated.
   A text that says it cannot answer states nothing here;
8. in a short text, the one capital letter that stands alone.

`stated_label` reads the labels of a task in the same way, from the same text; a label has no letter, so what asks for one (6, 8)
does not apply. Whatever names several ("A or C", "(A)(D)", "amusement, awe") states none.

A letter is meant before an option's text, since letters are what a prompt asks for: of the options "B", "A", the answer "B" is
the second. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.markup import REFUSAL, after_refusal, answer_part, bare, boxes, is_whole_word, plain
from pipeline.scoring.numbers import numbers, stated_number
from pipeline.scoring.statements import (
    ADJACENT,
    ANOTHER,
    BUT,
    CAPITAL,
    CONCLUSION,
    CONNECTOR,
    DECLARATION,
    JOINED,
    LEADING,
    LINE_LETTER,
    MARKED,
    NEGATED,
    NONE_OF,
    NOT_AFTER,
    OPENING_WORD,
    SAID_RIGHT,
    is_negated,
    is_undecided,
)

REASONS = ("empty", "no_answer", "several_answers", "not_an_option")
"""Every reason `stated_choice` can give: blank; nothing stated; more than one option stated; a letter past the last option."""


@dataclass(frozen=True)
class Stated:
    """The option a text states, as its letter; or None and one of `REASONS`."""

    letter: str | None
    reason: str | None = None


_SEVERAL = Stated(None, "several_answers")
_NO_OPTION = Stated(None, "not_an_option")
_SHORT = 80
_MARKS = tuple(".,;:!。；，、")
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w)")


def letters(count: int) -> str:
    """The letters of `count` options, A first.

    Raises:
        ValueError: when there are more options than letters.
    """
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} options have no letters; there are {len(string.ascii_uppercase)}")
    return string.ascii_uppercase[:count]


@dataclass(frozen=True)
class _Options:
    """What may be stated: each option's spellings, and whether its id is a letter that a text may give instead.

    Args:
        ids: what each spelling means; several may mean the same.
        keys: the spellings, as `_key` gives them.
        labels: of a task; they then know their own spellings, case and signs included.
    """

    ids: Sequence[str]
    keys: Sequence[str]
    labels: LabelSet | None = None

    @property
    def lettered(self) -> bool:
        return self.labels is None

    @property
    def longest(self) -> int:
        return max(map(len, self.keys), default=0)

    def letter(self, letter: str) -> Stated:
        return Stated(letter.upper()) if letter.upper() in self.ids else _NO_OPTION

    def same(self, text: str) -> Stated | None:
        """The one option whose text this is."""
        if len(text) > 2 * self.longest + 100:
            return None
        if self.labels is not None and (label := self.labels.normalise(text)) is not None:
            return Stated(label)
        key = _key(text)
        return self.only({each for each, spelling in zip(self.ids, self.keys, strict=True) if key and spelling == key})

    def only(self, found: set[str]) -> Stated | None:
        return Stated(next(iter(found))) if len(found) == 1 else None


def stated_choice(text: str, options: Sequence[str]) -> Stated:
    """The option `text` answers with.

    Args:
        text: an answer or a whole completion, untrusted.
        options: their texts in order; A is the first.
    """
    options = [plain(option) for option in options]
    return _stated(text, _Options(letters(len(options)), [_key(option) for option in options]), options)


def stated_label(text: str, labels: LabelSet) -> str | None:
    """The label `text` answers with; None when it states none, or several.

    Args:
        text: an answer or a whole completion, untrusted.
        labels: of the task.
    """
    whole = labels.normalise(text)
    if whole is not None:
        return whole
    ids, keys = [name for _, name in labels.spellings], [_key(spelling) for spelling, _ in labels.spellings]
    return _stated(text, _Options(ids, keys, labels), labels.names).letter


def _stated(text: str, options: _Options, texts: Sequence[str]) -> Stated:
    if not text.strip():
        return Stated(None, "empty")
    part = answer_part(text)
    if part is None:
        return _SEVERAL if "</answer>" in text else Stated(None, "no_answer")
    text = part
    in_boxes = {found for box in boxes(text) if (found := _whole(plain(box), options))}
    if in_boxes:
        return in_boxes.pop() if len(in_boxes) == 1 else _SEVERAL
    text = plain(text)
    if text.lstrip().startswith("A:"):  # "Q: … A: no, it is …", where no is another option's text.
        after = text.lstrip()[2:]
        turn = options.same(after) or _opening_option(after, options)
        if turn:
            return turn
    return (
        _whole(text, options)
        or _declared(text, options)
        or _opening(text, options)
        or _first_or_last_line(text, options)
        or (_marked(text, options) if options.lettered else None)
        or _content(text, options, texts)
        or (_lone(text, options) if options.lettered else None)
        or Stated(None, "no_answer")
    )


def _key(text: str) -> str:
    """What two spellings of an option have in common: case, white space, outer punctuation and articles do not count."""
    return _ARTICLE.sub("", bare(" ".join(text.casefold().split())).strip("<>"))


def _whole(text: str, options: _Options) -> Stated | None:
    """The option that the whole of `text` is."""
    match = LEADING.match(text) if options.lettered else None
    if match and (found := _several(text, match, options)):
        return found
    rest = bare(text[match.end("close") :]) if match else ""
    if match and not rest:
        stated = options.letter(match["letter"])
        return stated if stated.letter else options.same(text) or stated  # An option may be the word "x".
    if same := options.same(text):
        return same
    letter = match["letter"].upper() if match else ""
    if letter and letter in options.ids and _key(rest) == options.keys[options.ids.index(letter)] != "":
        return Stated(letter)
    return None


def _several(text: str, match: re.Match[str], options: _Options) -> Stated | None:
    """`_SEVERAL` when the letter found is joined with another one, as in "A or C" and "(A)(C)"."""
    letter = match["letter"]
    if not letter.isupper():
        return None
    for pattern in (ANOTHER, ADJACENT):
        other = pattern.match(text, match.end("close"))
        second = other[other.lastindex or 1] if other else letter
        is_text = letter in options.ids and options.keys[options.ids.index(letter)] == second.casefold()  # "B (A)"
        if second != letter and second in options.ids and not is_text:
            return _SEVERAL
    return None


def _start(text: str, options: _Options) -> Stated | None:
    """The option that `text` starts with: what follows "the answer is"."""
    if NEGATED.match(text):
        turn = BUT.search(text.split("\n", 1)[0])
        return _start(text[turn.end() :], options) if turn else None
    match = LEADING.match(text) if options.lettered else None
    if match and (found := _several(text, match, options)):
        return found
    if match and _stands_alone(text, match):
        return options.letter(match["letter"])
    return _starting_text(text, options)


def _starting_text(text: str, options: _Options, listed: bool = False) -> Stated | None:
    """The option whose text `text` starts with, several where another is joined to it; `listed`: only one that ends at a mark."""
    first, *rest_of = re.split(r"\n|(?<=\w)[.;!?。](?=\s|$|[^\x00-\x7f])", text.strip(), maxsplit=1)
    if not options.lettered and (same := options.same(first)):
        more = _starting_text(rest_of[0], options, listed=True) if rest_of and rest_of[0].strip() else None
        return _SEVERAL if more and more != same else same
    head = _key(first)
    for each, key in sorted(zip(options.ids, options.keys, strict=True), key=lambda pair: -len(pair[1])):
        if key and head.startswith(key) and _ends_word(head, len(key)):
            rest = JOINED.match(head, len(key))
            more = _start(head[rest.end() :], options) if rest else None
            if not rest and len(head) > len(key):  # "amusement awe"
                more = _starting_text(head[len(key) :], options, listed=True)
                if listed and more is None:
                    return None
            if more and more.letter != each:
                return _SEVERAL
            return options.only({other for other, same in zip(options.ids, options.keys, strict=True) if same == key})
    return None


def _ends_word(text: str, end: int) -> bool:
    """Whether the word that opens `text` ends there: not in "awe-inspiring" or "dog's"."""
    return is_whole_word(text, 0, end) and not re.match(r"[-'’]\w", text[end : end + 2])


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a leading letter is an answer and no word: "A because", "(b)", "B the dog"; not "a dog", "A dog", "I think"."""
    if match["close"] or match["next"] in tuple(".,;:!?)*<"):
        return True
    if not match["next"]:
        return match["letter"].isupper() or not match["after"].strip()
    if not match["letter"].isupper():
        return False
    if not match["next"].isascii():
        return True
    return match["letter"] not in "AI" or "\n" in match["after"] or bool(CONNECTOR.match(text, match.start("next")))


def _declared(text: str, options: _Options) -> Stated | None:
    """The last of the text's declarations that names an option."""
    found: list[tuple[int, Stated]] = []
    for match in DECLARATION.finditer(text):
        stated = _start(text[match.end() : match.end() + 400], options)
        if stated is not None and not is_undecided(text, match.start()):
            found.append((match.end(), stated))
    for pattern in (SAID_RIGHT, CONCLUSION) if options.lettered else ():
        for match in pattern.finditer(text):
            if not is_undecided(text, match.start()):
                group = match.lastindex or 1
                found.append((match.start(group), options.letter(match[group])))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _opening(text: str, options: _Options) -> Stated | None:
    """The letter or option that opens the text, or the letter that opens its last line; None in a list of options."""
    text = text.strip()
    if not options.lettered:
        return _opening_option(text, options)
    opening = {match[1] for match in LINE_LETTER.finditer(text)} & set(options.ids)
    last = text.rfind("\n") + 1
    match = LINE_LETTER.match(text) or OPENING_WORD.match(text)
    if not match and not (last and _whole(text.partition("\n")[0], options)):
        match = LINE_LETTER.match(text, last)
    if match:
        wrong = opening - {match[1]} or NOT_AFTER.match(text[match.end(1) : match.end(1) + 60])
        return None if wrong else options.letter(match[1])
    return _opening_option(text, options)


def _opening_option(text: str, options: _Options) -> Stated | None:
    """The one option whose text opens this one and ends at a mark: "Yes, it is"; several where more of them follow."""
    head = " ".join(text[: 2 * options.longest + 400].casefold().split())
    same: dict[str, int] = {}
    for each, key in zip(options.ids, options.keys, strict=True):
        if len(key) > 1 and not key.isdigit() and head.startswith(key) and head[len(key) : len(key) + 1] in _MARKS:
            same[each] = len(key)
    if len(same) != 1:
        return None
    [(each, length)] = same.items()
    joined = JOINED.match(head, length)
    other = _starting_text(head[joined.end() :], options, listed=True) if joined else None
    return _SEVERAL if other and other.letter != each else Stated(each)


def _first_or_last_line(text: str, options: _Options) -> Stated | None:
    """The option that the first or the last of several lines is; several where lines are different ones."""
    lines = [line for line in text.splitlines() if line.strip()]
    listed = {match[1] for match in LINE_LETTER.finditer(text)} & set(options.ids)
    if len(lines) < 2 or (options.lettered and len(listed) > 1):
        return None
    first, last = _whole(lines[0], options), _whole(lines[-1], options)
    stated = {found for found in (first, last) if found}
    if len(stated) == 1:
        stated |= {found for line in lines[1:-1] if (found := options.same(line))}
    return _SEVERAL if len(stated) > 1 else last or first


def _marked(text: str, options: _Options) -> Stated | None:
    """The one letter in parentheses, or after "option", that is not negated and that no refusal holds."""
    text = after_refusal(text)
    named: set[str] = set()
    negated: set[str] = set()
    for match in MARKED.finditer(text):
        letter = match[1] or match[2]
        if letter in options.ids:
            denied = is_negated(text, match.start(), match.end()) or is_undecided(text, match.start())
            (negated if denied else named).add(letter)
            other = ANOTHER.match(text, match.end())
            if other and other[1] in options.ids:  # "option A or B"
                named.add(other[1])
    named -= negated
    if len(named) > 1:
        return _SEVERAL
    return Stated(named.pop()) if named else None


def _lone(text: str, options: _Options) -> Stated | None:
    """The one capital letter that stands alone in a short text ("I'm not sure, but B"); A and I only at its end, being words."""
    if len(text) > _SHORT or REFUSAL.search(text) or NONE_OF.search(text):
        return None
    found: set[str] = set()
    for match in CAPITAL.finditer(text):
        other = ANOTHER.match(text, match.end())
        is_word = (
            match[1] in "AI" and bool(text[match.end() :].strip(" .!")) and not (other and other[1] in options.ids)
        )
        denied = is_negated(text, match.start(), match.end()) or is_undecided(text, match.start())
        if match[1] in options.ids and not is_word and not denied:
            found.add(match[1])
    if len(found) > 1:
        return _SEVERAL
    return Stated(found.pop()) if found else None


def _content(text: str, options: _Options, texts: Sequence[str]) -> Stated | None:
    """The option whose text the text holds, or whose number it states; None where it says that it cannot answer."""
    if REFUSAL.search(text) and not any(REFUSAL.search(key) for key in options.keys):
        return None
    values = _values(texts)
    if values is None:
        return _mentioned(text, options)
    found = stated_number(text)
    ids = options.ids if options.lettered else texts
    return options.only({each for each, value in zip(ids, values, strict=True) if found and value == found.value})


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


def _mentioned(text: str, options: _Options) -> Stated | None:
    """The one option whose text occurs as whole words and is not negated; a longer option hides a shorter one within it."""
    if options.labels is not None:
        named = {
            mention.label
            for mention in options.labels.mentions(text)
            if not is_negated(mention.text, mention.start, mention.end)
        }
        return _SEVERAL if len(named) > 1 else options.only(named)
    text = " ".join(text.casefold().split())
    taken = bytearray(len(text))
    letters_named: list[str] = []
    for letter, key in sorted(zip(options.ids, options.keys, strict=True), key=lambda pair: -len(pair[1])):
        if len(key) < 2 and key.isascii() and not key.isdigit():
            continue
        places = [(start, end) for start, end in _places(text, key) if not (taken[start] or taken[end - 1])]
        for start, end in places:
            taken[start:end] = b"\1" * len(key)
        if any(not is_negated(text, start, end) for start, end in places):
            letters_named.append(letter)
    if len(letters_named) > 1:
        return _SEVERAL
    return Stated(letters_named[0]) if letters_named else None


def _places(text: str, key: str) -> Iterator[tuple[int, int]]:
    start = text.find(key) if key else -1
    while start >= 0:
        end = start + len(key)
        inside_number = key[-1].isdigit() and re.match(r"[.,]\d", text[end : end + 2])
        inside_number = inside_number or (key[0].isdigit() and re.search(r"\d[.,]$", text[max(0, start - 2) : start]))
        if not inside_number and is_whole_word(text, start, end):
            yield start, end
        start = text.find(key, end)
