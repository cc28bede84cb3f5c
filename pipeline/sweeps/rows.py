"""What is known of a sweep, as types: a row per cell, groups, and the tests between cells, as results.json holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from pipeline.config.evaluation import Cell
from pipeline.metrics.paired_tests import Paired
from pipeline.metrics.scores import Gain, Rate
from pipeline.metrics.stored import SPREAD

TIMED = (
    "memory_measured_mb",
    "memory_error",
    "seconds",
    "rows_per_second",
    "latency_p50_s",
    "latency_p95_s",
)
"""Columns of a measurement, which no two runs share."""


@dataclass(frozen=True, kw_only=True)
class CellKey:
    """A model on a task in one way: what names a cell."""

    model: str
    task: str
    precision: str
    mode: str
    reasoner: str | None

    @property
    def asked(self) -> tuple[str | None, ...]:
        """What tells it from other cells."""
        return self.model, self.task, self.precision, self.mode, self.reasoner

    @property
    def way(self) -> str:
        """How it was asked: its mode, and its reasoner."""
        return f"{self.mode} + {self.reasoner}" if self.reasoner else self.mode

    @property
    def title(self) -> str:
        """Its name for a person, within its task."""
        return f"{self.model} · {self.precision} · {self.way}"


def names(cell: Cell) -> dict[str, Any]:
    """Return what names a cell, as columns."""
    return {
        "model": cell.model,
        "task": cell.task,
        "precision": cell.precision,
        "mode": cell.mode,
        "reasoner": cell.reasoner,
    }


@dataclass(frozen=True, kw_only=True)
class CellRow(CellKey):
    """One line of a sweep's table. A cell that is not complete has no figures; parameters are in millions, megabytes are
    10⁶ bytes, times seconds."""

    status: str
    n: int | None
    correct: int | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    chance: float | None
    official_score: str | None
    official_value: float | None
    unparsable: int | None
    guessed: int | None
    truncated: int | None
    tokens: int | None
    prompt_tokens: int | None
    tokens_per_row: float | None
    cost: float | None
    unusable_rows: int | None
    parameters_m: float | None
    memory_estimated_mb: float | None
    memory_measured_mb: float | None
    memory_error: float | None
    seconds: float | None
    rows_per_second: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    versions: str | None
    reason: str | None
    cell: str

    @property
    def rate(self) -> Rate:
        """Accuracy with its interval."""
        return Rate(self.accuracy, self.accuracy_low, self.accuracy_high)

    @property
    def cost_of_1000(self) -> float | None:
        """What a thousand rows cost."""
        return None if self.cost is None or not self.n else 1000 * self.cost / self.n

    @property
    def memory(self) -> float | None:
        """Megabytes it took, or should take where that was not measured."""
        return self.memory_estimated_mb if self.memory_measured_mb is None else self.memory_measured_mb


@dataclass(frozen=True, kw_only=True)
class GroupRow(CellKey):
    """Accuracy of a complete cell on the rows of one value of a group."""

    group: str
    value: str
    n: int
    correct: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None

    @property
    def rate(self) -> Rate:
        """Accuracy with its interval."""
        return Rate(self.accuracy, self.accuracy_low, self.accuracy_high)


@dataclass(frozen=True, kw_only=True)
class OfficialRow(CellKey):
    """One of the benchmark's own scores of a complete cell, in percent."""

    score: str
    official: float


@dataclass(frozen=True, kw_only=True)
class RotationRow(CellKey):
    """What became of a cell's questions with their options in other orders, see `pipeline.metrics.rotations`."""

    orders: int
    questions: int
    once: int
    """Questions that were asked in their own order alone."""
    accuracy: Rate
    own_order: Rate
    consistent: Rate
    all_right: Rate


@dataclass(frozen=True, kw_only=True)
class SeeingRow(CellKey):
    """Accuracy of a model with the pictures less its accuracy without them, on the same rows.

    `group` and `value` are "" for all rows. `p_holm` is corrected over the groups of the cell; of all rows it is p.
    """

    group: str
    value: str
    n: int
    direct: float
    blind: float
    unparsable: int
    """Blind answers without a label: a model that says it sees nothing is counted as wrong."""
    difference: float
    difference_low: float
    difference_high: float
    p: float
    p_holm: float

    @property
    def gain(self) -> Gain:
        """The difference as a rate."""
        return Gain(self.difference, self.difference_low, self.difference_high, n=self.n, p=self.p, p_holm=self.p_holm)


@dataclass(frozen=True, kw_only=True)
class ScalingRow(CellKey):
    """How far the accuracy of a cell is below that of the largest model asked so, on the same rows."""

    parameters_m: float
    reference: str
    """The largest model's cell."""
    n: int
    drop: Rate


@dataclass(frozen=True, kw_only=True)
class StepsRow(CellKey):
    """Accuracy on rows that want one step and on rows that want several, and the gap between, see `pipeline.metrics.steps`."""

    says: str
    """What the two are."""
    parameters_m: float | None
    single: Rate
    multi: Rate
    gap: Rate
    outside: int
    """Rows that are neither."""
    by_size: Rate | None
    """The gap less that of the largest model asked so, which is cell `size_reference`."""
    size_reference: str | None
    by_precision: Rate | None
    """The gap less that of the same model in its first precision, which is cell `precision_reference`."""
    precision_reference: str | None


@dataclass(frozen=True)
class CellPair:
    """The test of cell `a` against cell `b`; `p_holm` is corrected over all pairs of the task."""

    a: str
    b: str
    result: Annotated[Paired, SPREAD]
    p_holm: float | None = None

    @property
    def gain(self) -> Gain:
        """The difference, with the corrected p."""
        return replace(self.result.gain, p_holm=self.p_holm)

    @property
    def turned(self) -> Gain:
        """The same, of `b` against `a`."""
        one = self.gain
        low, value, high = (None if part is None else 0 - part for part in (one.high, one.value, one.low))
        return replace(one, value=value, low=low, high=high, only_a=one.only_b, only_b=one.only_a)


@dataclass(frozen=True)
class Detectable:
    """The smallest difference that n rows find with this `power` at this `alpha`, which is corrected for the pairs."""

    difference: float | None
    n: int
    discordant: float
    alpha: float
    power: float


@dataclass(frozen=True)
class TaskPairs:
    """The complete cells of a task and the tests between them, on at least n rows."""

    cells: tuple[str, ...]
    n: int
    pairs: tuple[CellPair, ...]
    detectable: Detectable


@dataclass(frozen=True)
class SweepResults:
    """All that a sweep found; `pareto` and `pairs` are by task."""

    name: str
    cells: tuple[CellRow, ...]
    counts: Mapping[str, int]
    groups: tuple[GroupRow, ...]
    official: tuple[OfficialRow, ...]
    rotations: tuple[RotationRow, ...]
    seeing: tuple[SeeingRow, ...]
    steps: tuple[StepsRow, ...]
    scaling: tuple[ScalingRow, ...]
    pareto: Mapping[str, tuple[str, ...]]
    pairs: Mapping[str, TaskPairs]


COLUMNS = tuple(one.name for one in fields(CellRow))
GROUP_COLUMNS = tuple(one.name for one in fields(GroupRow))
OFFICIAL_COLUMNS = tuple(one.name for one in fields(OfficialRow))
ROTATION_COLUMNS = tuple(one.name for one in fields(RotationRow))
SCALING_COLUMNS = tuple(one.name for one in fields(ScalingRow))
SEEING_COLUMNS = tuple(one.name for one in fields(SeeingRow))
STEPS_COLUMNS = tuple(one.name for one in fields(StepsRow))
