"""What may be stated: the options of a question, or the labels of a task, by their texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.markup import bare, is_whole_word
from pipeline.scoring.numbers import numbers
from pipeline.scoring.statements import is_negated

REASONS = ("empty", "no_answer", "several_answers", "not_an_option")
"""Every reason `stated_choice` can give: blank; nothing stated; more than one option stated; a letter past the last option."""


@dataclass(frozen=True)
class Stated:
    """The option a text states, as its letter; or None and one of `REASONS`."""

    letter: str | None
    reason: str | None = None


SEVERAL = Stated(None, "several_answers")
NO_OPTION = Stated(None, "not_an_option")
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\w)")


@dataclass(frozen=True)
class Options:
    """What may be stated: each option's spellings, and whether its id is a letter that a text may give instead.

    Args:
        ids: what each spelling means; several may mean the same.
        keys: the spellings, as `text_key` gives them.
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
        return Stated(letter.upper()) if letter.upper() in self.ids else NO_OPTION

    def same(self, text: str) -> Stated | None:
        """Return the one option whose text this is."""
        if len(text) > 2 * self.longest + 100:
            return None
        if self.labels is not None and (label := self.labels.normalise(text)) is not None:
            return Stated(label)
        key = text_key(text)
        return self.only({each for each, spelling in zip(self.ids, self.keys, strict=True) if key and spelling == key})

    def ending(self, line: str) -> set[str]:
        """Return the label in which a line ends and which it does not deny; of options nothing, which stand in any
        order in a text.
        """
        found = self.labels.mentions(line) if self.labels is not None else ()
        return {
            each.label
            for each in found
            if not bare(each.text[each.end :]) and not is_negated(each.text, each.start, each.end)
        }

    def only(self, found: set[str]) -> Stated | None:
        return Stated(next(iter(found))) if len(found) == 1 else None


def text_key(text: str) -> str:
    """Return what two spellings of an option have in common: case, white space, outer punctuation and articles do not count."""
    return _ARTICLE.sub("", bare(" ".join(text.casefold().split())).strip("<>"))


def ends_word(text: str, end: int) -> bool:
    """Check whether the word that opens `text` ends there: not in "awe-inspiring" or "dog's"."""
    return is_whole_word(text, 0, end) and not re.match(r"[-'’]\w", text[end : end + 2])


def common_values(options: Sequence[str]) -> list[float] | None:
    """Return the options' numbers, where each is one and they share what stands around it ("12 cm", "15 cm"); else None."""
    found = [list(numbers(option)) for option in options]
    if any(len(values) != 1 for values in found):
        return None
    around = {
        option[: value.start].strip() + option[value.end :].strip()
        for option, [value] in zip(options, found, strict=True)
    }
    return [value.value for [value] in found] if len(around) == 1 else None


def mentioned_option(text: str, options: Options) -> Stated | None:
    """Return the one option whose text occurs as whole words and is not negated; a longer option hides a shorter one
    within it."""
    if options.labels is not None:
        named = {
            mention.label
            for mention in options.labels.mentions(text)
            if not is_negated(mention.text, mention.start, mention.end)
        }
        return SEVERAL if len(named) > 1 else options.only(named)
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
        return SEVERAL
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
