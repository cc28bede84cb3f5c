"""The rows that everything passes: examples of image sets, questions of benchmarks, and what a judge says of an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Question:
    """One question about zero or more pictures.

    Args:
        id: unique within its split.
        images: paths, in the order their marks stand in the text.
        text: what is asked, with options but without format instructions. ``<image 1>`` marks where picture 1 belongs and may
            come twice; pictures without a mark come before the text, in order.
        options: their texts, in order; empty for an open question.
        answer: the gold answer as the judge wants it: a letter where there are options; None where it is not published.
        kind: the kind of answer asked for: label, letter, number, yes_no, text or list; "" where the task has a published rule.
        groups: what tables are split by, such as ``{"task": "Count", "source": "COCO"}``.
        cluster: rows of one cluster share a picture and are resampled together; "" stands for a cluster of its own.
        pair: rows of one pair are scored together (VCR's answer and rationale), so a slice keeps them together; "" for none.
        facts: whatever else the judge or a report reads: answer type, unit, precision, tolerance, aliases, annotated attributes.
    """

    id: str
    images: tuple[Path, ...]
    text: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    kind: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    pair: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """The usable questions of a split, and the rows that are not."""

    rows: tuple[Question, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many rows each reason took out."""
        return counted(self.problems)


@dataclass(frozen=True)
class Judgement:
    """What the judge says of one completion.

    `answer` is the canonical answer (a letter, a label, a normalised value), None when it is unparsable or `guessed`; then
    `reason` says why. `guessed`: what the benchmark's own rule puts in the place of an unparsable answer (MMMU a random
    option, MathVista the nearest choice), and `correct` is of that one.
    """

    answer: str | None
    correct: bool
    reason: str | None = None
    think: str | None = None
    guessed: str | None = None


@dataclass(frozen=True)
class Example:
    """One labelled image. `image` is a path: bytes stay on disk until a trainer or teacher needs them."""

    id: str
    image: Path
    label: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    """What tables are split by beside the label, such as ``{"walk": "3"}``."""
    trace: str = ""
    """The steps a true reasoning writes, where there is one way to write them; "" where the task cannot tell."""


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
    whole: int | None = None
    """Usable rows of the whole split, where `examples` is a slice of it."""

    @property
    def problem_counts(self) -> dict[str, int]:
        """How many rows each reason took out (or, for ``unreadable_annotation``, kept with less)."""
        return counted(self.problems)


def counted(problems: Iterable[Problem]) -> dict[str, int]:
    """Return how many problems have each reason, the commonest first."""
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
