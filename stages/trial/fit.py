"""Find the sizes that fit a machine, and of those the fastest, from measurements that the caller makes. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import StageConfig
from pipeline.config.trainer_options import trainer_fields

MARGIN = 0.1
"""Share of the free memory that is left: allocators split blocks, and a later batch may be larger than those of the trial."""
AT_MOST = 4
"""Times a size that was measured to which the next one may go: a slope from two small sizes is little more than noise."""
ALIKE = 0.05
"""Share of the time by which a larger size has to be faster to be taken."""
EVALUATION = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Batch sizes of an evaluation that are tried."""
_FREE = {
    *("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("weight_decay", "max_grad_norm", "epsilon", "epsilon_high", "temperature", "save_steps", "save_strategy"),
    *("save_total_limit", "logging_steps", "report_to", "adam_beta1", "adam_beta2", "adam_epsilon"),
}
"""Trainer options that change neither the memory nor the time of a step."""


@dataclass(frozen=True)
class Measured:
    """What a trial of one size took."""

    memory: float
    """Bytes of one device at the peak; infinite when it ran out."""
    seconds: float
    """Of an optimizer step, or of a row that is answered."""


@dataclass(frozen=True)
class Choice:
    """What a stage is to be run with."""

    size: int
    """`per_device_train_batch_size`."""
    accumulation: int
    checkpointing: bool

    def trainer(self, stage: StageConfig) -> dict[str, Any]:
        """Return the entries of the stage's `trainer:` block that say so."""
        entries: dict[str, Any] = {
            "per_device_train_batch_size": self.size,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_checkpointing": self.checkpointing,
        }
        if steps := stage.trainer.get("steps_per_generation"):
            entries["steps_per_generation"] = int(steps) * option(stage, "per_device_train_batch_size") // self.size
        return entries


def option(stage: StageConfig, name: str) -> Any:
    """Return a trainer option of a stage, the trainer's default where it says nothing."""
    return stage.trainer.get(name, trainer_fields(stage.algorithm)[name])


def micro_batches(stage: StageConfig) -> list[int]:
    """Return the rows that a process may train at once, smallest first, with a stage's optimizer steps and rollouts as they are.

    Rows of one prompt share it in one micro-batch alone, so GRPO's sizes hold whole groups or equal parts of one.
    """
    per_device = option(stage, "per_device_train_batch_size")
    rows = [per_device * option(stage, "gradient_accumulation_steps")]
    if stage.algorithm == "grpo":
        # It divides by the tokens of a micro-batch, so another is another loss.
        if option(stage, "loss_type") == "bnpo":
            return [per_device]
        rows += [per_device * int(steps)] if (steps := stage.trainer.get("steps_per_generation")) else []
    sizes = [size for size in range(1, rows[0] + 1) if not any(one % size for one in rows)]
    if stage.algorithm == "grpo" and (group := option(stage, "num_generations")):
        sizes = [size for size in sizes if size % group == 0 or group % size == 0]
    return sizes


def shape(stage: StageConfig) -> str:
    """Return what stages have in common that take as much memory and time for a step, whatever they learn."""
    trainer = {key: value for key, value in stage.trainer.items() if key not in _FREE}
    parts = (stage.algorithm, stage.data, stage.prompt, stage.freeze, stage.shared_prefix, stage.dynamic_sampling)
    return repr((parts, stage.distill, bool(stage.learning_rates), sorted(trainer.items(), key=str)))


def measure_sizes(
    sizes: Sequence[int], start: int, measure: Callable[[int], Measured], limit: float
) -> dict[int, Measured]:
    """Measure sizes until the largest that fits is known, from `start` on and never far beyond what is known to fit.

    Args:
        sizes: smallest first.
        start: the size to begin with, or the nearest below it.
        measure: tries a size.
        limit: bytes that may be used.

    Returns:
        All that was measured; none of them need fit.
    """
    seen: dict[int, Measured] = {}

    def fits(place: int) -> bool:
        seen[sizes[place]] = measure(sizes[place])
        return seen[sizes[place]].memory <= limit

    place = max((number for number, size in enumerate(sizes) if size <= start), default=0)
    # The smallest known not to fit.
    above = len(sizes)
    while not fits(place):
        if place == 0:
            return seen
        above, place = place, place - 1
    if above == len(sizes) > place + 1 and place > 0:
        # A second size, known to fit, tells how memory grows.
        fits(place - 1)
    while place + 1 < above:
        ahead = _next(sizes, place, above, seen, limit)
        if ahead == place:
            break
        if fits(ahead):
            place = ahead
        else:
            above = ahead
    return seen


def _next(sizes: Sequence[int], place: int, above: int, seen: Mapping[int, Measured], limit: float) -> int:
    """Return the place of the largest size that is expected to fit; `place` itself when none is."""
    here = sizes[place]
    known = [size for size in seen if size < here and math.isfinite(seen[size].memory)]
    slope = max(0.0, *(((seen[here].memory - seen[size].memory) / (here - size)) for size in known)) if known else 0.0
    expected = [
        number
        for number in range(place + 1, above)
        if sizes[number] <= AT_MOST * here and seen[here].memory + slope * (sizes[number] - here) <= limit
    ]
    if not expected and place + 1 < above and sizes[place + 1] > AT_MOST * here:
        return place + 1 if seen[here].memory + slope * (sizes[place + 1] - here) <= limit else place
    return max(expected, default=place)


def best(measured: Mapping[Any, Measured], limit: float) -> Any | None:
    """Return the key of the fastest that fits; of those as fast as it, within `ALIKE`, the one with the least memory."""
    fitting = {key: one for key, one in measured.items() if one.memory <= limit}
    if not fitting:
        return None
    fastest = min(one.seconds for one in fitting.values())
    alike = [key for key, one in fitting.items() if one.seconds <= fastest * (1 + ALIKE)]
    return min(alike, key=lambda key: (fitting[key].memory, str(key)))


def measure_stage(
    stage: StageConfig, measure: Callable[[Choice], Measured], limit: float
) -> dict[tuple[int, bool], Measured]:
    """Measure micro-batches of a stage without gradient checkpointing, and with it where not all rows at once fit without.

    Args:
        stage: as the configuration has it; its rows of an optimizer step stay.
        measure: tries a choice.
        limit: bytes of a device that may be used.

    Returns:
        (micro-batch, checkpointing): what was measured.
    """
    sizes, start = micro_batches(stage), option(stage, "per_device_train_batch_size")
    measured: dict[tuple[int, bool], Measured] = {}
    for checkpointing in (False, True):
        # Checkpointing computes a third more; without it all rows at once leave nothing to gain by it.
        if checkpointing and measured.get((sizes[-1], False), Measured(math.inf, 0)).memory <= limit:
            break
        tried = functools.partial(_tried, stage, measure, checkpointing)
        found = measure_sizes(sizes, start, tried, limit)
        measured |= {(size, checkpointing): one for size, one in found.items()}
    return measured


def _tried(stage: StageConfig, measure: Callable[[Choice], Measured], checkpointing: bool, size: int) -> Measured:
    return measure(Choice(size, _rows(stage) // size, checkpointing))


def _rows(stage: StageConfig) -> int:
    """Return the rows of an optimizer step of one process."""
    return int(option(stage, "per_device_train_batch_size") * option(stage, "gradient_accumulation_steps"))


def choose(stage: StageConfig, measured: Mapping[tuple[int, bool], Measured], limit: float) -> Choice | None:
    """Return the fastest choice that fits; None when none does."""
    key = best(measured, limit)
    return None if key is None else Choice(key[0], _rows(stage) // key[0], key[1])


def step_seconds(seconds: Sequence[float], cycle: int) -> float:
    """Return the seconds of an optimizer step, from the clock at the end of each step; the first cycle warms up."""
    if len(seconds) < cycle or not seconds:
        return math.inf
    if len(seconds) == cycle:
        return seconds[-1] / cycle
    return (seconds[-1] - seconds[cycle - 1]) / (len(seconds) - cycle)
