"""One judge per kind of answer: a closed label, a letter among options, a number, yes or no, a short text, a list.

A published benchmark brings its own rule; whatever else asks a question is judged here, in training as in evaluation. All of it
is our reading; where it follows a published one that is said.

label   the whole answer spells a label (`LabelSet`); in direct style the label that the text states.
letter  the option that the text states, by its letter or its text (`stated_choice`); the letter is meant first.
number  the number that the text states (`stated_number`). Equal is what is equal in value: 1,000 and 1000, 1/2 and 0.5, three
        and 3, 50 % and 50 or 0.5. Root, fraction and π also equal their decimals, two of them at least. ``precision`` rounds both
        sides to so many decimals (MathVista), ``tolerance`` is the largest distance that counts as right, and
        ``relative_tolerance`` the same as a share of the gold value (ChartQA: 0.05). With a ``unit``, a length, mass or time in
        another unit of its sort is converted and one of another sort is wrong; without a unit in either, none is looked at.
yes_no  "yes" or "no" as stated, also true and false. "Yes and no" is neither, and nothing is inferred ("there is no dog").
text    equal to the gold answer or one of ``aliases``, case, punctuation, articles and number words aside, as VQA compares
        answers (visualqa.org/evaluation.html). Unlike there, one match is right (VQA wants three of ten annotators), a sign
        before a digit counts, and so does every word: a sentence that holds the answer is not the answer.
list    as many entries as the gold list, each equal to one of it, as numbers or as texts; in its order where the data say
        ``ordered``. Read are a JSON list, brackets, lines, and what commas, semicolons and "and" join; where an "and" or a comma
        may be part of an entry, the reading that is right counts.

Pure, and linear in the length of the text.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.scoring.benchmark_judges import judged
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.markup import answer_part, boxes, plain
from pipeline.scoring.multiple_choice import letters, stated_choice, stated_label
from pipeline.scoring.numbers import Number, numbers, stated_number, written
from pipeline.scoring.short_texts import SEPARATORS, list_entries, literal_list, stated_text, text_words
from pipeline.scoring.units import same_unit, unit_after
from pipeline.types import Judgement, Question

KINDS = ("label", "letter", "number", "yes_no", "text", "list")
OPEN_KINDS = ("number", "yes_no", "text", "list")
"""Those of a question without options or labels."""
FACTS = ("aliases", "ordered", "precision", "relative_tolerance", "tolerance", "unit")
"""What a judge reads of a question's facts."""
MAX_TEXT_WORDS = 20
"""Longer gold answers are prose, which no comparison of texts can judge."""

_YES_NO = LabelSet.of(
    ("yes", "no"),
    answers={
        "yes": ("true", "yep", "yeah", "correct", "是", "对"),
        "no": ("false", "nope", "incorrect", "否", "不是", "不对"),
    },
)
_SURELY_YES_NO = frozenset(("yes", "no", "true", "false"))
"""Of the words for yes and no those that answer no other question."""
_OPENING_YES_NO = re.compile(
    r"\s*(yes|no)(?:\s+(?:it|there|the|this|that|these|those|they|he|she|we|i|because)\b|\s*(?:\(|—|--)|\s+[-–]\s)"
)
"""Before words that begin a sentence, or a mark: "no dog", "no-one" and "yes is wrong" answer no question of yes or no."""
_SHORT_TEXT = 400
_BARE_NUMBERS = re.compile(r"[\s,;/&|]*(?:\b(?:and|or|maybe|perhaps|possibly|either)\b[\s,;/&|]*)*", re.IGNORECASE)
_EXACT_FORM = re.compile(
    r"/|frac|sqrt|\\pi|π|hal(?:f|ves)|thirds?|(?:four|fif|six|seven|eigh|nin|ten)ths?", re.IGNORECASE
)
_DECIMALS = re.compile(r"\.(\d{2,})\D*$")


