"""What an evaluation asks and how it judges: the one shape of every benchmark, and of every labelled image set.

A file of pipeline/tasks gives a `Task` (a labelled image set, which can be trained on) or a `Benchmark` (questions with pictures,
options and a published rule of judging, which can only be evaluated). `as_benchmark` makes the one the other, so that there is
one way to ask and to judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.prompting import asked_for_letter
from pipeline.data.splits import named_split, sliced
from pipeline.data.task import Task
from pipeline.scoring.benchmark_judges import even_chance, judge_choice
from pipeline.types import Judgement, Question, Questions


@dataclass(frozen=True)
class Benchmark:
    """Questions, how they are put, and the published rule they are judged by: of lettered options, unless it says otherwise.

    Args:
        name: the task file's name.
        splits: the names `read` accepts.
        read: reads one whole split.
        prompt: (question, style) -> the text the model reads, in one of `pipeline.data.task.PROMPT_STYLES`; keeps image marks.
        judge: (question, completion, style) -> Judgement. A row without a gold answer is never right.
        chance: what guessing at random earns on a question, 0 to 1.
        official: prediction rows -> {name of a score: value in percent}, by the benchmark's own formula. A row has the question's
            ``id`` and ``groups`` and the judgement's ``correct`` and, where there is one, ``guessed``. A score whose rows
            are not all there (one source of CV-Bench is missing) is left out.
    """

    name: str
    splits: tuple[str, ...]
    read: Callable[[str], Questions]
    prompt: Callable[[Question, str], str] = asked_for_letter
    judge: Callable[[Question, str, str], Judgement] = judge_choice
    chance: Callable[[Question], float] = even_chance
    official: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, float]] = lambda rows: {}
    told: Callable[[], Iterable[str]] = lambda: ()
    """What a plan says of the data beside their counts, in lines: which column is what, the first rows as they are asked."""
    task: Task | None = None
    """The labelled image set this was made of, whose labels a per-class table needs; None for all others."""

    def select(self, spec: str, seed: int = 0) -> Questions:
        """Return rows of a split in slicing syntax: ``val``, ``val[:200]``, ``val[:10%]``.

        A slice is taken in the order of a hash of seed and id, so it is a random subset, the same on every machine. Rows of one
        pair stay together (a bound may fall between them); rows of one cluster may be torn apart.

        Raises:
            UserError: on a malformed spec, an unknown split or an empty slice.
        """
        whole = self.read(named_split(self.name, spec, self.splits))
        rows = sorted(
            whole.rows, key=lambda row: (hashlib.sha256(_salted(seed, row.pair or row.id).encode()).digest(), row.id)
        )
        return Questions(sliced(self.name, spec, rows, whole.problem_counts), whole.problems)


def as_benchmark(task: Task) -> Benchmark:
    """Return a labelled image set as questions: one per example, asked and judged exactly as in training."""

    def read(split: str) -> Questions:
        found = task.read(split)
        rows = tuple(
            Question(
                example.id,
                (example.image,),
                task.question,
                answer=example.label,
                groups={"label": example.label, **example.groups},
                facts={"attributes": dict(example.attributes), "trace": example.trace},
            )
            for example in found.examples
        )
        return Questions(rows, found.problems)

    def judge(question: Question, completion: str, style: str) -> Judgement:
        verdict = task.judge(completion, question.answer or "", style)
        return Judgement(verdict.label, verdict.correct, verdict.reason, verdict.think)

    return Benchmark(
        name=task.name,
        splits=task.splits,
        read=read,
        prompt=lambda question, style: task.prompt(style),
        judge=judge,
        chance=lambda question: 1 / len(task.labels),
        task=task,
    )


def _salted(seed: int, row_id: str) -> str:
    # Seed 0 is the order of Task.select.
    return row_id if seed == 0 else f"{seed}/{row_id}"
