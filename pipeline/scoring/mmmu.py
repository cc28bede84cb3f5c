"""The published rules of MMMU and MMMU-Pro.

MMMU: eval/eval_utils.py, MMMU-Pro: mmmu-pro/evaluate.py, both of github.com/MMMU-Benchmark/MMMU (Apache-2.0). They look for
option letters written as "(B)", as " B " and, in MMMU-Pro, after the last "Answer:" or as "B."; then, in longer texts, for the
options' texts; of several finds the last one counts. What they find nothing in gets a letter at random.

The rules misread much: " A " in "J. A dramatic increase" counts as A. Figures are only comparable with published ones under
the same rule, so it comes first; `read_choice` asks `stated_choice` where the rule would only guess, and the other way
round on request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.files import hash_to_number
from pipeline.scoring.multiple_choice import letters, stated_choice
from pipeline.scoring.numbers import stated_number
from pipeline.scoring.options import Stated

RULES = ("published", "stated")
"""`published`: as above. `stated`: what the text plainly states first, the published rule where it states nothing."""
GUESS_SEED = 42
"""The published scripts' seed; ours is drawn per row, so that a subset, another order or a resumed run guesses the same."""

_EDGE = (",", ".", "!", "?", ";", ":", "'")
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def published_choice(text: str, options: Sequence[str], pro: bool) -> str | None:
    """Return the letter the published rule finds; None where it draws one at random.

    Args:
        text: the completion.
        options: their texts in order.
        pro: MMMU-Pro's rule rather than MMMU's.
    """
    known = letters(len(options))
    if pro and "Answer:" in text:
        tail = text[text.rfind("Answer:") + len("Answer:") :]
        named = [letter for letter in known if letter in tail]
        if len(named) == 1:
            return named[0]
    for mark in _EDGE:
        text = text.strip(mark)
    text = f" {text} "
    shapes = ("({})", "{} ", "{}.") if pro else ("({})", " {} ")
    for shape in shapes:
        found = [letter for letter in known if shape.format(letter) in text]
        if found:
            # The published code ranks all but "(B)" by the last " B ", also what it found as "B.".
            last = "({})" if shape == "({})" else " {} "
            return max(found, key=lambda letter: (text.rfind(last.format(letter)), -known.index(letter)))
    if len(text.split()) > 5:
        low = text.lower()
        places = {letter: low.rfind(option.lower()) for letter, option in zip(known, options, strict=True)}
        found = [letter for letter, place in places.items() if place >= 0]
        if found:
            return max(found, key=lambda letter: (places[letter], -known.index(letter)))
    return None


def guess(options: Sequence[str], row_id: str) -> str:
    """Return the random option of a row: the same for the same id, wherever and whenever it is drawn."""
    return letters(len(options))[hash_to_number(f"guess/{GUESS_SEED}/{row_id}") % len(options)]


def read_choice(text: str, options: Sequence[str], pro: bool, rule: str = "published") -> Stated:
    """Return the option of a completion under one of `RULES`; a reason where neither way finds one."""
    stated = stated_choice(text, options) if rule == "stated" else None
    if stated is not None and stated.letter:
        return stated
    published = published_choice(text, options, pro)
    if published is not None:
        return Stated(published)
    return stated or stated_choice(text, options)


def open_candidates(text: str) -> list[str | float]:
    """Return what the published rule holds for the answer of an open question: tails of key sentences, and the
    numbers in them.
    """
    text = text.strip().strip(".").lower()
    # The published pattern splits at ". " before a capital letter, which a lower-cased text has none of.
    parts = text.split("\n")
    tails: list[str] = []
    for number, part in enumerate(parts):
        keys = (*_KEYS, "=") if number == len(parts) - 1 else _KEYS
        found = [part.split(key)[-1].strip() for key in keys if key in part]
        # The published loop replaces an empty tail by whatever the next key gives.
        shortest = ""
        for tail in found:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in (*_EDGE, ":"):
            tails.append(shortest)
    tails = tails or [text]
    candidates = [*tails, *(number for tail in tails for pattern in _NUMBERS for number in pattern.findall(tail))]
    return list(dict.fromkeys(value for candidate in candidates for value in _normalised(candidate)))


def open_right(candidates: Sequence[str | float], answers: Sequence[str]) -> bool:
    """Check whether a candidate is one of the answers: numbers to two decimals, words as part of a candidate."""
    golds = [gold for answer in answers for gold in _normalised(answer)]
    for candidate in candidates:
        if isinstance(candidate, float):
            if candidate in golds:
                return True
        elif any(isinstance(gold, str) and gold in candidate for gold in golds):
            return True
    return False


def open_number_right(text: str, answers: Sequence[str]) -> bool:
    """Check whether the number a text states is one of the answers, to two decimals: ``\\boxed{\\frac{1}{2}}`` is
    0.5 (our reading)."""
    found = stated_number(text)
    golds = [gold for answer in answers for gold in _normalised(answer) if isinstance(gold, float)]
    return found is not None and any(round(value, 2) in golds for value in found.readings)


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
