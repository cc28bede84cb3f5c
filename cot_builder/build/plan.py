"""A build, resolved and checked: rows, teachers, prompts, and which row is asked of whom."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cot_builder.prompts import FOR_ANY_QUESTION, Prompt, load_prompt
from cot_builder.recipes import Recipe, load_recipe
from cot_builder.row import Policy
from cot_builder.teachers.attribute import describe
from cot_builder.teachers.config import (
    ATTRIBUTES,
    DESCRIPTION,
    AttributeConfig,
    ListerConfig,
    OpenAIConfig,
    TeacherConfig,
    WalkerConfig,
    check_teacher,
    load_teacher,
    short_name,
    teacher_files,
)
from pipeline.checks.cot import cot_problems
from pipeline.checks.splits import cot_row_problems
from pipeline.config.loader import to_plain
from pipeline.config.schema import CotConfig, RunConfig
from pipeline.config.special_tokens import special_tokens_of
from pipeline.data.contents import Contents, read_contents
from pipeline.data.load import load_task
from pipeline.data.questions.image_marks import without_marks
from pipeline.data.student import student_folder, task_text_problems
from pipeline.data.task import OPEN, Task
from pipeline.data.templates import Template, own_digests, own_templates
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from pipeline.runs.phases import TRANSPORT
from pipeline.scoring.kinds import KINDS
from pipeline.types import Question, Split


@dataclass(frozen=True)
class Shard:
    """One part of a build that is split over machines: every `of`-th row from the `number`-th, counted from 0."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``0/8``.

        Raises:
            UserError: when it is not i/n with 0 <= i < n.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise UserError(f"--shard: {text!r} is not i/n with i from 0 to n-1, for example 0/8")
        return cls(int(number), int(of))

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.of}"


@dataclass(frozen=True)
class BuildPlan:
    """Everything a build needs."""

    config: RunConfig
    cot: CotConfig
    folder: Path
    """Where this build (or shard) works."""
    task: Task
    split: Split
    teachers: dict[str, TeacherConfig]
    prompts: dict[str, Prompt]
    recipe: Recipe
    assigned: Sequence[tuple[str, ...]]
    """Per row of the split, its teachers, preferred first."""
    shard: Shard | None = None
    digests: dict[Path, str] = field(default_factory=dict)
    """sha256 of the pictures read so far, so that writing does not read them again."""
    contents: Contents | None = None
    """What to observe, where a file says it."""

    @property
    def prompt(self) -> Prompt:
        """The prompt of the first attempts."""
        return self.prompts[self.cot.prompt or self.recipe.prompt]

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Control tokens of the student's tokenizer beside those of the known families, where its files are known."""
        run = RunDir(self.config.output_dir, self.config.name)
        return special_tokens_of(student_folder(self.config.model, run))

    @property
    def asked(self) -> list[str]:
        """Names of the teachers that rows are asked of; one that only cross-checks is not among them."""
        return [short_name(name) for name in self.cot.teachers]

    @property
    def rows(self) -> range:
        """Indices of the rows of this build: all of the split, or a shard's."""
        whole = len(self.split.rows)
        return range(self.shard.number, whole, self.shard.of) if self.shard else range(whole)

    @property
    def prompt_texts(self) -> dict[str, str]:
        """The prompts that somebody is asked with, for a page to show: none when every teacher is offline."""
        asked = any(not self.is_offline(name) for name in self.teachers)
        return {prompt.version: prompt.source for prompt in self.prompts.values()} if asked else {}

    @property
    def idle_prompts(self) -> list[str]:
        """Names of the user's templates that nobody is asked with."""
        own = own_digests(self.cot.prompts)
        return sorted(own.keys() - self.prompts.keys())

    def policy(self, row: Question) -> Policy:
        """Return how a row is asked."""
        return self.policy_of(self.task.class_of(row))

    def policy_of(self, label: str) -> Policy:
        """Return how rows of a class are asked."""
        own = {name: getattr(self.cot, name) for name in _POLICY} | self.cot.per_class.get(label, {})
        return Policy(**own)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What rows are counted by: the labels, or the kinds of answer that its rows ask for."""
        if self.task.labels is not None:
            return self.task.labels.names
        return tuple(sorted({self.task.class_of(row) for row in self.split.rows}))

    @cached_property
    def columns(self) -> Any:
        """pyarrow.Schema of the rows: the recipe's columns, and what tells rows of own questions and several pictures apart."""
        import pyarrow as pa

        fields = list(self.recipe.columns)
        if self.task.question is None and not self.recipe.brings_prompt:
            fields.insert(_COMMON, pa.field("prompt", pa.string()))
        if any(len(row.images) != 1 for row in self.split.rows):
            fields.insert(_COMMON, pa.field("images", pa.list_(pa.string())))
        return pa.schema(fields)

    def is_offline(self, teacher: str) -> bool:
        """Check whether a teacher writes from annotations instead of looking at pictures."""
        return not isinstance(self.teachers[teacher], OpenAIConfig)

    def reader(self, author: str, row: Question) -> str:
        """Return who cross-checks a reply: the one configured, or another served teacher than its author, without a quota."""
        check = self.cot.cross_check
        assert check is not None
        if check.teacher:
            return short_name(check.teacher)
        readers = (name for name in self.teachers if not self.is_offline(name) and name not in self.cot.quotas)
        others = [name for name in readers if name != author]
        return _by_turns(others, row, {})[0]

    def hints(self, row: Question) -> list[dict[str, Any]]:
        """Return the annotated attributes shown to the teacher, those the row has."""
        shown = []
        for name in self.cot.hints:
            value = row.attributes.get(name)
            if value is not None:
                text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
                shown.append({"name": name, "value": f"{text} (0 to 1)" if isinstance(value, int | float) else text})
        return shown


