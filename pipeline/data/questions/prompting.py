"""How questions are put: lettered options, and what the model is told to answer with, by a benchmark or by a kind of answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.scoring.labels import LabelSet
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

PROMPT_STYLES = ("think", "direct")
"""`think` asks for ``<think>…</think><answer>…</answer>``; `direct` asks for the bare answer."""
DIRECT_LETTER = "Answer with the option's letter from the given choices directly."
"""The wording of MMMU, CV-Bench and lmms-eval."""
A_LETTER = "the letter of your choice"
"""What the think style wants inside <answer> </answer>."""


def lettered(options: Sequence[str], shape: str = "({}) {}") -> str:
    """Return the options, one on a line."""
    return "\n".join(
        shape.format(letter, option) for letter, option in zip(letters(len(options)), options, strict=True)
    )


def instructed(text: str, style: str, direct: str, answer: str = A_LETTER, joint: str = "\n") -> str:
    """Return a question with the instruction of a style: `direct` is the benchmark's own, `answer` names what think answers with.

    Raises:
        ValueError: on another style than `PROMPT_STYLES`.
    """
    if style == "direct":
        return f"{text}{joint}{direct}"
    if style == "think":
        return f"{text}{joint}Reason inside <think> </think>, then give {answer} inside <answer> </answer>."
    raise ValueError(f"prompt style {style!r} is not one of {PROMPT_STYLES}")


def asked_for_letter(question: Question, style: str) -> str:
    """Return a question whose text lists its options, with the instruction to answer with the letter of one.

    Raises:
        ValueError: see `instructed`.
    """
    return instructed(question.text, style, DIRECT_LETTER)


def asked_by_kind(question: Question, style: str) -> str:
    """Return a question of one of `pipeline.scoring.kinds.KINDS`, with the instruction to answer with that kind.

    The wordings are ours. A number is asked for in its unit and to its decimals where the question's facts tell them.

    Raises:
        ValueError: see `instructed`.
    """
    if question.kind == "letter":
        return asked_for_letter(question, style)
    if question.kind == "label":
        text = f"{question.text} Options: {', '.join(question.options)}."
        return instructed(text, style, "Answer with one of them and nothing else.", "one of them", joint=" ")
    what = wanted(question)
    return instructed(question.text, style, f"Answer with {what} and nothing else.", what)


def wanted(question: Question) -> str:
    """Return what a question wants for an answer, in words: the letter of your choice, the number in cm, yes or no, …"""
    if question.kind == "label":
        return "one of the options"
    if question.kind not in _WANTED:
        return A_LETTER if question.options else "the answer"
    what, detail = _WANTED[question.kind], ""
    if question.kind == "number":
        unit, precision = question.facts.get("unit"), question.facts.get("precision")
        detail = f" in {unit}" if unit else ""
        if precision is not None:
            detail += (
                f" with {precision} decimal{'' if precision == 1 else 's'}" if int(precision) else ", a whole one,"
            )
    elif question.kind == "list" and question.facts.get("ordered"):
        detail = " in order"
    return f"{what}{detail}"


_WANTED = {
    "number": "the number",
    "yes_no": "yes or no",
    "text": "a word or a short phrase",
    "list": "the entries of the list, separated by commas,",
}


def asked_for_label(labels: LabelSet, question: Question, style: str) -> str:
    """Return the question of a labelled image set with all its labels, and the instruction to answer with one of them.

    Raises:
        ValueError: see `instructed`.
    """
    return asked_by_kind(dataclasses.replace(question, kind="label", options=labels.names), style)
