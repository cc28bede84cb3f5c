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

from pipeline.data.task import Task
from pipeline.data.templates import Template, described, read_template, template_names
from pipeline.errors import UserError, did_you_mean

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

    def render(self, task: Task, **values: Any) -> str:
        """Return the text a teacher reads; `values` are the variables that are not the task's own."""
        labels, asked = task.closed_labels, task.stand_ins("")[0]
        options = described(labels.names, labels.descriptions)
        known = {
            "question": task.question,
            "options": options,
            "student_prompt": task.prompt(asked, "think"),
            "images": 1,
        }
        return self.fill(**known, **values)


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
