"""Texts for models that a user may replace: Jinja files under the names of the pipeline's own, checked before anything is asked.

The builder reads those of ``cot_builder/prompts``, the two-step modes of an evaluation three of them (`IN_TWO_STEPS`). A folder
of one's own (``cot.prompts``, ``prompts`` of a lab) holds those that are to be other words; the rest stay the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError, meta
from jinja2 import Template as Compiled

from pipeline.config.loader import CONFIGS
from pipeline.errors import UserError, did_you_mean
from pipeline.files import file_digest

SHIPPED = CONFIGS.parent / "cot_builder" / "prompts"
VARIABLES = {
    "question": "what is asked about the row's pictures",
    "options": "the possible answers, each with `name` and `description`",
    "label": "the row's gold answer",
    "student_prompt": "what a student of this pipeline is asked, word for word",
    "hints": "annotated attributes of the row, each with `name` and `value`",
    "reasoning": "a reply without its conclusion, for a second teacher to judge",
    "sees_picture": "whether the second teacher sees the picture too",
    "observe": "what to look for in a picture to answer the question",
    "statements": "declarative statements made of question and answer",
    "images": "how many pictures the row has",
    "description": "what someone wrote who saw the pictures",
    "form": "what the answer is to be: the letter of the right option, …",
    "steps": "whether the reasoner is to think step by step, or to answer at once",
}
"""Every variable that a template may use."""
RULES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    role: (frozenset(needed.split()), frozenset(allowed.split()))
    for role, needed, allowed in (
        ("answer_hidden", "question", "options form hints student_prompt images"),
        ("answer_given", "question label", "options form hints student_prompt images"),
        ("cross_check", "question reasoning", "options form sees_picture images"),
        ("observe", "question", "options images"),
        ("statements", "question label", "options hints images"),
        ("describe", "statements", "observe question options images"),
        ("perceive", "observe", "images"),
        ("task_think", "student_prompt", ""),
        ("reason", "question description", "options form steps images"),
    )
}
"""Template without its version: the variables that it must use, and those that it may."""
IN_TWO_STEPS = ("observe_v1", "perceive_v1", "reason_v1")
"""What the two-step modes of an evaluation ask; the last is theirs alone."""


@dataclass(frozen=True)
class Template:
    """One file of words for a model."""

    name: str
    source: str
    digest: str
    """sha256 of the file."""
    uses: frozenset[str]
    """Names of its variables."""
    own: bool = False
    """Whether it is a user's, in the place of the pipeline's."""

    @property
    def version(self) -> str:
        """Its name, which for the pipeline's own says which words they are; a user's words are told by their digest too."""
        return f"{self.name}@{self.digest[:8]}" if self.own else self.name

    def fill(self, **values: Any) -> str:
        """Return the text, with `values` for its variables; more of them do no harm."""
        return _compiled(self.source).render(**values).strip()


def template_names(folder: Path = SHIPPED) -> list[str]:
    """Return the names of the templates in a folder."""
    return sorted(path.stem for path in folder.glob("*.jinja"))


def read_template(path: Path, own: bool = False) -> Template:
    """Read one template.

    Raises:
        UserError: naming everything that is wrong with it: it is not Jinja, or uses other variables than its rule allows.
    """
    try:
        source = path.read_text(encoding="utf-8")
        used = frozenset(meta.find_undeclared_variables(_environment().parse(source)))
    except (TemplateError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as Jinja: {error}") from error
    needed, allowed = RULES.get(path.stem.rpartition("_v")[0], (frozenset(), frozenset(VARIABLES)))
    problems = []
    if unknown := sorted(used - VARIABLES.keys()):
        problems.append(f"{path}: unknown variables {unknown}; there are {sorted(VARIABLES)}")
    if idle := sorted((used & VARIABLES.keys()) - needed - allowed):
        may = sorted(needed | allowed)
        problems.append(f"{path}: {', '.join(idle)} cannot be used in {path.stem}; it may use {', '.join(may)}")
    if missing := sorted(needed - used):
        told = ", ".join(f"{{{{ {name} }}}} ({VARIABLES[name]})" for name in missing)
        problems.append(f"{path}: never uses {told}, without which {path.stem} asks nothing of the row")
    if problems:
        raise UserError(problems)
    return Template(path.stem, source, file_digest(path), used, own)


def own_templates(key: str, folder: str | None) -> dict[str, Template]:
    """Return the templates of a user's folder by name; {} without a folder.

    Args:
        key: of the configuration, for the messages.
        folder: as it stands there.

    Raises:
        UserError: naming everything that is wrong with all of them.
    """
    if folder is None:
        return {}
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(
            f"{key}: {folder!r} is no folder; name one that holds templates of yours, such as perceive_v1.jinja"
        )
    known = sorted({*template_names(), *IN_TWO_STEPS})
    found: dict[str, Template] = {}
    problems = []
    for path in sorted(root.glob("*.jinja")):
        if path.stem not in known:
            problems.append(f"{key}: {path} is not the name of a template; {did_you_mean(path.stem, known)}")
            continue
        try:
            found[path.stem] = read_template(path, own=True)
        except UserError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
    if not found and not problems:
        problems.append(f"{key}: {folder!r} holds no .jinja file; the names are {', '.join(known)}")
    if problems:
        raise UserError(problems)
    return found


def own_digests(folder: str | None) -> dict[str, str]:
    """Return {name: sha256} of a user's templates, however they are; {} without a folder."""
    files = sorted(Path(folder).expanduser().glob("*.jinja")) if folder is not None else []
    return {path.stem: file_digest(path) for path in files}


def template_problems(key: str, folder: str | None) -> Iterator[str]:
    """Yield what is wrong with a user's templates."""
    try:
        own_templates(key, folder)
    except UserError as error:
        yield from error.problems


def described(options: tuple[str, ...], meanings: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Return options as templates read them: each with `name` and `description`."""
    return [{"name": name, "description": meanings.get(name)} for name in options]


@cache
def _compiled(source: str) -> Compiled:
    return _environment().from_string(source)


def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
