"""What is known of one evaluated model in one prompt style, as types; metrics.json and summary.json hold them as `stored` says.

A class that extends `Rate` is a rate with something beside it, and a table shows it as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pipeline.formatting import percent
from pipeline.metrics.stored import SPREAD


@dataclass(frozen=True)
class Rate:
    """A share from 0 to 1 with its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    count: int | None = None
    n: int | None = None
    clusters: int | None = None
    """How many, where rows share any."""

    @property
    def share(self) -> float:
        """The value of a rate that is of something."""
        assert self.value is not None
        return self.value

    def in_percent(self) -> tuple[float, float, float]:
        """Return low, value and high of a rate that is of something."""
        assert self.low is not None
        assert self.high is not None
        return 100 * self.low, 100 * self.share, 100 * self.high

    def __str__(self) -> str:
        """Return it in percent: 88.8 [85.1, 91.7]."""
        return f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, kw_only=True)
class Gain(Rate):
    """A difference of two shares on n common rows, and the two-sided p of there being none."""

    p: float | None
    p_holm: float | None = None
    """Corrected for the tests it is one of; None where it is not."""
    only_a: int | None = None
    only_b: int | None = None
    """Rows only one got right, of a difference of accuracy or of a class's recall."""

    @property
    def beyond_chance(self) -> bool:
        """Whether its p, corrected where it is, lies below 5 %."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p < 0.05


@dataclass(frozen=True)
class Change:
    """A share of the same rows with two models, and the difference, the second less the first."""

    before: float
    after: float
    gain: Gain


@dataclass(frozen=True, kw_only=True)
class Balanced(Rate):
    """Balanced accuracy, which is macro recall, and what a fair die would have."""

    chance: float


@dataclass(frozen=True, kw_only=True)
class Agreement(Rate):
    """How often the last label named in the thinking is the answer, over rows with both.

    `silent` counts the rows whose thinking names no label; they stay in n, as neither agreeing nor disagreeing.
    """

    silent: int
    disagree: int


@dataclass(frozen=True, kw_only=True)
class AttributesNamed(Rate):
    """Share of the annotated attribute values that occur in the thinking; n counts values."""

    by_attribute: Mapping[str, Rate]


@dataclass(frozen=True, kw_only=True)
class ExactTrace(Rate):
    """How often the written steps are the true ones, over the rows whose task can tell.

    `lucky` is the share of their right answers that other steps led to.
    """

    lucky: Rate


@dataclass(frozen=True)
class UnknownAnswer:
    """An answer that is none of the labels, the gold label of the rows that were given it, and their number."""

    answer: str
    gold: str
    n: int


@dataclass(frozen=True)
class Unparsable:
    """Rows without a readable answer, which stay in every n, and why there is none."""

    n: int
    reasons: Mapping[str, int]
    unknown: UnknownAnswer | None = None
    """The commonest answer that is none of the labels."""


@dataclass(frozen=True)
class Repetition:
    """How often the commonest of n texts stands among them, and how many different ones there are."""

    share: float | None
    n: int
    distinct: int


@dataclass(frozen=True)
class MostAnswered:
    """The commonest answer of those that could be read."""

    value: str | None
    of: Annotated[Repetition, SPREAD]


@dataclass(frozen=True)
class GroupScores:
    """The rows of one value of a group."""

    n: int
    chance: float | None
    accuracy: Rate
    unparsable: int
    exact_trace: ExactTrace | None = None


@dataclass(frozen=True)
class LengthBin:
    """Accuracy of the rows whose reasoning has `low` to `high` words, both inclusive."""

    low: Annotated[int, "from"]
    high: Annotated[int, "to"]
    accuracy: Rate


@dataclass(frozen=True)
class ConfidenceBin:
    """Accuracy of the rows whose confidence lies from `low` to `high`, and their mean confidence."""

    low: Annotated[float, "from"]
    high: Annotated[float, "to"]
    confidence: float
    accuracy: Rate


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy; `without` rows record no log probability and take no part."""

    n: int
    without: int
    ece: Rate
    brier: Rate
    bins: tuple[ConfidenceBin, ...]


@dataclass(frozen=True)
class Sampled:
    """What the policy does at temperature 1: n samples of `rows` rows."""

    n: int
    rows: int
    format: Rate
    accuracy: Rate
    reasons: Mapping[str, int]
    exact_trace: ExactTrace | None = None


