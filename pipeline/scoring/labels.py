"""The closed list of answers a task accepts, and the one rule that maps text to one of them.

Matching is exact on the whole text after normalisation: Unicode form, white space, the punctuation of any script around it, case,
and what separates words (`_`, `-`, spaces). A sign counts: -5 is not 5, C++ is not C, A- is not A. Case counts between two
labels of one letter each (a, A) and nowhere else. Substrings never match: "amusement or awe" is no label, and neither is the
empty string.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.scoring.markup import bare, is_whole_word

CURE = (
    "; labels must differ in more than case, separators and outer punctuation: rename all but one of them, or name one in "
    "task.labels, which then reads every such spelling"
)
"""What is told of labels that read the same where a configuration can name them."""
# A label is a few words; longer text cannot be one and is not worth normalising.
_MAX_ANSWER_CHARS = 200
_MINUS = re.compile(r"\u2212|[\u2010-\u2013](?=\d)")
_BULLET = re.compile(r"^(?:[-*#>\u2022\u2013\u2014\u00b7]\s+)+")
_SEPARATORS = re.compile(r"(?:[\s_]|--+|(?<=\w)-(?=\w)|(?<=\s)-(?=\s|$))+")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the i it its this that these those he she we you they me us him her them one no not yes on off in out up down over "
        "under at by to of for from with as is are was were be been am do does did has have had can could may might will would "
        "shall should must and or but nor so if then than too very just only all any both each few more most other some such "
        "none nothing here there now when where why how who what which two three four five six seven eight nine ten",
    )
)
_NAMED = (
    "letter|sign|symbol|character|label|class|category|answer|option|grade|type|digit|number|word|gesture|emotion|level"
)
_NAMED_BEFORE = re.compile(
    rf"(?:\b(?:{_NAMED})s?\s+(?:(?:is|of|for)\s+)?|[*=:→]\s?)$|(?:标签|標籤|字母|类别|類別|答案)(?:是|为|為)?\s?$",
    re.IGNORECASE,
)
_QUOTED_BEFORE, _QUOTED_AFTER = re.compile(r"[\"'“‘«「『(（\[*]$"), re.compile(r"[\"'”’»」』)）\]*]")
_ENDS = re.compile(r"\s*[\"'”’»」』)）\]*]{0,2}\s*(?:[.!?。！？]|$)")
_CONCLUDED_BEFORE = re.compile(
    r"\b(?:is|are|be|as|means?|suggests?|indicates?|shows?|signs?|forms?|says?|reads?|to)\s+(?:an?\s+|the\s+)?$|[是为為]\s?$",
    re.IGNORECASE,
)


def _normal(text: str) -> str:
    """NFKC text with one sort of minus and single spaces; case is kept."""
    return " ".join(_MINUS.sub("-", unicodedata.normalize("NFKC", text)).split())


def _cased(text: str) -> str:
    """Normal text without punctuation and bullets around it; `_`, `-`, `%`, `#` and the like stay."""
    return _BULLET.sub("", bare(_BULLET.sub("", _normal(text))))


def _key(text: str) -> str:
    """What two spellings of a label have in common: `_cased`, casefolded, its separators one space."""
    return bare(_SEPARATORS.sub(" ", _folded(_cased(text))))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text.casefold())


@dataclass(frozen=True)
class Mention:
    """A label in a text: which, and where in the text as it was searched (NFKC, single spaces)."""

    label: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class LabelSet:
    """The labels of a task, in their canonical order.

    Args:
        names: canonical labels; their order is the order of every table and matrix.
        aliases: other spellings per canonical label, for example ``{"awe": ["wonder"]}``.
        descriptions: what a label means, per canonical label; shown to teachers.
        answers: words per canonical label that mean it as an answer and nothing in prose, such as ``{"sadness": ["sad"]}``: a
            sad face in a text concludes no sadness. One that is a name or an alias of another label is left out.

    Raises:
        ValueError: on an empty list, or when labels (or an alias and a label) read the same; every pair is named.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _lookup: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    _letters: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a label set needs at least one label")
        unknown = sorted({*self.aliases, *self.descriptions, *self.answers} - set(self.names))
        if unknown:
            raise ValueError(f"aliases or descriptions for unknown labels {unknown}; the labels are {list(self.names)}")
        lookup: dict[str, set[str]] = {}
        letters: dict[str, str] = {}
        wrong: list[str] = []
        for name in self.names:
            for spelling in (name, *self.aliases.get(name, ())):
                key = _key(spelling)
                if not key:
                    wrong.append(f"label {name!r}: the spelling {spelling!r} is empty after normalisation")
                    continue
                letter = _cased(spelling)
                others = lookup.setdefault(key, set()) - {name}
                if others and not (
                    len(letter) == 1 and letter not in letters and all(len(_cased(o)) == 1 for o in others)
                ):
                    wrong.append(f"{spelling!r} would mean both {min(others)!r} and {name!r}")
                if len(letter) == 1:
                    letters.setdefault(letter, name)
                lookup[key].add(name)
        if wrong:
            raise ValueError("; ".join(wrong) + (CURE if any("would mean" in each for each in wrong) else ""))
        for name, words in self.answers.items():
            for word in words:
                lookup.setdefault(_key(word), {name})
        object.__setattr__(self, "_lookup", {key: frozenset(found) for key, found in lookup.items()})
        object.__setattr__(self, "_letters", letters)

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        aliases: Mapping[str, Iterable[str]] | None = None,
        descriptions: Mapping[str, str] | None = None,
        answers: Mapping[str, Iterable[str]] | None = None,
    ) -> LabelSet:
        """Build a label set from any iterables."""
        words, also = ({name: tuple(given) for name, given in (each or {}).items()} for each in (aliases, answers))
        return cls(tuple(names), words, descriptions or {}, also)

    def normalise(self, text: str) -> str | None:
        """Return the canonical label `text` spells, or None when it spells none of them (or more than one)."""
        if len(text) > _MAX_ANSWER_CHARS:
            return None
        found = self._lookup.get(_key(text), frozenset())
        return self._letters.get(_cased(text)) if len(found) > 1 else next(iter(found), None)

    @functools.cached_property
    def spellings(self) -> list[tuple[str, str]]:
        """Return every spelling that is an answer, with the label it means."""
        also = [(self.aliases, name) for name in self.names] + [(self.answers, name) for name in self.names]
        found = [(name, name) for name in self.names] + [
            (word, name) for words, name in also for word in words.get(name, ())
        ]
        return [(word, name) for word, name in found if self.normalise(word) == name]

    def mentions(self, text: str) -> Iterator[Mention]:
        """Yield every place of `text` that names a label or an alias as whole words, longer spellings before the
        ones within them.

        A word that prose is made of anyway (a letter, a number, "no", "it") names a label only where it is said to: in
        quotes, behind "the letter" or the like, or as what a sentence ends in ("So this is A.").
        """
        text = _SEPARATORS.sub(" ", _MINUS.sub("-", unicodedata.normalize("NFKC", text)))
        low = text.lower() if text.isascii() else "".join(map(_lower, text))
        taken = bytearray(len(low))
        for key, found in self._prose:
            start = low.find(key)
            while start >= 0:
                end = start + len(key)
                name = next(iter(found)) if len(found) == 1 else self._letters.get(text[start:end])
                free = not (taken[start] or taken[end - 1])
                if name and free and _is_word(low, start, end) and _is_meant(text, low, start, end, name):
                    taken[start:end] = b"\1" * len(key)
                    yield Mention(name, low, start, end)
                start = low.find(key, end)

    def mentioned(self, text: str) -> list[str]:
        """Return the labels that `mentions` finds in `text`, in order of first mention."""
        first: dict[str, int] = {}
        for mention in self.mentions(text):
            first[mention.label] = min(mention.start, first.get(mention.label, mention.start))
        return sorted(first, key=lambda name: first[name])

    @functools.cached_property
    def _prose(self) -> list[tuple[str, frozenset[str]]]:
        """The keys of names and aliases, longer ones first, and what each may mean."""
        keys = {_key(word) for name in self.names for word in (name, *self.aliases.get(name, ()))}
        return [(key, self._lookup[key]) for key in sorted(keys, key=lambda key: (-len(key), key))]

    def __len__(self) -> int:
        return len(self.names)


