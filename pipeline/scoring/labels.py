"""The closed list of answers a task accepts, and the one rule that maps text to one of them.

Matching is exact on the whole text after normalisation (case, Unicode form, surrounding punctuation, `_`/`-`/spaces).
Substrings never match: "amusement or awe" is no label, and neither is the empty string.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MAX_ANSWER_CHARS = 200  # A label is a few words; longer text cannot be one and is not worth normalising.


def _key(text: str) -> str:
    """Casefolded NFKC text with inner separators folded to one space and outer punctuation removed."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[\s_\-]+", " ", text)
    return text.strip(" .,;:!?\"'`*()[]{}“”‘’")


@dataclass(frozen=True)
class LabelSet:
    """The labels of a task, in their canonical order.

    Args:
        names: canonical labels; their order is the order of every table and matrix.
        aliases: other spellings per canonical label, for example ``{"awe": ["wonder"]}``.
        descriptions: what a label means, per canonical label; shown to teachers.

    Raises:
        ValueError: on an empty list, or when two labels (or an alias and a label) read the same.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    _lookup: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a label set needs at least one label")
        lookup: dict[str, str] = {}
        unknown = sorted({*self.aliases, *self.descriptions} - set(self.names))
        if unknown:
            raise ValueError(f"aliases or descriptions for unknown labels {unknown}; the labels are {list(self.names)}")
        for name in self.names:
            for spelling in (name, *self.aliases.get(name, ())):
                key = _key(spelling)
                if not key:
                    raise ValueError(f"label {name!r}: the spelling {spelling!r} is empty after normalisation")
                if lookup.setdefault(key, name) != name:
                    raise ValueError(f"{spelling!r} would mean both {lookup[key]!r} and {name!r}")
        object.__setattr__(self, "_lookup", lookup)

    @classmethod
    def of(
        cls, names: Iterable[str], aliases: Mapping[str, Iterable[str]] | None = None, **kwargs: Mapping[str, str]
    ) -> LabelSet:
        """Build a label set from any iterables."""
        return cls(tuple(names), {k: tuple(v) for k, v in (aliases or {}).items()}, **kwargs)

    def normalise(self, text: str) -> str | None:
        """The canonical label `text` spells, or None when it spells none of them (or more than one)."""
        if len(text) > _MAX_ANSWER_CHARS:
            return None
        return self._lookup.get(_key(text))

    def mentioned(self, text: str) -> list[str]:
        """Canonical labels whose name or alias occurs in `text` as whole words, in order of first mention."""
        text = re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFKC", text).casefold())
        found: dict[str, int] = {}
        for key, name in self._lookup.items():
            match = re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text)
            if match:
                found[name] = min(match.start(), found.get(name, match.start()))
        return sorted(found, key=lambda name: found[name])

    def __len__(self) -> int:
        return len(self.names)
