"""Tasks: questions about pictures and the one judge of their answers. One file per task; the file name is its name.

A task file defines ``load(config: TaskConfig, cache: Path) -> Task``. `pipeline.data.load.load_task` finds it by name, so adding
``pipeline/tasks/fi8.py`` is all it takes to add the task ``fi8``. A set of labelled images is the special case of one question
and closed labels: `labelled_task` makes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.questions.prompting import asked_for_label, asked_for_letter
from pipeline.data.splits import named_split, parse_split, sliced
from pipeline.errors import UserError
from pipeline.scoring.benchmark_judges import even_chance, judge_choice, judge_label
from pipeline.scoring.labels import LabelSet
from pipeline.types import Judgement, Problem, Question, Split

_STAND_INS = 8
OPEN = "open"
"""Class of a row that a published rule judges and that has no options."""


@dataclass(frozen=True)
class Task:
    """Questions, how they are put, and the rule they are judged by: of lettered options, unless it says otherwise.

    Args:
        name: the task file's name.
        splits: the names `read` accepts.
        read: reads one whole split; called at most once per use, no caching promised.
        prompt: (question, style) -> the text the model reads, in one of `pipeline.data.questions.prompting.PROMPT_STYLES`; keeps
            image marks.
        judge: (question, completion, style) -> Judgement; the single judge behind filters, rewards, gates, validation and
            evaluation. A row without a gold answer is never right.
        chance: what guessing at random earns on a question, 0 to 1.
        official: prediction rows -> {name of a score: value in percent}, by a benchmark's own formula. A row has the question's
            ``id`` and ``groups`` and the judgement's ``correct`` and, where there is one, ``guessed``. A score whose rows
            are not all there (one source of CV-Bench is missing) is left out.
    """

    name: str
    splits: tuple[str, ...]
    read: Callable[[str], Split]
    prompt: Callable[[Question, str], str] = asked_for_letter
    judge: Callable[[Question, str, str], Judgement] = judge_choice
    chance: Callable[[Question], float] = even_chance
    official: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, float]] = lambda rows: {}
    told: Callable[[], Iterable[str]] = lambda: ()
    """What a plan says of the data beside their counts, in lines: which column is what, the first rows as they are asked."""
    labels: LabelSet | None = None
    """The closed list of answers of all rows, whom a report per class is about; None where rows have answers of their own."""
    question: str | None = None
    """The one text that all rows ask, without answer options or format instructions; None where each asks its own."""
    unfit: Callable[[Sequence[Question]], Mapping[Path, str]] | None = None
    """Pictures among rows that the student's processor refuses, and why; None where it takes all."""
    listed: Callable[[str], Counter[str]] | None = None
    """Rows of a whole split by label as the data spell it, or without labels by what is asked, told without opening a picture: at
    most so many are usable."""
    in_place: bool = False
    """Whether the pictures lie there as files, so that reading a split writes nothing but what was found of them."""
    untrainable: tuple[str, ...] = ()
    """Splits that no stage may train on: those that published scores are of."""

    def select(self, spec: str, seed: int = 0) -> Split:
        """Return rows of a split in the usual slicing syntax: ``train``, ``train[:4000]``, ``train[4000:]``, ``train[:10%]``.

        Rows are ordered by a hash of seed and id first, so that a slice of a class-sorted file holds every class, two disjoint
        slices never share a row, and a slice is the same random subset on every machine. Rows of one pair stay together (a
        bound may fall between them); rows of one cluster may be torn apart.

        Raises:
            UserError: on a malformed spec, an unknown split or an empty slice.
        """
        whole = self.read(named_split(self.name, spec, self.splits))
        rows = sorted(
            whole.rows, key=lambda row: (hashlib.sha256(_salted(seed, row.pair or row.id).encode()).digest(), row.id)
        )
        chosen = sliced(self.name, spec, rows, whole.problems)
        refused = self.unfit(chosen) if self.unfit else {}
        unfit = [
            Problem(row.id, "unfit_image", next(refused[image] for image in row.images if image in refused))
            for row in chosen
            if not refused.keys().isdisjoint(row.images)
        ]
        usable = tuple(row for row in chosen if refused.keys().isdisjoint(row.images))
        if not usable:
            raise UserError(f"task {self.name}: {spec!r}: no row is left; the first: {unfit[0].id}, {unfit[0].detail}")
        return Split(usable, (*whole.problems, *unfit), len(whole.rows))

    def training_problem(self, spec: str) -> str | None:
        """Return why no stage may train on a split, with the cure; None where it may."""
        split = parse_split(spec)[0]
        if split not in self.untrainable:
            return None
        others = [name for name in self.splits if name not in self.untrainable]
        cure = (
            f"train on {' or '.join(others)}"
            if others
            else "bring rows of the same columns as train.parquet or train.jsonl"
        )
        return (
            f"{spec!r} is what published scores of {self.name} are of, so no stage may train on it; {cure}, and name this one "
            "in held_out"
        )

    def select_for_training(self, spec: str) -> Split:
        """Return rows of a split as `select` does, without those whose answer is not known, which are problems.

        Raises:
            UserError: as `select`, and for a split that no stage may train on.
        """
        if problem := self.training_problem(spec):
            raise UserError(f"task {self.name}: {problem}")
        found = self.select(spec)
        if all(row.answer is not None for row in found.rows):
            return found
        lost = (Problem(row.id, "no_answer", "its answer is not published") for row in found.rows if row.answer is None)
        known = tuple(row for row in found.rows if row.answer is not None)
        if not known:
            raise UserError(
                f"task {self.name}: {spec!r}: the answers of its rows are not published; train on another split"
            )
        return Split(known, (*found.problems, *lost), found.whole)

    @property
    def closed_labels(self) -> LabelSet:
        """The closed labels, for what only a labelled image set can do.

        Raises:
            UserError: when each row has answers of its own.
        """
        if self.labels is None:
            raise UserError(
                f"task.name: the rows of {self.name} have no closed list of labels in common, which this needs; take a "
                "labelled image set (imagefolder, parquet, emoset)"
            )
        return self.labels

    def groups_of(self, row: Question) -> dict[str, str]:
        """Return what tables are split by: a row's groups and its label or, where each asks its own question, its kind."""
        if self.labels is not None:
            return {"label": row.gold, **row.groups}
        return {**({"kind": row.kind} if row.kind else {}), **row.groups}

    def class_of(self, row: Question) -> str:
        """Return what rows are counted by: a label of a closed list, else the kind of answer."""
        if self.labels is not None:
            return row.gold
        return row.kind or ("letter" if row.options else OPEN)

    def stand_ins(self, split: str) -> tuple[Question, ...]:
        """Return a few rows that stand for all: one per closed label, told without reading and of no picture that is there; else
        the first of a split.

        Args:
            split: a split's spec, as `select` takes it.
        """
        if self.labels is not None and self.question is not None:
            made = (
                Question(label, (Path(label),), self.question, answer=label, kind="label")
                for label in self.labels.names
            )
            return tuple(made)
        return self.select(split).rows[:_STAND_INS]


