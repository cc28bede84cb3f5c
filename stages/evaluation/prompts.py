"""What the two-step modes say, after Extract+Think (arXiv 2511.17487), in words of our own.

Its own prompts, and what to observe for each question of MMStar, lie in the repository markendo/downscaling_intelligence (MIT):
``lmms_eval_custom_files/``. The instruction that asked for the contents to observe is not among them.

What to observe and the description are asked for in the words of the builder's `extraction` recipe (cot_builder/prompts), so
that a model tuned on its rows is asked what it was trained on; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.questions.image_marks import without_marks
from pipeline.data.task import Task
from pipeline.data.templates import IN_TWO_STEPS, Template, described
from pipeline.scoring.response import Response, parse
from pipeline.types import Question

VERSION = "1"
"""Part of what a cell depends on; raise it with every change of a prompt."""
TEMPERATURE, TOP_P = 0.6, 0.95
"""The reasoner's sampling, as the paper has it."""
OBSERVE_TOKENS = 128
ANSWER_TOKENS = 32
"""Tokens of an answer alone: labels, letters and numbers are a few; also what a forced answer may have."""

_PERCEIVE = "Describe {what} in fine detail: {its} scenes, objects, people, relationships, locations and any text"


@dataclass(frozen=True)
class TextQuestion:
    """A question as one reads it who sees no picture."""

    text: str
    options: tuple[str, ...]
    form: str
    """What the answer is to be."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What an option stands for, where its name does not say enough."""


NAMES = IN_TWO_STEPS
"""Templates of a user's own that are read here."""
Own = Mapping[str, Template]
_NONE: Own = {}


def bare(question: Question) -> str:
    """Return a question's text without the marks of its pictures."""
    return without_marks(question.text).strip()


def asked(benchmark: Task, question: Question) -> TextQuestion:
    """Return a question in words alone, with its possible answers; those of a labelled image set stand in its prompt only."""
    text = bare(question)
    if (labels := benchmark.labels) is not None:
        return TextQuestion(text, labels.names, "one of the options, word for word", labels.descriptions)
    return TextQuestion(
        text, question.options, "the letter of the right option" if question.options else "the answer alone"
    )


def observe(question: TextQuestion, own: Own = _NONE) -> str:
    """Ask a reader of text what a picture must be looked at for."""
    if (template := own.get("observe_v1")) is not None:
        return template.fill(question=question.text, options=_described(question), images=1)
    lines = [
        "You will not see any picture. Here is a question that will be asked about many pictures:",
        f"\n{question.text}",
    ]
    if question.options:
        meanings = {option: f": {meaning}" for option, meaning in question.meanings.items()}
        lines += ["Possible answers:", *(f"- {option}{meanings.get(option, '')}" for option in question.options)]
    lines.append(
        "\nWhat should someone look for in a picture to be able to answer it? Name the kinds of visible things, separated by "
        "commas, in one line of at most forty words. Do not answer the question, and do not name any of the possible answers."
    )
    return "\n".join(lines)


def perceive(images: int, contents: str = "", own: Own = _NONE) -> str:
    """Ask for a description: a general one, or one that holds `contents` above all."""
    if (template := own.get("perceive_v1")) is not None:
        return template.fill(observe=contents, images=images)
    prompt = (
        _PERCEIVE.format(what="these pictures", its="their")
        if images > 1
        else _PERCEIVE.format(what="this picture", its="its")
    )
    return f"{prompt}, and especially {contents}." if contents else f"{prompt}."


def reason(
    question: TextQuestion, description: str | None, steps: bool = True, own: Own = _NONE, images: int = 1
) -> str:
    """Ask a reader of text to answer from a description, step by step or at once; None for a question without a picture."""
    if (template := own.get("reason_v1")) is not None:
        told = {"description": description or "", "form": question.form, "steps": steps, "images": images}
        return template.fill(question=question.text, options=_described(question), **told)
    lines = (
        []
        if description is None
        else ["You do not see the picture. This is what someone saw in it:", f"\n{description}\n"]
    )
    lines.append(f"Question: {question.text}")
    if question.options and question.form.startswith("one"):
        lines.append(f"Options: {', '.join(question.options)}.")
    how = "Think step by step. End with one line" if steps else "Do not explain. Reply with one line"
    lines.append(f"\n{how} that reads: Answer: {question.form}")
    return "\n".join(lines)


def _described(question: TextQuestion) -> list[dict[str, str | None]]:
    return described(question.options, question.meanings)


_ANSWER = re.compile(r"\banswer\s*(?:\*\*\s*)?:", re.IGNORECASE)
_CONCLUDED = (
    r"(?<!\bnot )(?<!n['’]t )(?<!\bnot the )(?<!n['’]t the )\b(?:so|thus|hence|therefore|final|correct)\b[^\w\n]*"
)
_MEANT = re.compile(
    rf"(?:^(?:[^\w\n]|_)*|{_CONCLUDED})(?:(?:{_CONCLUDED}|\b(?:the|my)\b[^\w\n]*)){{0,5}}{_ANSWER.pattern}",
    re.IGNORECASE | re.MULTILINE,
)
"""One that opens a line, or concludes: "so the correct answer:", but not "not the correct answer:"."""


def closing(thought: str) -> str:
    """Return what is put behind a thought that did not end within its budget, so that an answer must follow (our reading)."""
    end = "\n</think>" if _open(thought) else ""
    return f"{thought.rstrip()}{end}\n\nAnswer:"


def final_answer(text: str) -> tuple[str, str | None]:
    """Return (the thought, the answer): what stands behind the last ``Answer:``, on its line or else the next that is not blank;
    None where there is none.

    One that opens a line or concludes is meant before another ("I gave the answer: see above"). A reasoner trained here may
    answer in the pipeline's own grammar instead, which is read too.
    """
    before, closed, after = text.rpartition("</think>")
    found = list(_MEANT.finditer(after)) or list(_ANSWER.finditer(after))
    if not found or _open(text):
        response = parse(text)
        return (response.think, response.answer) if isinstance(response, Response) else (text.strip(), None)
    lines = (line.strip().strip("*_`").strip() for line in after[found[-1].end() :].splitlines())
    thought = before + closed + after[: found[-1].start()]
    return thought.strip().strip("*").strip(), next(filter(None, lines), None)


def is_unanswered(text: str, steps: bool) -> bool:
    """Check whether a text that was cut off gives no answer: of one without steps, only a thought that is still open."""
    return final_answer(text)[1] is None and (steps or _open(text))


def _open(text: str) -> bool:
    """Whether a text ends inside of its thinking."""
    return text.rfind("<think>") > text.rfind("</think>")
