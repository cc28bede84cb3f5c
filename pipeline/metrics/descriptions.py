"""What a description names rightly and wrongly, measured against the picture's annotation. Pure functions, no files.

An attribute's values are read as words: a text or a list of texts as they are, brightness and colorfulness as dark or bright and
muted or vivid where they are clearly so. A value counts as named when it stands in the text as whole words and its sentence does
not take it back ("there is no lamp"). Naming a value that only other pictures of the set have is wrong; where annotations are
not complete, as EmoSet's objects are not, that means no more than "not annotated".
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.scores import Rate

LEVELS = {"brightness": (0.3, 0.7, "dark", "bright"), "colorfulness": (0.2, 0.6, "muted", "vivid")}
"""Number: (dark up to here, bright from here, and the two words), as the builder's offline teacher speaks of them."""
# EmoSet's key and label.
_NOT_SEEN = {"image_id", "emotion"}
_TAKEN_BACK = re.compile(r"\b(?:not|no|never|without|neither|nor|hardly|instead of|rather than)\b|n't\b")
_SENTENCES = re.compile(r"[.!?;]+\s|\n+")

Vocabulary = Mapping[str, frozenset[str]]
"""Attribute: every value that pictures of the set have."""


def vocabulary(annotations: Iterable[Mapping[str, Any]]) -> Vocabulary:
    """Return the values each attribute has among some pictures."""
    found: dict[str, set[str]] = {}
    for attributes in annotations:
        for name in attributes:
            if values := words(name, attributes[name]):
                found.setdefault(name, set()).update(values)
    return {name: frozenset(values) for name, values in found.items()}


def words(name: str, value: Any) -> set[str]:
    """Return an annotated value as the words a description would use; empty where it says nothing clear."""
    if name in _NOT_SEEN or isinstance(value, bool):
        return set()
    if name in LEVELS:
        low, high, below, above = LEVELS[name]
        if not isinstance(value, int | float) or low < value < high:
            return set()
        return {below if value <= low else above}
    values = value if isinstance(value, list | tuple) else [value]
    return {folded for one in values if isinstance(one, str) and (folded := _fold(one))}


def named(text: str, attributes: Mapping[str, Any], known: Vocabulary) -> dict[str, dict[str, list[str]]]:
    """Return per clearly annotated attribute: the values a text names ``right`` and ``wrong``, and the ``missed`` ones."""
    sentences = [_fold(sentence) for sentence in _SENTENCES.split(text)]
    found = {}
    for name in sorted(known):
        gold = words(name, attributes.get(name))
        if gold:
            said = {value for value in known[name] if any(_says(sentence, value) for sentence in sentences)}
            found[name] = {"right": sorted(said & gold), "wrong": sorted(said - gold), "missed": sorted(gold - said)}
    return found


def totals(rows: Iterable[tuple[str, Mapping[str, Mapping[str, list[str]]]]]) -> dict[str, dict[str, Rate]]:
    """Return precision and recall per attribute over many descriptions, as rates with intervals.

    Precision is over the values named, recall over those annotated.

    Args:
        rows: the picture, whose values are one cluster, and what `named` found in a description of it.
    """
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for picture, row in rows:
        for name, kinds in row.items():
            found[name] += [(kind, picture) for kind, values in kinds.items() for _ in values]
    return {
        name: {"precision": _share(values, "wrong"), "recall": _share(values, "missed")}
        for name, values in sorted(found.items())
    }


def _share(values: Iterable[tuple[str, str]], other: str) -> Rate:
    """The share of ``right`` ones among them and the `other` ones."""
    counted = [(kind == "right", picture) for kind, picture in values if kind in ("right", other)]
    return clustered_rate([right for right, _ in counted], [picture for _, picture in counted])


def _says(sentence: str, value: str) -> bool:
    match = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", sentence)
    return match is not None and not _TAKEN_BACK.search(sentence[: match.start()])


def _fold(text: str) -> str:
    return re.sub(r"[\s_/\-]+", " ", unicodedata.normalize("NFKC", text).casefold().replace("’", "'")).strip()
