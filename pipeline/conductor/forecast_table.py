"""A forecast as a table for a person, and afterwards how far off it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.conductor.forecast import errors, size
from pipeline.config.schema import RunConfig
from pipeline.files import digest, read_json
from pipeline.formatting import duration
from pipeline.reports.table import align_columns
from pipeline.run_dir import RunDir
from pipeline.runs.phases import phase_inputs, trained_phases


def forecast_table(found: Mapping[str, Any]) -> str:
    """Return the forecast of a run: a line per phase, the totals, what was assumed."""
    rows: list[tuple[str, ...]] = [
        ("phase", "steps", "s/step", "start-up", "training", "evaluation", "total", "memory", "checkpoint", "kept")
    ]
    for name, entry in found["stages"].items():
        if "too_large" in entry:
            rows.append((name, *["does not fit"], *[""] * 8))
            continue
        trained = (
            (
                str(entry["steps"]),
                f"{entry['step_seconds']:.2f}",
                duration(entry["startup_seconds"]),
                duration(entry["training_seconds"]),
            )
            if "steps" in entry
            else ("", "", "", "")
        )
        used = [size(entry[key]) if key in entry else "" for key in _SIZES]
        rows.append((name, *trained, duration(entry["evaluation_seconds"]), duration(entry["seconds"]), *used))
    per = "GPU" if found["device"] == "gpu" else "process"
    lines = [
        "",
        align_columns(rows),
        f"in all {duration(found['seconds'])}; up to {size(found['disk_bytes'])} of disk, of "
        f"{size(found['disk_free_bytes'])} free; memory is the peak per {per}, of {size(found['memory_bytes'])}",
        *(f"assumed: {text}" for text in found["assumptions"]),
    ]
    return "\n".join(lines)


_SIZES = ("peak_memory_bytes", "checkpoint_bytes", "disk_kept_bytes")


def forecast_errors(config: RunConfig, run: RunDir) -> str:
    """Return how far the run's forecast was off, per finished phase; empty without a forecast or a finished phase."""
    stages = read_json(run.root / "forecast.json").get("stages", {})
    rows: list[tuple[str, ...]] = [("forecast -> measured", "training", "evaluation", "memory", "checkpoint")]
    for name in trained_phases(config):
        record, evaluation = run.record(name) or {}, read_json(run.phase(name) / "evaluation.json")
        entry = stages.get(name, {})
        if record.get("status") != "complete":
            continue
        if "inputs" in entry and entry["inputs"] != digest(phase_inputs(config, name)):
            rows.append((name, "other settings than when it was forecast", "", "", ""))
            continue
        found = errors(entry, record, evaluation)
        if found:
            rows.append((name, *(_error(found.get(key), key) for key in rows[0][1:])))
    return align_columns(rows) if len(rows) > 1 else ""


def _error(found: Mapping[str, float] | None, key: str) -> str:
    if found is None:
        return ""
    say = size if key in ("memory", "checkpoint") else duration
    return f"{say(found['forecast'])} -> {say(found['measured'])} ({100 * found['error']:+.0f} %)"
