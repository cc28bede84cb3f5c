"""The arithmetic of a forecast: time, memory and disk from a few steps, what does not fit, and how far off it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.conductor.forecast import Asking, Trial, errors, forecast, size
from pipeline.conductor.forecast_table import forecast_errors, forecast_table
from pipeline.config.loader import load
from pipeline.files import digest, write_json
from pipeline.run_dir import RunDir
from pipeline.runs.phases import phase_inputs

GB = 10**9
SFT = Trial(
    steps=100,
    cycle=1,
    # the first step warms up
    seconds=[5.0, 7.0, 9.0],
    startup=20.0,
    save=1.0,
    handover=3.0,
    peak_memory=[4 * GB, 5 * GB],
    checkpoint=2 * GB,
    final=1 * GB,
    save_steps=25,
    save_total_limit=2,
)
ASKING = Asking(batches=10, tokens=(8, 32), seconds=(1.0, 4.0), startup=15.0)


def of(trials: dict[str, Trial], memory: int = 80 * GB, shared: int = 1, disk: int = 100 * GB) -> dict:
    return forecast(trials, dict.fromkeys(trials, (32,)), ASKING, memory, shared, disk)


def test_time_is_the_usual_step_times_the_steps_and_what_surrounds_them() -> None:
    entry = of({"stage1_sft": SFT})["stages"]["stage1_sft"]
    assert entry["step_seconds"] == 2.0
    # 100 usual steps, what the first takes longer, and the three checkpoints before the last.
    assert entry["training_seconds"] == pytest.approx(100 * 2.0 + 3.0 + 3 * 1.0)
    assert entry["evaluation_seconds"] == pytest.approx(15.0 + 10 * 4.0)
    assert entry["seconds"] == pytest.approx(20.0 + 206.0 + 3.0 + 55.0)


def test_a_rollout_is_timed_whole_because_its_steps_differ() -> None:
    grpo = dataclasses.replace(
        SFT, cycle=4, steps=40, seconds=[9, 10, 11, 12, 20, 21, 22, 23, 31, 32, 33, 34], save_steps=0
    )
    entry = of({"stage4_clgrpo": grpo})["stages"]["stage4_clgrpo"]
    assert entry["step_seconds"] == 11 / 4
    assert entry["training_seconds"] == pytest.approx(10 * 11 + 1)


def test_one_cycle_alone_is_taken_as_it_is() -> None:
    one = dataclasses.replace(SFT, seconds=[5.0], save_steps=0)
    assert of({"stage1_sft": one})["stages"]["stage1_sft"]["training_seconds"] == 500.0


def test_answers_of_another_length_lie_on_the_line_between_those_measured() -> None:
    assert ASKING.batch_seconds(20) == pytest.approx(2.5)
    assert Asking(1, (8, 8), (1.0, 1.0), 0).batch_seconds(32) == 1.0


@pytest.mark.parametrize(
    ("save_steps", "kept", "peak"), [(25, 2, 3), (50, 2, 2), (100, 1, 1), (0, 0, 0)], ids=["4", "2", "1", "none"]
)
def test_disk_counts_the_checkpoint_that_is_written_before_the_oldest_goes(
    save_steps: int, kept: int, peak: int
) -> None:
    entry = of({"stage1_sft": dataclasses.replace(SFT, save_steps=save_steps)})["stages"]["stage1_sft"]
    assert entry["disk_kept_bytes"] == kept * 2 * GB + GB
    assert entry["disk_peak_bytes"] == peak * 2 * GB + GB


def test_the_run_needs_what_earlier_stages_keep_and_the_peak_of_the_one_that_trains() -> None:
    assert of({"stage1_sft": SFT, "stage2_grpo": SFT})["disk_bytes"] == 5 * GB + 7 * GB


def test_a_stage_too_large_for_its_device_is_a_problem_with_its_cure() -> None:
    assert of({"stage1_sft": SFT}, memory=6 * GB)["problems"] == []
    (problem,) = of({"stage1_sft": SFT}, memory=5 * GB)["problems"]
    assert problem.startswith("stage1_sft: needs 5.0 GB of the 5.0 GB")
    assert "per_device_train_batch_size" in problem
    # both processes on one CPU machine
    (problem,) = of({"stage1_sft": SFT}, memory=8 * GB, shared=2)["problems"]
    assert "needs 10.0 GB" in problem


def test_a_trial_that_ran_out_of_memory_is_a_problem_and_the_others_are_still_forecast() -> None:
    dead = Trial(0, 1, (), 0, 0, 0, (), 0, 0, 0, 0, too_large="CUDA out of memory")
    found = of({"stage1_sft": dead, "stage2_grpo": SFT})
    (problem,) = found["problems"]
    assert problem.startswith("stage1_sft: does not fit into 80.0 GB of memory (CUDA out of memory)")
    assert found["stages"]["stage2_grpo"]["steps"] == 100


def test_a_stage_whose_rows_fill_no_rollout_is_a_problem() -> None:
    found = of({"stage1_sft": SFT, "stage2_grpo": dataclasses.replace(SFT, seconds=[])})
    (problem,) = found["problems"]
    assert problem.startswith("stage2_grpo: takes no step")
    assert found["stages"]["stage2_grpo"]["seconds"] == found["stages"]["stage2_grpo"]["evaluation_seconds"]


def test_disk_counts_what_a_soft_prompt_starts_from() -> None:
    entry = of({"stage1_sft": dataclasses.replace(SFT, start=GB)})["stages"]["stage1_sft"]
    plain = of({"stage1_sft": SFT})["stages"]["stage1_sft"]
    assert [entry[key] - plain[key] for key in ("disk_kept_bytes", "disk_peak_bytes")] == [GB, GB]


def test_too_little_disk_is_a_problem() -> None:
    (problem,) = of({"stage1_sft": SFT}, disk=6 * GB)["problems"]
    assert problem.startswith("the run writes up to 7.0 GB and 6.0 GB are free")


def test_errors_are_relative_to_what_was_measured() -> None:
    entry = {"training_seconds": 120.0, "evaluation_seconds": 30.0, "peak_memory_bytes": 9, "checkpoint_bytes": 4}
    record = {"seconds": 100.0, "usage": {"peak_memory_bytes": [8, 10], "checkpoint_bytes": 4}}
    found = errors(entry, record, {})
    assert found["training"]["error"] == pytest.approx(0.2)
    assert found["memory"] == {"forecast": 9, "measured": 10, "error": pytest.approx(-0.1)}
    assert found["checkpoint"]["error"] == 0
    # not evaluated yet
    assert "evaluation" not in found
    assert errors(entry, {"status": "running"}, {}) == {}


def test_a_finished_run_is_told_how_far_off_its_forecast_was(tmp_path: Path) -> None:
    config, run = load("demo", [f"output_dir={tmp_path}"]), RunDir(tmp_path, "demo")
    assert forecast_errors(config, run) == ""
    entry = {**of({"stage1_sft": SFT})["stages"]["stage1_sft"], "inputs": digest(phase_inputs(config, "stage1_sft"))}
    write_json(run.root / "forecast.json", {"stages": {"stage1_sft": entry, "stage2_grpo_format": {"inputs": "other"}}})
    assert forecast_errors(config, run) == ""
    write_json(run.record_path("stage1_sft"), {"status": "complete", "seconds": 412.0})
    write_json(run.record_path("stage2_grpo_format"), {"status": "complete", "seconds": 1.0})
    told = forecast_errors(config, run)
    assert "3.4 min -> 6.9 min (-50 %)" in told
    assert "stage2_grpo_format" in told
    assert "other settings" in told


def test_the_table_names_every_phase_and_what_was_assumed() -> None:
    dead = Trial(0, 1, (), 0, 0, 0, (), 0, 0, 0, 0, too_large="out of memory")
    trials = {"stage1_sft": SFT, "stage2_grpo": dead}
    found = forecast(trials, {"base": [32, 8], **dict.fromkeys(trials, (32,))}, ASKING, 80 * GB, 1, 100 * GB)
    lines = forecast_table({**found, "device": "gpu", "assumptions": ["no other user"]}).splitlines()
    by_phase = {line.split()[0]: line for line in lines if line}
    assert "100" in by_phase["stage1_sft"]
    assert "5.0 GB" in by_phase["stage1_sft"]
    assert "does not fit" in by_phase["stage2_grpo"]
    assert "base" in by_phase
    assert lines[-1] == "assumed: no other user"


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (1500, "2 kB"), (999_499_999, "999 MB"), (1.5e12, "1.5 TB")])
def test_bytes_are_said_as_a_person_says_them(count: float, said: str) -> None:
    assert size(count) == said
