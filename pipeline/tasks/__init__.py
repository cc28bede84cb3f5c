"""Tasks: a labelled image set and how its answers are judged. One file per task; the file name is its name.

A task file defines ``load(config: TaskConfig, cache: Path) -> Task``. `load_task` finds it by name, so adding
``pipeline/tasks/fi8.py`` is all it takes to add the task ``fi8``.

A file that gives a `pipeline.questions.Benchmark` instead, which can be evaluated but not trained on, says so with
``EVALUATED_ONLY = True``; `pipeline.questions.load_benchmark` loads both.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import UserError
from pipeline.labels import LabelSet
from pipeline.nearest import nearest
from pipeline.response import Malformed, parse
from pipeline.run import digest

if TYPE_CHECKING:
    from pipeline.schema import TaskConfig

Row = TypeVar("Row")
PROMPT_STYLES = ("think", "direct")
"""`think` asks for ``<think>…</think><answer>…</answer>``; `direct` asks for the bare label."""


@dataclass(frozen=True)
class Example:
    """One labelled image. `image` is a path: bytes stay on disk until a trainer or teacher needs them."""

    id: str
    image: Path
    label: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used, and why. `reason` is a short snake_case word that can be counted."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Split:
    """The usable rows of a split, and the rows that are not."""

    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many rows each reason took out (or, for ``unreadable_annotation``, kept with less)."""
        return counted(self.problems)