def judge_kind(question: Question, completion: str, style: str) -> Judgement:
    """Judge a completion by the kind of answer its question asks for.

    Args:
        question: with its `kind`, one of `KINDS`; without a gold answer no completion is right.
        completion: untrusted text.
        style: one of `pipeline.data.task.PROMPT_STYLES`; in think style the <answer> part is read.

    Raises:
        ValueError: on another kind.
    """
    if question.kind not in _JUDGES:
        raise ValueError(f"kind {question.kind!r} is not one of {KINDS}")
    read = _JUDGES[question.kind]

    def judge(text: str) -> Judgement:
        if style == "direct":
            # What a model thought before it answered is no answer.
            part = answer_part(text)
            if part is None:
                return Judgement(None, False, "several_answers" if "</answer>" in text else "no_answer")
            text = part
        return read(question, text, style) if text.strip() else Judgement(None, False, "empty")

    return judged(completion, style, judge)


def chance(question: Question) -> float:
    """Return what guessing at random earns: one in the number of letters or labels, half of yes and no, nothing on the others."""
    if question.kind == "yes_no":
        return 0.5
    return 1 / len(question.options) if question.kind in ("letter", "label") and question.options else 0.0


def infer_kind(options: Sequence[str], answer: Any) -> str:
    """Return the kind of answer that a row asks for, where the data do not say.

    Args:
        options: their texts; with any the answer is a letter.
        answer: the gold answer as the data have it: a truth value, a number, a list, or a text that reads as one of these.
    """
    if options:
        return "letter"
    if isinstance(answer, bool) or (isinstance(answer, str) and answer.strip(" .\n").casefold() in _SURELY_YES_NO):
        return "yes_no"
    if isinstance(answer, list | tuple) or (isinstance(answer, str) and literal_list(answer) is not None):
        return "list"
    if isinstance(answer, int | float) or (isinstance(answer, str) and number_and_unit(answer) is not None):
        return "number"
    return "text"


def gold_answer(kind: str, answer: Any) -> tuple[str, dict[str, Any]]:
    """Return a gold answer as the judge of its kind compares with it, and the facts that it tells itself (its unit).

    Args:
        kind: one of `KINDS`, but for letter, whose gold answer depends on the options.
        answer: as `infer_kind` takes it.

    Raises:
        ValueError: when it is none of that kind, with what it is.
    """
    if kind == "yes_no":
        said = ("yes" if answer else "no") if isinstance(answer, bool) else _YES_NO.normalise(str(answer))
        if said is None:
            raise ValueError(f"{str(answer)[:40]!r} is neither yes nor no")
        return said, {}
    if kind == "number":
        if isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer):
            return written(float(answer)) if isinstance(answer, float) else str(answer), {}
        found = number_and_unit(str(answer))
        if found is None:
            raise ValueError(f"{str(answer)[:40]!r} is no number")
        return found[0], {"unit": found[1]} if found[1] else {}
    if kind == "list":
        entries = answer if isinstance(answer, list | tuple) else list_entries(str(answer))
        if not entries:
            raise ValueError(f"{str(answer)[:40]!r} is no list")
        return json.dumps([str(entry) for entry in entries], ensure_ascii=False), {}
    text = str(answer).strip()
    if not text:
        raise ValueError("it is empty")
    if kind == "text" and len(text.split()) > MAX_TEXT_WORDS:
        raise ValueError(f"{len(text.split())} words; the judge of texts compares {MAX_TEXT_WORDS} at most")
    return text, {}


def number_and_unit(text: str) -> tuple[str, str] | None:
    """Return the number that the whole of a text is, as written, and its unit ("" without one); None of any other text."""
    cleaned = plain(text).strip().rstrip(".")
    found = list(numbers(cleaned))
    if len(found) != 1:
        return None
    before, after = cleaned[: found[0].start].strip(" $€£¥"), cleaned[found[0].end :].strip()
    unit = unit_after(f" {after}")
    if before or (after and after != unit):
        return None
    return cleaned[: found[0].end].strip(), unit or ""


# ---- one judge per kind: (question, text that is not blank, style) -> Judgement


