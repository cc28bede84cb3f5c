"""What adapters learn beside the training of all weights, all else equal: accuracy, weights trained, speed and memory.

    python -m benchmarks.adapters ablations/adapters [--seeds 0 1 2] [--output-dir runs] [--into PAGE] [--table-only]

The arms (`benchmarks.equal_arms`) may differ in `model.peft`, which one of them leaves out, and in their learning rates, since
adapters need others than weights do. The others are compared with the first one at the end of the last stage (or --stage), on
the same rows. Tables and figure take the place of what stands between the marks of `adapters_<NAME>` on the page of --into.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.equal_arms import Difference, Plain, compare
from pipeline import command_line
from pipeline.config.schema import RunConfig
from pipeline.reports.entries import Entry
from pipeline.run_dir import BASE, RunDir


def problems(config: RunConfig) -> Iterator[str]:
    """Yield why a configuration tells nothing of its adapters."""
    if not config.stages:
        yield "has no stage, so nothing is trained; write one that starts from base"


def _without(plain: Plain) -> Plain:
    """Neither adapters nor learning rates."""

    def kept(stage: dict[str, Any]) -> dict[str, Any]:
        trainer = {key: value for key, value in stage["trainer"].items() if key != "learning_rate"}
        return {**stage, "trainer": trainer, "learning_rates": None}

    trained = {key: {name: kept(stage) for name, stage in plain[key].items()} for key in ("baselines", "stages")}
    return {**plain, **trained, "model": {**plain["model"], "peft": None}}


def _base_weights(run: RunDir) -> str:
    return str((run.record(BASE) or {}).get("weights", ""))


def _trained(_: RunDir, entry: Entry) -> str:
    used = entry.record.get("usage") or {}
    if "trained_parameters" not in used:
        return "–"
    return f"{used['trained_parameters']:,} ({100 * used['trained_parameters'] / used['parameters']:.2g} %)"


ADAPTERS = Difference("adapter", _without, problems, ("base model", _base_weights), ("weights trained", _trained))


def main(argv: Sequence[str] | None = None) -> int:
    """Compare adapters."""
    return compare("adapters", __doc__ or "", ADAPTERS, argv)


if __name__ == "__main__":
    sys.exit(command_line.status(main))