def labelled_task(
    name: str,
    labels: LabelSet,
    question: str,
    splits: tuple[str, ...],
    read: Callable[[str], Split],
    *,
    listed: Callable[[str], Counter[str]] | None = None,
    in_place: bool = False,
) -> Task:
    """Return the task of a labelled image set: one question for all rows, and closed labels.

    Args:
        name: the task file's name.
        labels: the closed list of answers.
        question: what the student is asked about an image, without answer options or format instructions.
        splits: the names `read` accepts.
        read: reads one whole split, of `pipeline.types.labelled_image`; the question is added here.
        listed: see `Task`.
        in_place: see `Task`.
    """

    def asked(split: str) -> Split:
        found = read(split)
        rows = tuple(dataclasses.replace(row, text=question, kind="label") for row in found.rows)
        return dataclasses.replace(found, rows=rows)

    return Task(
        name,
        splits,
        asked,
        prompt=partial(asked_for_label, labels),
        judge=lambda row, completion, style: judge_label(labels, completion, row.answer, style),
        chance=lambda row: 1 / len(labels),
        labels=labels,
        question=question,
        listed=listed,
        in_place=in_place,
    )


def _salted(seed: int, row_id: str) -> str:
    return row_id if seed == 0 else f"{seed}/{row_id}"
