"""Judges: from a model's text to an answer and whether it is right. Pure functions, one file per rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import stated_choice, stated_label
from pipeline.scoring.options import Stated
from pipeline.scoring.response import Malformed, parse
from pipeline.types import Judgement, Question


def judged(completion: str, style: str, read: Callable[[str], Judgement]) -> Judgement:
    """Judge a completion: the whole of it in direct style, the <answer> part in think style.

    Args:
        completion: untrusted text.
        style: one of `pipeline.data.questions.prompting.PROMPT_STYLES`. A think completion that breaks the grammar is unparsable,
            with the broken rule as reason; no benchmark's guess replaces it, since the grammar is ours.
        read: the benchmark's rule.
    """
    if style == "direct":
        return read(completion)
    response = parse(completion)
    if isinstance(response, Malformed):
        return Judgement(None, False, response.reason)
    return dataclasses.replace(read(response.answer), think=response.think)


def chosen(question: Question, stated: Stated) -> Judgement:
    """Return a reading of a multiple-choice answer, held against the gold letter; without one it is never right."""
    return Judgement(stated.letter, stated.letter is not None and stated.letter == question.answer, stated.reason)


def judge_choice(question: Question, completion: str, style: str) -> Judgement:
    """Return the judge of benchmarks whose options are read by `stated_choice` alone."""
    return judged(completion, style, lambda text: chosen(question, stated_choice(text, question.options)))


def judge_label(labels: LabelSet, completion: str, gold: str | None, style: str) -> Judgement:
    """Judge one completion against the gold label of a closed set.

    In think style the whole of the <answer> part has to spell the label. In direct style, where no form was asked for, the
    label that the text states is read, as benchmarks' options are ("The answer is awe."); stating several is wrong.
    """

    def read(text: str) -> Judgement:
        found = stated_label(text, labels) if style == "direct" else labels.normalise(text)
        if found is None:
            return Judgement(None, False, "not_a_label" if text.strip() else "empty")
        return Judgement(found, found == gold)

    return judged(completion, style, read)


def even_chance(question: Question) -> float:
    """Return what guessing at random earns: one in the number of options, nothing on an open question."""
    return 1 / len(question.options) if question.options else 0.0


def accuracy(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of right rows in percent, unparsable ones counted as wrong; None of no rows."""
    right = [bool(row["correct"]) for row in rows]
    return 100 * sum(right) / len(right) if right else None


def accuracies(rows: Sequence[Mapping[str, Any]], group: str) -> dict[str, float]:
    """Return accuracy in percent of every value a group has, in the order of their names."""
    split: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        split.setdefault(str(row["groups"].get(group, "")), []).append(row)
    return {name: 100 * sum(bool(row["correct"]) for row in split[name]) / len(split[name]) for name in sorted(split)}