_POLICY = ("attempts", "temperatures", "fallback")
_COMMON = 4
"""Columns that every recipe has before its own."""


def _prompts(names: Sequence[str], own: Mapping[str, Template], task: Task) -> dict[str, Prompt]:
    """The prompts that a build may use; where each row has its own question, those that speak of no options of all rows."""
    found = {}
    for name in names:
        other = FOR_ANY_QUESTION.get(name) if task.labels is None and name not in own else None
        found[name] = load_prompt(other or name, own)
    return found


def plan(config: RunConfig, shard: Shard | None = None) -> BuildPlan:
    """Resolve and check a build.

    Raises:
        UserError: naming everything that is wrong with the configuration.
    """
    cot = config.cot
    if cot is None:
        raise UserError("this run has no cot: block, so there is nothing to build")
    if cot.from_ is not None:
        raise UserError(
            f"cot.from: the rows are those of {cot.from_}, so nobody is asked: `build` takes them over; leave "
            "cot.from out (cot.from=null) to ask the teachers"
        )
    problems = list(cot_problems(config))
    teachers: dict[str, TeacherConfig] = {}
    named = [*cot.teachers, *([cot.cross_check.teacher] if cot.cross_check and cot.cross_check.teacher else [])]
    for position, name in enumerate(named):
        if short_name(name) in teachers and position < len(cot.teachers):
            problems.append(f"cot.teachers: {short_name(name)!r} is named twice")
        try:
            teachers[short_name(name)] = load_teacher(name)
        except UserError as error:
            # Whether there is such a file has been checked for those in cot.teachers.
            known = Path(name).is_file() or name in teacher_files() or position >= len(cot.teachers)
            problems += error.problems if known else []
    if problems:
        raise UserError(problems)
    recipe = load_recipe(cot.recipe)
    own = own_templates("cot.prompts", cot.prompts)
    contents = read_contents("cot.contents", cot.contents) if cot.contents is not None else None
    teachers = {name: _readdressed(teacher, cot.endpoints.get(name)) for name, teacher in teachers.items()}
    run = RunDir(config.output_dir, config.name)
    task = load_task(config.task, run.cache)
    prompts = _prompts(recipe.prompts(cot), own, task)
    if problems := list(task_text_problems(task, (), special_tokens_of(student_folder(config.model, run)))):
        raise UserError(problems)
    problems = [problem for name, teacher in teachers.items() for problem in check_teacher(teacher, name, task)]
    problems += [*recipe.problems_with_rows(), *_problems(cot, task, teachers, prompts, recipe)]
    if problems:
        raise UserError(problems)
    split = task.select_for_training(cot.split)
    if problems := [
        problem for name in teachers if (problem := _nothing_to_write_from(name, teachers[name], task, split))
    ]:
        raise UserError(problems)
    if problems := list(_too_many_pictures(teachers, split)):
        raise UserError(problems)
    if contents is not None and (left_out := contents.count(asked_rows(task, split)).problem("cot.contents")):
        raise UserError(left_out)
    if problems := list(cot_row_problems(cot, Counter(map(task.class_of, split.rows)))):
        raise UserError(problems)
    folder = run.cot / "shards" / shard.name if shard else run.cot
    assigned = assign(split.rows, [short_name(name) for name in cot.teachers], cot)
    return BuildPlan(config, cot, folder, task, split, teachers, prompts, recipe, assigned, shard, contents=contents)


