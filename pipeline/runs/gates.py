"""Gates: what an evaluated stage must have reached before the next one starts from it, and what a miss does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.derived import asked_like_parent
from pipeline.config.schema import RunConfig, stage_key
from pipeline.errors import UserError
from pipeline.files import read_jsonl
from pipeline.metrics.classification import well_formed
from pipeline.metrics.intervals import clustered_rate, rate, wilson
from pipeline.metrics.paired_tests import cluster, judged, right
from pipeline.metrics.scores import Rate
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import parent_of


def judge(config: RunConfig, run: RunDir, name: str) -> dict[str, Any] | None:
    """Return how a phase did at its gate, from its predictions and its parent's; None for base, and where nothing is evaluated.

    Returns:
        ``action``, ``format_rate`` (``value``, ``least``), ``accuracy`` (``value``, ``least``, ``parent``; None when it is not
        judged; ``least`` is None when the parent has no answers to compare with), and ``missed``: one sentence per miss.
    """
    found = None if name == BASE else greedy_rates(run.phase(name), config.stage(name).prompt)
    if found is None:
        return None
    stage = config.stage(name)
    formed, accurate = found
    missed = []
    if formed.share < stage.gate.format_rate:
        missed.append(
            f"{formed.count} of {formed.n} greedy answers ({100 * formed.share:.1f} %) are well formed; "
            f"gate.format_rate asks for {100 * stage.gate.format_rate:.1f} %"
        )
    accuracy = None
    if accurate.n and judges_accuracy(config, name):
        parent = parent_of(config, name) or BASE
        before = greedy_rates(run.phase(parent), stage.prompt)
        least = before[1].low if before else None
        accuracy = {"value": accurate.value, "least": least, "parent": parent}
        if before and least is not None and accurate.share < least:
            missed.append(
                f"accuracy {100 * accurate.share:.1f} % lies below {100 * least:.1f} %, the lower end of the 95 % "
                f"interval of its parent {parent} ({100 * before[1].share:.1f} %)"
            )
    return {
        "action": stage.gate.action,
        "format_rate": {"value": formed.share, "least": stage.gate.format_rate},
        "accuracy": accuracy,
        "missed": missed,
    }


def judges_accuracy(config: RunConfig, name: str) -> bool:
    """Check whether a stage's accuracy is compared with its parent's: as its gate says, else where that is what it trains for."""
    stage = config.stage(name)
    if stage.gate.accuracy is not None:
        return stage.gate.accuracy
    return "accuracy" in stage.reward_funcs and asked_like_parent(config, stage)


def greedy_rates(folder: Path, style: str) -> tuple[Rate, Rate] | None:
    """Return (well-formed rate, accuracy) of a phase's greedy answers in one prompt style, with intervals; None without any.

    Accuracy is of the rows whose gold answer is published, and its interval knows which of them share a picture.
    """
    rows = [
        row for row in read_jsonl(folder / "predictions.jsonl") if row["decoding"] == "greedy" and row["style"] == style
    ]
    if not rows:
        return None
    known = judged(rows)
    accuracy = clustered_rate([right(row) for row in known], [cluster(row) for row in known])
    return rate(sum(map(well_formed, rows)), len(rows)), accuracy


def too_few_parsed(config: RunConfig, name: str, parsed: int, asked: int) -> str | None:
    """Return why the few answers of a hand-over rule out that the stage reaches its gate's format rate; None when they do not.

    A handful of rows decides nothing by its share alone, so the upper end of its 95 % interval is compared. Only a gate that
    stops is asked: the others want the whole evaluation.
    """
    gate = config.stage(name).gate
    high = wilson(parsed, asked)[1]
    if gate.action != "stop" or high is None or high >= gate.format_rate:
        return None
    return (
        f"{parsed} of {asked} greedy answers of final/ are well formed, too few for gate.format_rate {gate.format_rate}; "
        + _how_to_go_on(name)
    )


def enforce(name: str, result: dict[str, Any] | None) -> list[str]:
    """Let a stage through its gate, or not.

    Returns:
        What a person at the terminal has to be told.

    Raises:
        UserError: on a miss, when the gate's action is stop.
    """
    missed = result["missed"] if result else []
    if missed and result and result["action"] == "stop":
        raise UserError([f"{name} missed its gate: {miss}" for miss in missed] + [_how_to_go_on(name)])
    if missed and result and result["action"] == "warn":
        return [f"WARNING: {name} missed its gate: {miss}" for miss in missed]
    return []


def _how_to_go_on(name: str) -> str:
    return (
        f"no stage starts from it. Better it and start it anew with --clean {name}, or take it as it is with "
        f"{stage_key(name)}.gate.action=warn (or continue)"
    )
