"""Where a run stands: the state of every phase, and for the one that trains its step, ETA, rewards, clipping and last alarms.

Reads what the stages write (stage.json, progress.json, metrics.jsonl, alarms.jsonl) and nothing else, so it works beside a
running stage, after it, and on another machine that sees the folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.conductor.forecast_table import forecast_errors
from pipeline.config.schema import RunConfig
from pipeline.files import read_json, read_jsonl
from pipeline.formatting import duration
from pipeline.run_dir import COT, RunDir
from pipeline.runs.phases import phase_names
from pipeline.system.locks import is_held

RECENT = 20
"""Rows of metrics.jsonl that speed and ETA are taken from."""
ALARMS = 3
"""Alarms shown."""
STALLED = 5.0
"""Times its usual step after which a stage without a new step is called stalled, and at least a minute."""


def status(config: RunConfig, run: RunDir, now: float | None = None) -> dict[str, Any]:
    """Return where a run stands, JSON-ready.

    Args:
        now: the clock, in seconds since 1970.

    Returns:
        ``run``, ``seconds`` trained so far, and ``phases``: per phase ``name``, ``state`` (to do, incomplete, running, stopped,
        complete, …), ``evaluated``, and where it trains ``step``, ``max_steps``, ``seconds``. A running one has ``live`` too.
    """
    now = time.time() if now is None else now
    phases = [_phase(run, name, now) for name in phase_names(config)]
    return {"run": str(run.root), "seconds": sum(phase.get("seconds", 0.0) for phase in phases), "phases": phases}


def _phase(run: RunDir, name: str, now: float) -> dict[str, Any]:
    folder, record = run.phase(name), run.record(name)
    rows = list(read_jsonl(folder / "metrics.jsonl"))
    state = (record or {}).get("status", "to do")
    if state == "running" and (folder / ".lock").exists() and not in_use(folder):
        # Its process is gone; the same command goes on.
        state = "stopped"
    found: dict[str, Any] = {
        "name": name,
        "state": state,
        "evaluated": (folder / "report" / "metrics.json").exists(),
    }
    if rows:
        found |= {"step": rows[-1]["step"], "seconds": rows[-1]["seconds"]}
        found["max_steps"] = read_json(folder / "progress.json").get("max_steps")
    if rows and state in ("running", "stopped"):
        found["live"] = _live(rows, found["max_steps"], now - (folder / "metrics.jsonl").stat().st_mtime)
    alarms = list(read_jsonl(folder / "alarms.jsonl"))
    if alarms:
        found |= {"alarms": sum(row.get("event") != "end" for row in alarms), "last_alarms": alarms[-ALARMS:]}
    return found


def _live(rows: list[dict[str, Any]], max_steps: int | None, age: float) -> dict[str, Any]:
    """Speed, ETA, age of the last row in seconds, and the last value of what is worth watching."""
    recent = rows[-RECENT - 1 :]
    steps, seconds = recent[-1]["step"] - recent[0]["step"], recent[-1]["seconds"] - recent[0]["seconds"]
    pace = seconds / steps if steps > 0 and seconds > 0 else None
    tokens = [row["num_tokens"] for row in (recent[0], recent[-1]) if isinstance(row.get("num_tokens"), int | float)]
    last: dict[str, float] = {}
    # Reuse steps log no rewards, so the last row alone is not enough.
    for row in rows:
        last |= {key: value for key, value in row.items() if isinstance(value, float)}
    return {
        "age": age,
        "stalled": pace is not None and age > max(60.0, STALLED * pace),
        "step_seconds": pace,
        "eta": pace * max(0, max_steps - rows[-1]["step"]) if pace and max_steps else None,
        "tokens_per_second": (tokens[1] - tokens[0]) / seconds if len(tokens) == 2 and seconds > 0 else None,
        "last": {
            key: last[key] for key in last if key in WATCHED or key.startswith(("rewards/", "eval_", "validation"))
        },
    }


WATCHED = {
    "loss": "loss",
    "distill/cross_entropy": "cross entropy",
    "distill/kl": "KL from the teacher",
    "reward": "reward",
    "reward_std": "reward sd",
    "frac_reward_zero_std": "groups of equal reward",
    "kl": "KL",
    "entropy": "entropy",
    "grad_norm": "gradient norm",
    "clip_ratio/low_mean": "clipped low",
    "clip_ratio/high_mean": "clipped high",
    "completions/mean_length": "completion tokens",
    "completions/clipped_ratio": "cut at the maximum",
    "mean_token_accuracy": "token accuracy",
}
"""Keys of a log that are shown while a stage runs, each with its name. Beside them every reward's mean and every validation."""


