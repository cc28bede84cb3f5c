"""The rows that everything passes, questions about pictures, and what a judge says of an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Question:
    """One question about zero or more pictures: what is trained on, judged and evaluated, in every task.

    Args:
        id: unique within its split.
        images: paths, in the order their marks stand in the text; bytes stay on disk until a trainer or teacher needs them.
        text: what is asked, with options but without format instructions. ``<image 1>`` marks where picture 1 belongs and may
            come twice; pictures without a mark come before the text, in order.
        options: their texts, in order; empty for an open question.
        answer: the gold answer as the judge wants it: a label, a letter where there are options; None where it is not published.
        kind: one of `pipeline.scoring.kinds.KINDS`; "" where the task's own published rule judges.
        groups: what tables are split by, such as ``{"task": "Count", "source": "COCO"}``.
        cluster: rows of one cluster share a picture and are resampled together; "" stands for a cluster of its own.
        pair: rows of one pair are scored together (VCR's answer and rationale), so a slice keeps them together; "" for none.
        attributes: what is annotated of the picture.
        trace: the steps a true reasoning writes, where there is one way to write them; "" where the task cannot tell.
        facts: whatever else the judge reads: answer type, unit, precision, aliases.
    """

    id: str
    images: tuple[Path, ...]
    text: str = ""
    options: tuple[str, ...] = ()
    answer: str | None = None
    kind: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    pair: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    trace: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gold(self) -> str:
        """The gold answer; "" where it is not published."""
        return self.answer or ""


def labelled_image(
    id: str,
    image: Path,
    label: str,
    attributes: Mapping[str, Any] | None = None,
    groups: Mapping[str, str] | None = None,
    trace: str = "",
) -> Question:
    """Return the row of a labelled image set, which the set's own question is asked; see `pipeline.data.task.labelled_task`."""
    return Question(
        id, (image,), answer=label, kind="label", groups=groups or {}, attributes=attributes or {}, trace=trace
    )


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used, and why. `reason` is a short snake_case word that can be counted."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Split:
    """The usable rows of a split, and the rows that are not."""

    rows: tuple[Question, ...]
    problems: tuple[Problem, ...] = ()
    whole: int | None = None
    """Usable rows of the whole split, where `rows` is a slice of it."""

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many rows each reason took out (or, for ``unreadable_annotation``, kept with less)."""
        return counted(self.problems)


@dataclass(frozen=True)
class Judgement:
    """What the judge says of one completion.

    `answer` is the canonical answer (a letter, a label, a normalised value), None when it is unparsable or `guessed`; then
    `reason` says why (a grammar reason, ``not_a_label``, …). `guessed`: what the benchmark's own rule puts in the place of an
    unparsable answer (MMMU a random option, MathVista the nearest choice), and `correct` is of that one.
    """

    answer: str | None
    correct: bool
    reason: str | None = None
    think: str | None = None
    guessed: str | None = None

    @property
    def earned(self) -> bool:
        """Whether the right answer was stated: a guess in the place of an unparsable one earns a score, and no reward."""
        return self.correct and self.guessed is None


def counted(problems: Iterable[Problem]) -> dict[str, int]:
    """Return how many problems have each reason, the commonest first."""
    return dict(Counter(problem.reason for problem in problems).most_common())