def asked_rows(task: Task, split: Split) -> list[tuple[str, str]]:
    """Return (id, question) of every row of a split."""
    return [(row.id, without_marks(task.question or row.text).strip()) for row in split.rows]


def rows_without_annotation(teacher: AttributeConfig, task: Task, split: Split) -> int:
    """Return how many rows an offline teacher has nothing to write from about: no attribute it names, no description."""
    meanings = task.labels.descriptions if task.labels is not None and DESCRIPTION in teacher.attributes else {}
    described = {label for label, text in meanings.items() if text}
    return sum(
        not (task.labels is None and row.trace)
        and row.gold not in described
        and not any(describe(name, row.attributes.get(name)) for name in teacher.attributes)
        for row in split.rows
    )


def _nothing_to_write_from(name: str, teacher: TeacherConfig, task: Task, split: Split) -> str:
    """Why an offline teacher can write nothing about any row; "" where it can, and for served teachers."""
    if isinstance(teacher, WalkerConfig) and not all("board" in row.attributes for row in split.rows):
        return f"cot.teachers: {name} follows the arrows of a board, and rows of {task.name} have none; the task trails has"
    if isinstance(teacher, ListerConfig) and not all("asks" in row.attributes for row in split.rows):
        return f"cot.teachers: {name} lists annotated objects, and rows of {task.name} have none; the task shapes has"
    if not isinstance(teacher, AttributeConfig) or rows_without_annotation(teacher, task, split) < len(split.rows):
        return ""
    return (
        f"cot.teachers: {name} looks at no picture: it writes from annotations ({', '.join(teacher.attributes)}), and none of "
        f"the {len(split.rows)} rows of {task.name} has one; name a served teacher, or describe the labels "
        f"(task.descriptions) and name an offline teacher whose file has attributes: [{DESCRIPTION}]"
    )


def assign(examples: Sequence[Question], teachers: Sequence[str], cot: CotConfig) -> list[tuple[str, ...]]:
    """Return the teachers of every row, preferred first.

    Weighted rendezvous hashing on the row's id: a row's teachers depend on no other row, and adding a teacher moves only the
    rows it takes. Quotas are filled in the order of the split; they alone look at other rows.

    Raises:
        UserError: when quotas leave rows without enough teachers.
    """
    asked: Counter[str] = Counter()
    assigned = []
    for row in examples:
        free = [name for name in _by_turns(teachers, row, cot.weights) if asked[name] < cot.quotas.get(name, math.inf)]
        chosen = tuple(free[: cot.teachers_per_row])
        asked.update(chosen)
        assigned.append(chosen)
    short = sum(len(chosen) < cot.teachers_per_row for chosen in assigned)
    if short:
        raise UserError(
            f"cot.quotas: leave {short} of {len(assigned)} rows with fewer than {cot.teachers_per_row} teachers; raise a quota, "
            "or leave one teacher without"
        )
    return assigned