def counted(problems: Iterable[Problem]) -> dict[str, int]:
    """How many problems have each reason, the commonest first."""
    return dict(Counter(problem.reason for problem in problems).most_common())


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one completion.

    `label` is the canonical label it answered with, or None when it is unparsable; `reason` says why it is None
    (a grammar reason, or ``not_a_label``).
    """

    label: str | None
    correct: bool
    reason: str | None = None
    think: str | None = None


@dataclass(frozen=True)
class Task:
    """A labelled image set, its question and its judge.

    Args:
        name: the task file's name.
        labels: the closed list of answers.
        question: what the student is asked about an image, without answer options or format instructions.
        splits: the names `read` accepts.
        read: reads one whole split; called at most once per use, no caching promised.
    """

    name: str
    labels: LabelSet
    question: str
    splits: tuple[str, ...]
    read: Callable[[str], Split]

    def select(self, spec: str) -> Split:
        """Rows of a split in the usual slicing syntax: ``train``, ``train[:4000]``, ``train[4000:]``, ``train[:10%]``.

        Rows are ordered by a hash of their id first, so that a slice of a class-sorted file holds every class, and
        two disjoint slices never share a row.

        Raises:
            UserError: on a malformed spec, an unknown split or an empty slice.
        """
        whole = self.read(named_split(self.name, spec, self.splits))
        rows = sorted(whole.examples, key=lambda row: hashlib.sha256(row.id.encode()).digest())
        return Split(sliced(self.name, spec, rows, whole.problem_counts), whole.problems)

    def prompt(self, style: str) -> str:
        """The text the student reads beside the image, in one of `PROMPT_STYLES`."""
        options = ", ".join(self.labels.names)
        if style == "think":
            how = "Reason inside <think> </think>, then give one of them inside <answer> </answer>."
        elif style == "direct":
            how = "Answer with one of them and nothing else."
        else:
            raise ValueError(f"prompt style {style!r} is not one of {PROMPT_STYLES}")
        return f"{self.question} Options: {options}. {how}"

    def judge(self, completion: str, label: str, style: str = "think") -> Verdict:
        """Judge one completion against the gold label; the single judge behind filters, rewards and reports."""
        if style == "direct":
            answer, think = completion, None
        else:
            response = parse(completion)
            if isinstance(response, Malformed):
                return Verdict(None, False, response.reason)
            answer, think = response.answer, response.think
        found = self.labels.normalise(answer)
        if found is None:
            return Verdict(None, False, "not_a_label" if answer.strip() else "empty", think)
        return Verdict(found, found == label, None, think)


_SPEC = re.compile(r"^(?P<name>[\w.-]+)(?:\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\])?$")


def parse_split(spec: str) -> tuple[str, str, str]:
    """Split ``train[10:20%]`` into ("train", "10", "20%"); absent bounds are empty strings.

    Raises:
        UserError: when `spec` has another form.
    """
    match = _SPEC.match(spec)
    if not match:
        raise UserError(f"split {spec!r} is not of the form name, name[:4000], name[10%:20%]")
    return match["name"], match["start"] or "", match["stop"] or ""


def named_split(task: str, spec: str, splits: Sequence[str]) -> str:
    """The split a spec names.

    Raises:
        UserError: on a malformed spec, or a split that is not one of `splits`.
    """
    name = parse_split(spec)[0]
    if name not in splits:
        raise UserError(f"task {task}: split {name!r} does not exist; it has {', '.join(splits)}")
    return name


def sliced(task: str, spec: str, rows: Sequence[Row], problems: Mapping[str, int]) -> tuple[Row, ...]:
    """The part of a split's rows that a spec asks for.

    Args:
        task: whose they are, for the message, as are `problems`.
        spec: as `parse_split` takes it.
        rows: all of the split, in the order that slices are taken of.
        problems: why other rows cannot be used, counted.

    Raises:
        UserError: when it is empty.
    """
    name, start, stop = parse_split(spec)
    chosen = rows[_index(start, len(rows)) : _index(stop, len(rows)) if stop else None]
    if not chosen:
        counts = ", ".join(f"{reason} {count}" for reason, count in problems.items())
        why = f" (problems: {counts})" if counts else ""
        raise UserError(f"task {task}: {spec!r} selects no row; {name!r} has {len(rows)} usable rows{why}")
    return tuple(chosen)


def _index(bound: str, rows: int) -> int:
    if bound.endswith("%"):
        return rows * int(bound[:-1]) // 100
    return int(bound or 0)


def check_options(config: TaskConfig, allowed: Iterable[str]) -> dict[str, Any]:
    """The task's ``options:``, once each key is known to be one of `allowed`.

    Raises:
        UserError: naming every other key, and the nearest right one.
    """
    keys = sorted(allowed)
    problems = []
    for key in config.options:
        if key not in keys:
            problems.append(f"task.options.{key}: the {config.name} task has no such option; {nearest(key, keys)}")
    if problems:
        raise UserError(problems)
    return dict(config.options)


def task_names() -> list[str]:
    """The tasks there are: every module of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load_task(config: TaskConfig, cache: Path) -> Task:
    """Load the task `config.name`.

    Args:
        config: the run's ``task:`` block.
        cache: a folder the task may write derived files into (drawn scenes, images taken out of parquet files).

    Raises:
        UserError: on an unknown name, a benchmark, or whatever the task finds wrong with its data.
    """
    if config.name in task_names() and getattr(_module(config.name), "EVALUATED_ONLY", False):
        trainable = [name for name in task_names() if not getattr(_module(name), "EVALUATED_ONLY", False)]
        raise UserError(
            f"task.name: {config.name!r} is a benchmark: it can be evaluated, but not trained on; "
            f"train on {', '.join(trainable)}"
        )
    task: Task = load_file(config, cache)
    return task


def load_file(config: TaskConfig, cache: Path) -> Any:
    """What the file `config.name` gives: a `Task`, or a `pipeline.questions.Benchmark`.

    Raises:
        UserError: as `load_task`.
    """
    names = task_names()
    if config.name not in names:
        raise UserError(f"task.name: {config.name!r} is not a file of pipeline/tasks; {nearest(config.name, names)}")
    own = cache / f"{config.name}-{digest([config.path, config.options])[:12]}"
    return _module(config.name).load(config, own)


def _module(name: str) -> Any:
    return importlib.import_module(f"pipeline.tasks.{name}")
