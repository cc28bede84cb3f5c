"""Which phases of a run no longer hold, told from their records: deleted, made from what is gone or changed, or stopped.

A report that shows such a phase says so; a comparison leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.run_dir import COT

PREDICTIONS = "predictions.jsonl"


def doubts(
    run_root: Path, phases: Sequence[str], known: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return why each phase no longer holds, in words; a phase that does is not in it.

    Args:
        run_root: the run's folder.
        phases: phase names, parents before their children.
        known: further reasons by phase, such as a configuration that has changed since.
    """
    found: dict[str, tuple[str, ...]] = {}
    for phase in phases:
        reasons = [*(known or {}).get(phase, ()), *_of_records(run_root, phase)]
        parent = parent_phase(read_json(run_root / phase / "stage.json").get("init_from"), phases)
        if parent in found:
            reasons.append(f"its parent {parent} no longer holds")
        if reasons:
            found[phase] = tuple(dict.fromkeys(reasons))
    return found


def parent_phase(init_from: Any, phases: Sequence[str]) -> str | None:
    """Return the phase that a record's `init_from` (stage1_sft, stage1, 1) names among `phases`; None when it is none of them."""
    wanted = str(init_from or "")
    wanted = f"stage{wanted}" if wanted.isdigit() else wanted
    if not wanted or wanted in phases:
        return wanted or None
    return next((phase for phase in phases if phase.startswith(f"{wanted}_")), None)


def _of_records(run_root: Path, phase: str) -> list[str]:
    folder = run_root / phase
    record, answered = read_json(folder / "stage.json"), (folder / PREDICTIONS).is_file()
    if not record:
        return ["its record (stage.json) is gone"] if answered else []
    reasons = []
    weights = (read_json(folder / "evaluation.json").get("inputs") or {}).get("weights")
    if answered and weights and record.get("weights") and weights != record["weights"]:
        reasons.append("its answers are of other weights")
    if record.get("parent_weights"):
        name = str(record.get("init_from"))
        parent = read_json(run_root / name / "stage.json")
        handed = {parent.get("weights"), (parent.get("best") or {}).get("weights")} - {None}
        if not handed:
            reasons.append(f"its parent {name} was deleted or is being trained anew")
        elif record["parent_weights"] not in handed:
            reasons.append(f"its parent {name} now has other weights")
    if record.get("data_digest"):
        made = read_json(run_root / COT / "manifest.json").get("data_digest")
        if made != record["data_digest"]:
            reasons.append("the CoT rows are other rows now")
    return reasons