def _by_turns(teachers: Sequence[str], row: Question, weights: dict[str, float]) -> list[str]:
    def rank(name: str) -> float:
        drawn = int.from_bytes(hashlib.sha256(f"teacher:{name}:{row.id}".encode()).digest()[:8])
        return -math.log((drawn + 1) / (2**64 + 1)) / weights.get(name, 1.0)

    return sorted(teachers, key=rank)


def _too_many_pictures(teachers: Mapping[str, TeacherConfig], split: Split) -> Iterator[str]:
    """Teachers whose server is started for fewer pictures than a row has."""
    most = max(len(row.images) for row in split.rows)
    for name, teacher in teachers.items():
        limit = teacher.serve.get("limit-mm-per-prompt") if isinstance(teacher, OpenAIConfig) else None
        if isinstance(limit, dict) and limit.get("image", most) < most:
            yield (
                f"cot.teachers: {name} is served with {limit['image']} pictures a request at most (serve: limit-mm-per-prompt), "
                f"and a row has {most}; raise it in the teacher's file and start its server again"
            )


def _readdressed(teacher: TeacherConfig, urls: list[str] | None) -> TeacherConfig:
    return replace(teacher, base_urls=urls) if urls is not None and isinstance(teacher, OpenAIConfig) else teacher


def _said(teacher: TeacherConfig) -> dict[str, Any]:
    """What of a teacher's settings changes its replies."""
    return {key: value for key, value in to_plain(teacher).items() if key not in TRANSPORT}


def _problems(
    cot: CotConfig, task: Task, teachers: dict[str, TeacherConfig], prompts: dict[str, Prompt], recipe: Recipe
) -> Iterator[str]:
    """What only the task, the teachers and the prompts together can show."""
    served = [name for name, teacher in teachers.items() if isinstance(teacher, OpenAIConfig)]
    asked = [short_name(name) for name in cot.teachers]
    if cot.teachers_per_row > len(asked):
        yield f"cot.teachers_per_row: {cot.teachers_per_row} is more than the {len(asked)} teachers there are"
    if cot.teachers_per_row > 1:
        for position, name in enumerate(asked):
            for other in asked[:position]:
                if name in served and other in served and _said(teachers[name]) == _said(teachers[other]):
                    yield (
                        f"cot.teachers: {other} and {name} ask the same model in the same way, so a row gets one reply, counted "
                        "twice; give one file both addresses, or another temperature"
                    )
    for key in ("weights", "quotas", "endpoints"):
        for name in getattr(cot, key):
            if name not in teachers:
                yield f"cot.{key}: {name!r} is not one of the run's teachers {', '.join(teachers)}"
    for name in cot.endpoints:
        if name in teachers and name not in served:
            yield f"cot.endpoints: {name!r} is offline and has no address"
    classes = task.labels.names if task.labels is not None else (*KINDS, OPEN)
    what = "a label" if task.labels is not None else "a kind of answer"
    for label in cot.per_class:
        if label not in classes:
            yield f"cot.per_class: {label!r} is not {what} of task {task.name} ({', '.join(classes)})"
    asking = {cot.prompt or recipe.prompt, cot.fallback, *(own.get("fallback") for own in cot.per_class.values())} - {
        None
    }
    if cot.hints and served and recipe.name == "reasoning":
        for name in sorted(str(name) for name in asking if "hints" not in prompts[str(name)].uses):
            yield f"cot.hints: prompt {name} shows no hints; {prompts[name].mode}_v2 does"
    for name in cot.hints:
        if name not in ATTRIBUTES:
            yield f"cot.hints: {name!r} is not one of {', '.join(ATTRIBUTES)}"
    if cot.filters.language is not None:
        from cot_builder.filters.language import language_codes

        if cot.filters.language not in language_codes():
            yield f"cot.filters.language: {cot.filters.language!r} is not one of {', '.join(sorted(language_codes()))}"
    yield from recipe.problems(cot, teachers, prompts)
