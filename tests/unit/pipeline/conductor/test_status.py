"""`status`: what a person sees of a run that waits, trains, stalls, was killed, or is done."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import __main__
from pipeline.conductor.status import status, status_text
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.files import write_json
from pipeline.run_dir import RunDir

STAGE = "stage2_grpo_format"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load("demo_scenes", [f"output_dir={tmp_path}"])


@pytest.fixture
def run(tmp_path: Path, config: RunConfig) -> RunDir:
    """A run whose second stage has taken 30 of 100 steps, two seconds each."""
    run = RunDir(tmp_path, config.name)
    write_json(run.record_path("stage1_sft"), {"status": "complete"})
    write_json(run.record_path(STAGE), {"status": "running"})
    write_json(run.phase(STAGE) / "progress.json", {"max_steps": 100})
    rows = [{"step": step, "seconds": 2.0 * step, "loss": 0.1, "num_tokens": 1000.0 * step} for step in range(1, 31)]
    rows[28] |= {"reward": 0.75, "rewards/format_reward/mean": 0.5, "rewards/format_reward/std": 0.1}
    # a step that uses the rollout again
    rows[29] |= {"clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.015}
    write_rows(run, rows)
    return run


def write_rows(run: RunDir, rows: list[dict[str, Any]]) -> None:
    (run.phase(STAGE) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def phase(config: RunConfig, run: RunDir, age: float = 0.0) -> dict[str, Any]:
    now = (run.phase(STAGE) / "metrics.jsonl").stat().st_mtime + age
    return next(entry for entry in status(config, run, now)["phases"] if entry["name"] == STAGE)


def test_a_running_stage_tells_its_step_pace_and_time_to_go(config: RunConfig, run: RunDir) -> None:
    found = phase(config, run, age=3.0)
    assert (found["state"], found["step"], found["max_steps"]) == ("running", 30, 100)
    assert found["live"]["step_seconds"] == pytest.approx(2.0)
    assert found["live"]["eta"] == pytest.approx(140.0)
    assert found["live"]["tokens_per_second"] == pytest.approx(500.0)
    assert found["live"]["age"] == pytest.approx(3.0)
    assert not found["live"]["stalled"]


def test_the_last_rewards_are_shown_after_steps_that_log_none(config: RunConfig, run: RunDir) -> None:
    text = status_text(status(config, run))
    assert "rewards: format 0.5" in text
    assert "reward 0.75" in text
    assert "clipped low 0  clipped high 0.015" in text
    assert "step 30/100, 60 s" in text


def test_of_two_phases_at_once_each_tells_its_own_step(config: RunConfig, run: RunDir) -> None:
    beside = "baseline_sft_labels"
    write_json(run.record_path(beside), {"status": "running"})
    write_json(run.phase(beside) / "progress.json", {"max_steps": 8})
    (run.phase(beside) / "metrics.jsonl").write_text('{"step": 1, "seconds": 1.0}\n{"step": 2, "seconds": 4.0}\n')
    running = [entry for entry in status(config, run)["phases"] if entry["state"] == "running"]
    assert [(one["name"], one["step"], one["live"]["step_seconds"]) for one in running] == [
        (beside, 2, 3.0),
        (STAGE, 30, 2.0),
    ]
    text = status_text(status(config, run))
    assert "step 2/8" in text
    assert "step 30/100" in text


def test_a_stage_without_a_new_step_for_long_is_called_stalled(config: RunConfig, run: RunDir) -> None:
    assert not phase(config, run, age=50.0)["live"]["stalled"]
    found = phase(config, run, age=720.0)
    assert found["live"]["stalled"]
    assert "STALLED? 2.00 s a step, 2.3 min to go, 500 tokens/s, no step for 12.0 min" in status_text(
        {"phases": [found]}
    )


def test_a_stage_whose_process_is_gone_is_stopped_and_one_that_lives_is_not(config: RunConfig, run: RunDir) -> None:
    with (run.phase(STAGE) / ".lock").open("w") as lock:
        assert phase(config, run)["state"] == "stopped"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert phase(config, run)["state"] == "running"


def test_the_last_alarms_are_shown_with_how_many_there_are(config: RunConfig, run: RunDir) -> None:
    rows = [{"step": step, "alarm": "kl", "text": f"KL is {step}"} for step in range(1, 6)]
    rows.append({"step": 9, "alarm": "kl", "event": "end", "text": "KL is 0"})
    (run.phase(STAGE) / "alarms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = status_text(status(config, run))
    assert "5 alarms" in text
    assert "step 5: KL is 5" in text
    assert "step 9: over: KL is 0" in text
    assert "KL is 2" not in text


def test_the_status_is_json_on_demand(config: RunConfig, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with (run.phase(STAGE) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "seconds": 5000.0, "loss": NaN, "grad_norm": Infinity}\n')
    assert __main__.main(["status", "--json", "--config", "demo_scenes", f"output_dir={run.root.parent}"]) == 0
    # Every reader's JSON, which has no NaN.
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    last = next(entry["live"]["last"] for entry in found["phases"] if entry["name"] == STAGE)
    assert (last["loss"], last["grad_norm"]) == (None, None)
    assert {entry["name"]: entry["state"] for entry in found["phases"]}[STAGE] == "running"


def test_watching_ends_when_everything_is_evaluated(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "baseline_sft_labels", "stage1_sft", STAGE, "stage3_grpo_accuracy", "stage4_clgrpo"):
        write_json(run.record_path(name), {"status": "complete"})
        write_json(run.phase(name) / "report" / "metrics.json", {})
    assert __main__.main(["status", "--config", "demo_scenes", f"output_dir={run.root.parent}", "--watch", "0.01"]) == 0
    assert capsys.readouterr().out.count("stage4_clgrpo") == 1


def test_the_time_to_watch_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["status", "--watch", "name=a"])
    assert "'name=a' is no number of seconds above 0" in capsys.readouterr().err


def test_reading_the_status_changes_no_file(config: RunConfig, run: RunDir) -> None:
    files = [path for path in run.root.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (1, 1))
    status(config, run, time.time())
    assert {path.stat().st_mtime for path in run.root.rglob("*") if path.is_file()} == {1.0}