def _lower(character: str) -> str:
    """One character, so that places in the lowered text are places in the text."""
    low = character.casefold()
    return low if len(low) == 1 else character.lower()[:1]


def _is_word(text: str, start: int, end: int) -> bool:
    if text[end - 1].isdigit() and re.match(r"[.,]\d", text[end : end + 2]):
        return False
    if text[start].isdigit() and re.search(r"\d[.,]$|-$", text[max(0, start - 2) : start]):
        return False
    return is_whole_word(text, start, end)


def _is_meant(text: str, low: str, start: int, end: int, name: str) -> bool:
    """Whether a place names the label: any does, but for words that prose is made of anyway."""
    word = low[start:end]
    single = len(word) == 1 and (word.isascii() or not word.isalpha())
    if not (single or word in _FUNCTION_WORDS or re.fullmatch(r"[-+]?[\d.,]+", word)):
        return True
    if single and word.isalpha() and text[start:end] != _cased(name):
        return False
    before = text[max(0, start - 40) : start]
    ends = _ENDS.match(text, end) is not None
    if _QUOTED_BEFORE.search(before):
        return _QUOTED_AFTER.match(text, end) is not None
    return bool(_NAMED_BEFORE.search(before) or (ends and _CONCLUDED_BEFORE.search(before)))
