"""Prompts: one Jinja file per version. A published version is never edited; a new wording is a new file.

A template may use what `VARIABLES` lists. One that uses `label` tells the teacher the answer, which makes its mode
``answer_given``; any other is ``answer_hidden``. One that uses `student_prompt` asks a teacher what a student of this
pipeline is asked, in the same order: the picture, then the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError, meta

from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.files import file_digest

FOLDER = Path(__file__).parent
VARIABLES = {
    "question": "what is asked about every picture",
    "options": "the labels, each with `name` and `description`",
    "label": "the row's gold label",
    "student_prompt": "what a student of this pipeline is asked, word for word",
    "hints": "annotated attributes of the row, each with `name` and `value`",
    "reasoning": "a reply without its conclusion, for a second teacher to judge",
    "sees_picture": "whether the second teacher sees the picture too",
    "observe": "what to look for in a picture to answer the question",
    "statements": "declarative statements made of question and answer",
}


@dataclass(frozen=True)
class Prompt:
    """One version of the instructions to a teacher."""

    name: str
    source: str
    digest: str
    """sha256 of the file."""
    uses: frozenset[str]
    """Names of its variables."""

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
        options = [{"name": name, "description": task.labels.descriptions.get(name)} for name in task.labels.names]
        known = {"question": task.question, "options": options, "student_prompt": task.prompt("think")}
        return _template(self.source).render(**known, **values).strip()


def prompt_names() -> list[str]:
    """Return the prompts there are."""
    return sorted(path.stem for path in FOLDER.glob("*.jinja"))


def load_prompt(name: str) -> Prompt:
    """Load a prompt by name.

    Raises:
        UserError: on an unknown name, or a template that is malformed or uses an unknown variable.
    """
    if name not in prompt_names():
        raise UserError(
            f"cot.prompt: {name!r} is not a file of cot_builder/prompts; {did_you_mean(name, prompt_names())}"
        )
    path = FOLDER / f"{name}.jinja"
    source = path.read_text()
    try:
        used = meta.find_undeclared_variables(_environment().parse(source))
    except TemplateError as error:
        raise UserError(f"{path}: not readable as Jinja: {error}") from error
    if used - VARIABLES.keys():
        raise UserError(f"{path}: unknown variables {sorted(used - VARIABLES.keys())}; there are {sorted(VARIABLES)}")
    return Prompt(name, source, file_digest(path), frozenset(used))


@cache
def _template(source: str) -> Template:
    return _environment().from_string(source)


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