def _label(question: Question, text: str, style: str) -> Judgement:
    aliases = question.facts.get("aliases") or {}
    labels = _label_set(tuple(question.options), tuple((name, tuple(words)) for name, words in aliases.items()))
    found = stated_label(text, labels) if style == "direct" else labels.normalise(text)
    return Judgement(found, found is not None and found == question.answer, None if found else "not_a_label")


@functools.lru_cache(maxsize=64)
def _label_set(names: tuple[str, ...], aliases: tuple[tuple[str, tuple[str, ...]], ...]) -> LabelSet:
    return LabelSet.of(names, dict(aliases))


def _letter(question: Question, text: str, style: str) -> Judgement:
    # A row that came through JSON has a list of options.
    letter, reason = _shown_option(text, tuple(question.options)), None
    if letter is None:
        stated = stated_choice(text, question.options)
        letter, reason = stated.letter, stated.reason
    return Judgement(letter, letter is not None and _same_option(question, letter), reason)


def _shown_option(text: str, options: tuple[str, ...]) -> str | None:
    """The letter of the option that a text is, exactly as a prompt may show it: "B", "(B)", "B. a dog", "a dog"."""
    if len(text) > _SHORT_TEXT + 2 * max(map(len, options), default=0):
        return None
    exact, folded = _shown(options)
    shown = _spaced(text)
    found = folded.get(shown.casefold(), set())
    return exact.get(shown) or (next(iter(found)) if len(found) == 1 else None)


@functools.lru_cache(maxsize=256)
def _shown(options: tuple[str, ...]) -> tuple[Mapping[str, str], Mapping[str, set[str]]]:
    """Each way to show an option with the letter that it means, letters before texts; and the same whatever the case."""
    exact: dict[str, str] = {}
    folded: dict[str, set[str]] = {}
    for shapes in (("{0}", "({0})"), ("{0}. {1}", "({0}) {1}", "{0}) {1}", "{0}: {1}"), ("{1}",)):
        known = set(folded)
        for letter, option in zip(letters(len(options)), options, strict=True):
            for way in (shape.format(letter, option) for shape in shapes):
                # Of options with one text the first's letter stands for all.
                same = exact.setdefault(_spaced(way), letter) if _spaced(way) else letter
                if (key := _spaced(way).casefold()) and key not in known:
                    folded.setdefault(key, set()).add(same)
        for key in set(folded) - known:
            if len(folded[key]) == 1 and len(key) < 4:
                # A letter in either case comes before a text.
                exact.setdefault(key, next(iter(folded[key])))
    return exact, folded


def _spaced(text: str) -> str:
    return " ".join(plain(text).split())


def _same_option(question: Question, letter: str) -> bool:
    """Whether a letter's option is the gold one, or reads the same."""
    known = letters(len(question.options))
    if question.answer is None or question.answer not in known:
        return False
    chosen, gold = (_spaced(question.options[known.index(each)]) for each in (letter, question.answer))
    return letter == question.answer or chosen == gold != ""


def _number(question: Question, text: str, style: str) -> Judgement:
    told = boxes(text)
    if _several_numbers(text) or _several_numbers(", ".join(told)):
        return Judgement(None, False, "several_answers")
    found = stated_number(text)
    if found is None:
        return Judgement(None, False, "no_number")
    unit = unit_after(found.after)
    gold = next(numbers(question.answer), None) if question.answer is not None else None
    right = gold is not None and _equal_numbers(found, gold, unit, question.facts)
    answer = written(found.value) + ("%" if found.percent else f" {unit}" if unit else "")
    return Judgement(answer, right, None)


def _several_numbers(text: str) -> bool:
    """Whether a text is nothing but different numbers: an answer that lists them names none."""
    text = plain(text[:_SHORT_TEXT])
    found = list(numbers(text))
    between = [text[a.end : b.start] for a, b in itertools.pairwise(found)]
    rest = (text[: found[0].start], text[found[-1].end :]) if found else ()
    return (
        len({number.value for number in found}) > 1
        and all(_BARE_NUMBERS.fullmatch(gap) for gap in between)
        and not any(re.search(r"\w", part) for part in rest)
        # 0.5 or 50 % is one value.
        and len({number.percent for number in found}) == 1
    )