@dataclass(frozen=True)
class ClassScores:
    """One class; None where it has no rows, or for the precision of what was never answered."""

    precision: float | None
    recall_value: Annotated[float | None, "recall"]
    recall_low: float | None
    recall_high: float | None
    f1: Annotated[float | None, "f1-score"]
    support: int
    predicted: int

    @property
    def recall(self) -> Rate:
        """Recall with its interval."""
        return Rate(self.recall_value, self.recall_low, self.recall_high)


@dataclass(frozen=True)
class Averages:
    """Averages over the classes that have rows, weighted by them or not."""

    precision: float
    recall: float
    f1: Annotated[float, "f1-score"]
    support: int


@dataclass(frozen=True)
class MacroAverages(Averages):
    """The unweighted ones, with the interval of F1 and the number of classes that have rows."""

    f1_low: Annotated[float, "f1-score_low"]
    f1_high: Annotated[float, "f1-score_high"]
    classes: int

    @property
    def f1_rate(self) -> Rate:
        """Macro-F1 with its interval."""
        return Rate(self.f1, self.f1_low, self.f1_high)


@dataclass(frozen=True)
class Majority:
    """What answering the commonest gold label always earns."""

    label: str
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class FairGuess:
    """What a fair die earns."""

    accuracy: float


@dataclass(frozen=True)
class Baselines:
    """What knowing nothing about the picture earns."""

    majority: Majority
    chance: FairGuess


@dataclass(frozen=True)
class CommonestAnswers:
    """What giving every question the commonest gold answer of its kind earns, knowing nothing of it."""

    accuracy: float
    by_kind: Mapping[str, str]


@dataclass(frozen=True)
class Confusion:
    """Counts by gold label (rows) and answer (columns, the last of what could not be read)."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def lines(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield each gold label with the count of every answer."""
        for gold, counts in zip(self.rows, self.counts, strict=True):
            yield gold, dict(zip(self.columns, counts, strict=True))


@dataclass(frozen=True)
class OfClasses:
    """What a closed list of answers adds."""

    per_class: Mapping[str, ClassScores]
    macro: Annotated[MacroAverages, "macro avg"]
    weighted: Annotated[Averages, "weighted avg"]
    balanced: Annotated[Balanced, "balanced_accuracy"]
    baselines: Baselines
    confusion: Confusion
    agreement: Agreement


@dataclass(frozen=True)
class Scores:
    """Every number of one evaluated model in one prompt style; `sample` is at temperature 1, all others greedy."""

    n: int
    unjudged: int
    style: str
    labels: tuple[str, ...] | None
    accuracy: Rate
    chance: float | None
    format: Rate
    parsed: Rate
    unparsable: Unparsable
    guessed: int
    truncated: Rate
    completion_tokens: float | None
    seconds_per_row: float | None
    most_answered: MostAnswered
    most_thought: Repetition
    groups: Mapping[str, Mapping[str, GroupScores]]
    by_length: tuple[LengthBin, ...] | None
    calibration: Calibration | None
    attributes: AttributesNamed
    sample: Sampled | None
    classes: Annotated[OfClasses | None, SPREAD]
    """None for a benchmark whose answers are no classes."""
    exact_trace: ExactTrace | None = None
    """None where the task does not know the true steps."""
    commonest: CommonestAnswers | None = None
    """None where answers are classes, whose `baselines` say it, or rows do not tell their kind."""

    @property
    def blind_answer(self) -> float | None:
        """What the commonest answer earns; None where that is not known."""
        if self.classes is not None:
            return self.classes.baselines.majority.accuracy
        return self.commonest.accuracy if self.commonest is not None else None

    @property
    def macro_f1(self) -> Rate | None:
        """Macro-F1; None where answers are no classes."""
        return self.classes.macro.f1_rate if self.classes else None

    @property
    def macro_recall(self) -> Rate | None:
        """Macro recall, which is balanced accuracy; None where answers are no classes."""
        return self.classes.balanced if self.classes else None

    @property
    def agreement(self) -> Agreement | None:
        """How often the thinking ends on the answer; None where no row can tell."""
        return self.classes.agreement if self.classes and self.classes.agreement.n else None

    @property
    def format_sampled(self) -> Rate | None:
        """Format rate at temperature 1; None where nothing was sampled."""
        return self.sample.format if self.sample else None
