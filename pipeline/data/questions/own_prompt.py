"""A user's own words around a question: a Jinja template in `task.prompt`, for training and for running a published prompt.

    task:
      prompt: "{{ question }}\\n{{ options }}\\nGive the letter of the right option."

It stands in the place of the task's own prompt, in every style; how an answer is judged stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError, meta
from jinja2 import Template as Compiled

from pipeline.data.questions.prompting import lettered
from pipeline.errors import UserError, did_you_mean
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

VARIABLES = {
    "question": "the row's text as the task has it; without its list of options where the template has `options`",
    "options": "the options, one on a line as (A) …, or the labels in one line; each has `letter` and `text`, for other forms",
    "instruction": "what the task tells the model to answer with, in the style that is asked for",
    "style": "think or direct",
}
"""What a template may use. It must use the question."""
_SHAPES = ("({}) {}", "{}. {}", "({}). {}", "{}) {}", "{}: {}")
"""How benchmarks list their options, one on a line."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option as a template reads it; a label has no letter."""

    letter: str
    text: str


class _Options(list[Option]):
    """Options that a template may print as they are."""

    def __str__(self) -> str:
        texts = [option.text for option in self]
        return lettered(texts) if any(option.letter for option in self) else ", ".join(texts)


def prompt_problems(template: str) -> Iterator[str]:
    """Yield what is wrong with a template."""
    try:
        used = meta.find_undeclared_variables(_environment().parse(template))
    except TemplateError as error:
        yield f"task.prompt: not readable as Jinja: {error}"
        return
    for name in sorted(used - VARIABLES.keys()):
        yield f"task.prompt: {{{{ {name} }}}} is nothing a prompt may use; {did_you_mean(name, VARIABLES)}"
    if "question" not in used:
        yield f"task.prompt: {template[:80]!r} never uses {{{{ question }}}}, so that it asks nothing of a row"


def fill_prompt(
    template: str, question: Question, style: str, own: Callable[[Question, str], str], labels: Sequence[str] = ()
) -> str:
    """Return one row's prompt.

    Args:
        template: without problems.
        question: the row.
        style: one of `pipeline.data.questions.prompting.PROMPT_STYLES`.
        own: the task's prompt, whose end behind the question is the instruction.
        labels: what a question without options of its own is answered with.

    Raises:
        UserError: when the template lists the options and the row's text has them elsewhere than at its end.
    """
    values: dict[str, Any] = {"question": question.text, "style": style}
    values["instruction"] = own(question, style).strip().removeprefix(question.text.strip()).strip()
    if "options" in meta.find_undeclared_variables(_environment().parse(template)):
        values["question"] = _without_options(question)
        lettered_options = map(Option, letters(len(question.options)), question.options)
        values["options"] = _Options(lettered_options if question.options else (Option("", name) for name in labels))
    return _compiled(template).render(**values).strip()


def _without_options(question: Question) -> str:
    if not question.options:
        return question.text
    text = question.text.rstrip()
    for shape in _SHAPES:
        if text.endswith(listed := lettered(question.options, shape)):
            return text.removesuffix(listed).rstrip()
    if not any(option and option in text for option in question.options):
        return text
    raise UserError(
        f"task.prompt: the text of row {question.id} does not end with a list of its options, so {{{{ options }}}} would "
        "give them twice; leave it out, and {{ question }} brings them"
    )


@cache
def _compiled(template: str) -> Compiled:
    return _environment().from_string(template)


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, autoescape=False)