def status_text(found: Mapping[str, Any]) -> str:
    """Return the status for a person: a line per phase, and below the one that trains what it does."""
    lines = []
    for phase in found["phases"]:
        step = ""
        if "step" in phase:
            of = f"/{phase['max_steps']}" if phase.get("max_steps") else ""
            step = f"step {phase['step']}{of}, {duration(phase['seconds'])}"
        evaluated = "evaluated" if phase["evaluated"] else ""
        lines.append(f"{phase['name']:<24} {phase['state']:<10} {step:<26} {evaluated}".rstrip())
        lines += [f"    {line}" for line in _live_lines(phase)]
    return "\n".join(lines)


def _live_lines(phase: Mapping[str, Any]) -> list[str]:
    lines, live = [], phase.get("live")
    if live:
        words = []
        if live["step_seconds"]:
            words.append(f"{live['step_seconds']:.2f} s a step")
        if live["eta"] is not None and phase["state"] == "running":
            words.append(f"{duration(live['eta'])} to go")
        if live["tokens_per_second"]:
            words.append(f"{live['tokens_per_second']:.0f} tokens/s")
        words.append(
            f"no step for {duration(live['age'])}" if live["stalled"] else f"last step {duration(live['age'])} ago"
        )
        lines.append(("STALLED? " if live["stalled"] and phase["state"] == "running" else "") + ", ".join(words))
        rewards = {
            key: value for key, value in live["last"].items() if key.startswith("rewards/") and key.endswith("mean")
        }
        named = {key.split("/")[1].removesuffix("_reward"): value for key, value in rewards.items()}
        other = {name: live["last"][key] for key, name in WATCHED.items() if key in live["last"]}
        checked = {key: value for key, value in live["last"].items() if key.startswith(("eval_", "validation"))}
        for group, values in (("rewards", named), ("now", other), ("validation", checked)):
            if values:
                lines.append(f"{group}: " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
    if phase.get("alarms"):
        lines.append(f"{phase['alarms']} alarms, the last:")
        for row in phase["last_alarms"]:
            ended = "over: " if row.get("event") == "end" else ""
            lines.append(f"  step {row.get('step')}: {ended}{row.get('text') or row.get('alarm')}")
    return lines


def show(config: RunConfig, run: RunDir, *, as_json: bool = False, every: float | None = None) -> None:
    """Print the status once, or every `every` seconds in place until the last phase is evaluated or Ctrl-C."""
    while True:
        found = status(config, run)
        text = json.dumps(_finite(found), ensure_ascii=False) if as_json else status_text(found)
        told = "" if as_json else forecast_errors(config, run)
        clear = "\x1b[H\x1b[2J" if every and not as_json else ""
        print(clear + text + (f"\n\n{told}" if told else ""), flush=True)
        if every is None or all(phase["evaluated"] for phase in found["phases"] if phase["name"] != COT):
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            return


def _finite(value: Any) -> Any:
    """A value with null in place of NaN and infinities, which JSON does not know and a loss may be."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_use(folder: Path) -> bool:
    """Check whether a stage or a builder holds the lock of its folder."""
    locks = (folder / ".lock", *folder.glob("journal/lock"), *folder.glob("shards/*/journal/lock"))
    return any(map(is_held, locks))
