"""Prompts: one Jinja file per version. A published version is never edited; a new wording is a new file.

A template may use what `pipeline.data.templates` lists. One that uses `label` tells the teacher the answer, which makes its mode
``answer_given``; any other is ``answer_hidden``. One that uses `student_prompt` asks a teacher what a student of this
pipeline is asked, in the same order: the picture, then the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.questions.prompting import wanted
from pipeline.data.task import Task
from pipeline.data.templates import Template, described, read_template, template_names
from pipeline.errors import UserError, did_you_mean
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Question

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Prompt(Template):
    """One version of the instructions to a teacher."""

    @property
    def mode(self) -> str:
        """answer_given or answer_hidden."""
        return "answer_given" if "label" in self.uses else "answer_hidden"

    @property
    def picture_first(self) -> bool:
        """Whether the picture stands before the text."""
        return "student_prompt" in self.uses

    def render(self, task: Task, row: Question, **values: Any) -> str:
        """Return the text a teacher reads about a row, with its image marks.

        Args:
            task: the row's.
            row: whose question is asked.
            **values: the variables that are not the row's own.
        """
        labels = task.labels
        if labels is not None:
            options, form = described(labels.names, labels.descriptions), "one of the options"
        elif row.kind == "label":
            options, form = described(row.options, {}), wanted(row)
        else:
            names = tuple(letters(len(row.options)))
            options, form = described(names, dict(zip(names, row.options, strict=True))), wanted(row)
        asked = f"{row.text} Options: {', '.join(row.options)}." if labels is None and row.kind == "label" else row.text
        known = {"question": task.question or asked, "options": options, "form": form, "images": len(row.images)}
        return self.fill(**known, student_prompt=task.prompt(row, "think"), **values)


FOR_ANY_QUESTION = {
    "answer_hidden_v1": "answer_hidden_v3",
    "answer_hidden_v2": "answer_hidden_v3",
    "answer_given_v1": "answer_given_v3",
    "answer_given_v2": "answer_given_v3",
    "cross_check_v1": "cross_check_v2",
    "observe_v1": "observe_v2",
    "describe_v1": "describe_v2",
    "perceive_v1": "perceive_v2",
}
"""Prompts that speak of the options that all rows share, or of one picture: what is asked where each row has its own question."""


def prompt_names() -> list[str]:
    """Return the prompts there are."""
    return template_names(FOLDER)


def load_prompt(name: str, own: Mapping[str, Template] | None = None) -> Prompt:
    """Load a prompt by name.

    Args:
        name: of a file here.
        own: the user's templates, which go before those here.

    Raises:
        UserError: on an unknown name, or a template that is malformed or uses an unknown variable.
    """
    if name not in prompt_names():
        raise UserError(
            f"cot.prompt: {name!r} is not a file of cot_builder/prompts; {did_you_mean(name, prompt_names())}"
        )
    found = (own or {}).get(name) or read_template(FOLDER / f"{name}.jinja")
    return Prompt(**vars(found))
