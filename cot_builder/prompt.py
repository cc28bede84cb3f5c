"""Prompts: one Jinja file per version. A published version is never edited; a new wording is a new file.

A template may use `question`, `options` (each with `name` and `description`), `label` and `student_prompt`. One that uses
`label` tells the teacher the answer, which makes its mode ``answer_given``; any other is ``answer_hidden``. One that uses
`student_prompt` asks a teacher what a student of this pipeline is asked, in the same order: the picture, then the text.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined, TemplateError, meta

from pipeline.errors import UserError
from pipeline.run import file_digest
from pipeline.tasks import Task

_FOLDER = Path(__file__).parent / "prompts"
_VARIABLES = {"question", "options", "label", "student_prompt"}


@dataclass(frozen=True)
class Prompt:
    """One version of the instructions to a teacher."""

    name: str
    source: str
    digest: str
    mode: str
    picture_first: bool = False

    def render(self, task: Task, label: str) -> str:
        """The text a teacher reads beside the picture. `label` reaches it only in mode answer_given."""
        options = [{"name": name, "description": task.labels.descriptions.get(name)} for name in task.labels.names]
        given = {"label": label} if self.mode == "answer_given" else {}
        known = {"question": task.question, "options": options, "student_prompt": task.prompt("think"), **given}
        return _environment().from_string(self.source).render(**known).strip()


def prompt_names() -> list[str]:
    """The prompts there are."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def load_prompt(name: str) -> Prompt:
    """Load a prompt by name.

    Raises:
        UserError: on an unknown name, or a template that is malformed or uses an unknown variable.
    """
    if name not in prompt_names():
        near = difflib.get_close_matches(name, prompt_names(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(prompt_names())
        raise UserError(f"cot.prompt: {name!r} is not a file of cot_builder/prompts{hint} There are: {known}")
    path = _FOLDER / f"{name}.jinja"
    source = path.read_text()
    try:
        used = meta.find_undeclared_variables(_environment().parse(source))
    except TemplateError as error:
        raise UserError(f"{path}: not readable as Jinja: {error}") from error
    if used - _VARIABLES:
        raise UserError(f"{path}: unknown variables {sorted(used - _VARIABLES)}; there are {sorted(_VARIABLES)}")
    mode = "answer_given" if "label" in used else "answer_hidden"
    return Prompt(name, source, file_digest(path), mode, picture_first="student_prompt" in used)


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