def _equal_numbers(found: Number, gold: Number, unit: str, facts: Mapping[str, Any]) -> bool:
    values, golds = found.readings, gold.readings
    if (found.percent and gold.percent) or gold.scale > 1:
        values, golds = (found.value,), (gold.value,)
    factor = same_unit(unit, str(facts.get("unit") or ""))
    if factor is None:
        return False
    values = tuple(value * factor for value in values)
    return any(_close(value, wanted, found, gold, facts) for value in values for wanted in golds)


def _close(value: float, wanted: float, found: Number, gold: Number, facts: Mapping[str, Any]) -> bool:
    if math.isclose(value, wanted, rel_tol=1e-12, abs_tol=1e-12):
        return True
    slack = max(float(facts.get("tolerance") or 0), float(facts.get("relative_tolerance") or 0) * abs(wanted))
    if slack and abs(value - wanted) <= slack * (1 + 1e-9):
        return True
    if facts.get("precision") is not None:
        return round(value, int(facts["precision"])) == round(wanted, int(facts["precision"]))
    return _rounds_to(wanted, gold.text, value, found.text) or _rounds_to(value, found.text, wanted, gold.text)


def _rounds_to(exact: float, form: str, value: float, decimals: str) -> bool:
    """Whether a root, a fraction or a multiple of π is given as its decimals: 1/3 and 0.33."""
    digits = _DECIMALS.search(decimals)
    return bool(digits and _EXACT_FORM.search(form) and round(exact, len(digits[1])) == value)


def _yes_no(question: Question, text: str, style: str) -> Judgement:
    found = stated_label(text, _YES_NO) or _opening_yes_no(text)
    gold = _YES_NO.normalise(question.answer) if question.answer is not None else None
    return Judgement(found, found is not None and found == gold, None if found else "neither_yes_nor_no")


def _opening_yes_no(text: str) -> str | None:
    """The yes or no that opens a sentence without a comma behind it, where the text says nothing of the other."""
    text = plain(text).casefold()
    match = _OPENING_YES_NO.match(text)
    return match[1] if match and len(set(re.findall(r"\b(?:yes|no)\b", text))) == 1 else None


def _text(question: Question, text: str, style: str) -> Judgement:
    accepted = [] if question.answer is None else [question.answer, *map(str, question.facts.get("aliases") or ())]
    wanted = {text_words(answer) for answer in accepted}
    stated = stated_text(text)
    right = bool(wanted) and (text_words(text) in wanted or text_words(stated) in wanted)
    return Judgement(" ".join(stated.split())[:_SHORT_TEXT], right, None)


def _list(question: Question, text: str, style: str) -> Judgement:
    readings = [list_entries(text, separator) for separator in SEPARATORS]
    if not readings[0]:
        return Judgement(None, False, "no_list")
    gold = list_entries(question.answer) if question.answer is not None else []
    order: Callable[[list[str]], list[str]] = list if question.facts.get("ordered") else sorted
    wanted = order([_entry_key(entry) for entry in gold])
    right = [entries for entries in readings if wanted and order([_entry_key(entry) for entry in entries]) == wanted]
    return Judgement(json.dumps((right or readings)[0], ensure_ascii=False), bool(right), None)


def _entry_key(entry: str) -> str:
    """An entry as it is compared: a number by its value, any other text by its words."""
    found = number_and_unit(entry)
    value = next(numbers(found[0]), None) if found else None
    return (
        f"{written(value.value)}{'%' if value.percent else ''} {found[1]}".strip()
        if found and value
        else text_words(entry)
    )


_JUDGES: Mapping[str, Callable[[Question, str, str], Judgement]] = {
    "label": _label,
    "letter": _letter,
    "number": _number,
    "yes_no": _yes_no,
    "text": _text,
    "list": _list,
}
