"""What a run will take, from what two steps of every stage took: time, peak memory and disk. Plain arithmetic, no files.

`stages.preflight` measures a `Trial` per stage and an `Asking` for the evaluation; `forecast` says what follows from them, and
`errors` how far that was from what a finished stage recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FULL = 0.95
"""Share of a device's memory above which a stage counts as not fitting: torch's allocator and the driver need the rest."""


@dataclass(frozen=True)
class Trial:
    """What a few real steps of one stage took, and how many it will take in all."""

    steps: int
    """Optimizer steps of the whole stage, as its trainer computes them."""
    cycle: int
    """Optimizer steps per rollout (1 for SFT)."""
    seconds: Sequence[float]
    """Clock at the end of each step of the trial, from the beginning of its training."""
    startup: float
    """Seconds from starting the workers to the first step."""
    save: float
    """Seconds of writing a checkpoint."""
    handover: float
    """Seconds from the last checkpoint to the finished record."""
    peak_memory: Sequence[int]
    """Bytes per process."""
    checkpoint: int
    """Bytes of a checkpoint."""
    final: int
    """Bytes of the weights it hands over."""
    save_steps: int
    """Steps between checkpoints; 0 when none is written."""
    save_total_limit: int
    """Checkpoints that are kept."""
    start: int = 0
    """Bytes of the checkpoint with an untrained soft prompt that it writes first; 0 where it tunes none."""
    too_large: str | None = None
    """How the trial ended when there was no memory for it; then only steps and cycle are known."""


@dataclass(frozen=True)
class Asking:
    """What a batch of the evaluation took, at two lengths."""

    batches: int
    """Batches of one pass that the busiest process answers."""
    tokens: tuple[int, int]
    """A short and a long number of tokens per answer."""
    seconds: tuple[float, float]
    """Seconds of a batch at each."""
    startup: float
    """Seconds from starting the workers to the first batch."""

    def batch_seconds(self, tokens: int) -> float:
        """Return seconds of a batch whose longest answer has `tokens` tokens: linear between what was measured."""
        (few, many), (short, long) = self.tokens, self.seconds
        slope = max(0.0, (long - short) / (many - few)) if many > few else 0.0
        return max(0.0, short + slope * (tokens - few))


def forecast(
    trials: Mapping[str, Trial],
    passes: Mapping[str, Sequence[int]],
    asking: Asking,
    memory: int,
    shared: int,
    disk_free: int,
) -> dict[str, Any]:
    """Return what a run will take.

    Args:
        trials: per stage, in order.
        passes: phase (also one without a trial, such as base) to the tokens of an answer in each pass over the rows.
        asking: what a batch of answers took.
        memory: bytes of memory of one device.
        shared: processes that share it (1 per GPU; all of them on a CPU).
        disk_free: bytes free where the run is written.

    Returns:
        ``stages`` (seconds, memory and disk of each), ``seconds`` of the whole run without building CoT rows,
        ``disk_bytes`` it needs at most at one time, and ``problems``: one sentence with its cure per thing that does not fit.
    """
    stages: dict[str, dict[str, Any]] = {}
    problems, kept, most = [], 0, 0
    for name, tokens in passes.items():
        evaluation = asking.startup + sum(asking.batches * asking.batch_seconds(count) for count in tokens)
        entry: dict[str, Any] = {"evaluation_seconds": evaluation, "seconds": evaluation}
        trial = trials.get(name)
        if trial is not None and trial.too_large is None and len(trial.seconds) < trial.cycle:
            problems.append(
                f"{name}: takes no step: its rows do not fill one rollout, and TRL leaves out one that is not full; add rows, or "
                "lower trainer.per_device_train_batch_size or steps_per_generation"
            )
        elif trial is not None and trial.too_large is None:
            entry = {**_stage(trial), "evaluation_seconds": evaluation}
            entry["seconds"] = trial.startup + entry["training_seconds"] + trial.handover + evaluation
            most = max(most, kept + entry["disk_peak_bytes"])
            kept += entry["disk_kept_bytes"]
            need = max(trial.peak_memory) * shared
            if need > FULL * memory:
                problems.append(
                    f"{name}: needs {size(need)} of the {size(memory)} there are, more than {FULL:.0%}; {MEMORY_CURE}"
                )
        elif trial is not None:
            problems.append(f"{name}: does not fit into {size(memory)} of memory ({trial.too_large}); {MEMORY_CURE}")
            entry["too_large"] = trial.too_large
        stages[name] = entry
    if most > disk_free:
        problems.append(
            f"the run writes up to {size(most)} and {size(disk_free)} are free; set output_dir to a larger disk, or lower the "
            "stages' trainer.save_total_limit (to 2 at least)"
        )
    return {
        "stages": stages,
        "seconds": sum(entry["seconds"] for entry in stages.values()),
        "disk_bytes": most,
        "disk_free_bytes": disk_free,
        "memory_bytes": memory,
        "problems": problems,
    }


MEMORY_CURE = (
    "halve trainer.per_device_train_batch_size and double gradient_accumulation_steps (the global batch stays the same), set "
    "gradient_checkpointing: true, shorten max_completion_length, or train with model.peft or launch.deepspeed: zero3"
)


def _stage(trial: Trial) -> dict[str, Any]:
    """Seconds, memory and disk of one stage whose trial ran."""
    cycles = [
        trial.seconds[end - 1] - (trial.seconds[end - trial.cycle - 1] if end > trial.cycle else 0.0)
        for end in range(trial.cycle, len(trial.seconds) + 1, trial.cycle)
    ]
    # A checkpoint is written in a step's time, but the trial writes its only one after the last step.
    usual = sum(cycles[1:]) / len(cycles[1:]) if len(cycles) > 1 else cycles[0]
    saves = math.ceil(trial.steps / trial.save_steps) if trial.save_steps else 0
    training = trial.steps / trial.cycle * usual + max(0.0, cycles[0] - usual) + max(0, saves - 1) * trial.save
    return {
        "steps": trial.steps,
        "step_seconds": usual / trial.cycle,
        "startup_seconds": trial.startup,
        "training_seconds": training,
        "peak_memory_bytes": max(trial.peak_memory),
        "checkpoint_bytes": trial.checkpoint,
        "disk_kept_bytes": min(saves, trial.save_total_limit) * trial.checkpoint + trial.final + trial.start,
        # The oldest checkpoint is deleted only when the new one is whole.
        "disk_peak_bytes": min(saves, trial.save_total_limit + 1) * trial.checkpoint + trial.final + trial.start,
        "trial": asdict(trial),
    }


MEASURED = {
    "training": ("training_seconds", lambda record, evaluation: record.get("seconds")),
    "evaluation": ("evaluation_seconds", lambda record, evaluation: evaluation.get("seconds")),
    "memory": ("peak_memory_bytes", lambda record, evaluation: max(_used(record, "peak_memory_bytes") or [0]) or None),
    "checkpoint": ("checkpoint_bytes", lambda record, evaluation: _used(record, "checkpoint_bytes")),
}
"""What is compared: its name, its key in a forecast, and where a finished phase has it (stage.json, evaluation.json)."""


def errors(
    forecast: Mapping[str, Any], record: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Forecast against measured for one finished phase.

    Args:
        forecast: the phase's entry in ``stages`` of a forecast.
        record: its stage.json.
        evaluation: its evaluation.json; empty before it is evaluated.

    Returns:
        Per thing that both have: ``forecast``, ``measured`` and ``error``, (forecast - measured) / measured.
    """
    found = {}
    for name, (key, measured_of) in MEASURED.items():
        expected, measured = forecast.get(key), measured_of(record, evaluation)
        if expected and measured:
            error = (expected - measured) / measured
            found[name] = {"forecast": expected, "measured": measured, "error": error}
    return found


def _used(record: Mapping[str, Any], key: str) -> Any:
    return (record.get("usage") or {}).get(key)


def size(count: float) -> str:
    """Return bytes as a person says them: 1.5 GB."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 999.5 else f"{count / 1000:.1f} TB"
