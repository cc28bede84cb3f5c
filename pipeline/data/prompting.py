"""How benchmarks put their questions: lettered options, and what the model is told to answer with."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.task import PROMPT_STYLES
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

DIRECT_LETTER = "Answer with the option's letter from the given choices directly."
"""The wording of MMMU, CV-Bench and lmms-eval."""
A_LETTER = "the letter of your choice"
"""What the think style wants inside <answer> </answer>."""


def lettered(options: Sequence[str], shape: str = "({}) {}") -> str:
    """Return the options, one on a line."""
    return "\n".join(
        shape.format(letter, option) for letter, option in zip(letters(len(options)), options, strict=True)
    )


def instructed(text: str, style: str, direct: str, answer: str = A_LETTER) -> str:
    """Return a question with the instruction of a style: `direct` is the benchmark's own, `answer` names what think answers with.

    Raises:
        ValueError: on another style than `PROMPT_STYLES`.
    """
    if style == "direct":
        return f"{text}\n{direct}"
    if style == "think":
        return f"{text}\nReason inside <think> </think>, then give {answer} inside <answer> </answer>."
    raise ValueError(f"prompt style {style!r} is not one of {PROMPT_STYLES}")


def asked_for_letter(question: Question, style: str) -> str:
    """Return a question whose text lists its options, with the instruction to answer with the letter of one.

    Raises:
        ValueError: see `instructed`.
    """
    return instructed(question.text, style, DIRECT_LETTER)
