"""`kill -9` of the conductor in each phase, two at once among them, then the same command: the bits of an undisturbed run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from small_runs import AT_ONCE, QUICK, Small, steps, weights

from pipeline.files import file_digest, read_jsonl
from pipeline.run_dir import RunDir

pytestmark = pytest.mark.slow
BASELINE, STAGE1 = "baseline_sft_labels", "stage1_sft"


def exists(path: Path) -> Callable[[], bool]:
    return path.exists


def test_killed_in_every_phase_a_run_ends_as_if_undisturbed(
    small: Small, whole_run: tuple[RunDir, str], tmp_path: Path
):
    undisturbed, _ = whole_run
    short = tmp_path / "until_stage1.yaml"
    whole = yaml.safe_load(small.config.read_text())
    short.write_text(yaml.safe_dump({**whole, "stages": {STAGE1: whole["stages"][STAGE1]}}))
    small = replace(small, config=short)
    run = small.run_dir("killed")
    part = run.phase(BASELINE) / "predictions.part0.jsonl"
    moments = {
        "cot": exists(run.cot / "journal"),
        "base": exists(run.final("base") / "config.json"),
        BASELINE: exists(run.phase(BASELINE) / "checkpoint-4" / "complete"),
        "evaluation": lambda: part.exists() and part.stat().st_size > 0,
    }
    for phase, moment in moments.items():
        code, output = small.end_when(moment, signal.SIGKILL, "pipeline run", AT_ONCE, name="killed")
        assert code == -signal.SIGKILL
        if phase in ("base", BASELINE):
            assert (run.record(phase) or {"status": "running"})["status"] == "running", output
    answered = part.read_bytes().rpartition(b"\n")[0].decode().splitlines()
    assert 0 < len(answered) < 32
    small.run("pipeline run", AT_ONCE, name="killed")

    assert file_digest(run.cot / "train.parquet") == file_digest(undisturbed.cot / "train.parquet")
    trained = (BASELINE, STAGE1)
    assert weights(run, "base", *trained) == weights(undisturbed, "base", *trained)
    assert [steps(run, name) for name in trained] == [steps(undisturbed, name) for name in trained]
    for name in ("base", *trained):
        answers = [list(read_jsonl(folder.phase(name) / "predictions.jsonl")) for folder in (run, undisturbed)]
        assert answers[0] == answers[1]
    assert list(run.phase(BASELINE).glob("predictions.part*")) == []


def test_ctrl_c_saves_the_step_it_came_in_and_the_same_command_goes_on(small: Small, whole_run: tuple[RunDir, str]):
    undisturbed, _ = whole_run
    run = small.copy_of("small", "interrupted", "base", "cot")

    def a_step_is_taken() -> bool:
        return bool(steps(run, BASELINE))

    code, output = small.end_when(
        a_step_is_taken, signal.SIGINT, "pipeline run", AT_ONCE, name="interrupted", group=True
    )
    assert code == 130
    assert f"kept up to step {steps(run, BASELINE)[-1]}" in output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    # Of both that ran, none is left at work.
    assert [(run.record(name) or {"status": "running"})["status"] for name in (BASELINE, STAGE1)] == ["running"] * 2
    kept = len(steps(run, BASELINE))

    def a_step_more_is_taken() -> bool:
        return len(steps(run, BASELINE)) > kept

    # As of a terminal that closes, and to the conductor alone.
    code, output = small.end_when(a_step_more_is_taken, signal.SIGHUP, "pipeline run", AT_ONCE, name="interrupted")
    assert code == 130
    assert f"kept up to step {steps(run, BASELINE)[-1]}" in output
    taken = (run.phase(BASELINE) / "metrics.jsonl").read_text()
    small.run("stages.sft", "--stage", "baseline", name="interrupted")
    # No step was taken twice.
    assert (run.phase(BASELINE) / "metrics.jsonl").read_text().startswith(taken)
    assert steps(run, BASELINE) == steps(undisturbed, BASELINE)
    assert weights(run, BASELINE) == weights(undisturbed, BASELINE)


def test_a_changed_picture_is_named_before_a_finished_stage_is_taken_as_it_is(
    small: Small, whole_run: tuple[RunDir, str], tmp_path: Path
):
    from PIL import Image

    own = replace(small, root=tmp_path)
    run = own.run_dir("changed")
    for phase in ("base", "cot", BASELINE):
        shutil.copytree(small.run_dir().phase(phase), run.phase(phase))
    shutil.copytree(small.run_dir().cache, run.cache)
    pictures = [path for path in run.cache.rglob("*") if path.suffix in (".png", ".jpg")]
    assert pictures
    for path in pictures:
        Image.new("RGB", (64, 64), "black").save(path)
    output = own.run("stages.sft", "--stage", "baseline", name="changed", code=2)
    assert "96 of 96 images changed (first: " in output
    assert "--clean" in output
    assert run.record(BASELINE)["status"] == "complete"


def test_a_save_that_finds_no_room_fails_with_the_log_and_is_mended_by_the_same_command(
    small: Small, whole_run: tuple[RunDir, str]
):
    """A limit on the size of files stands for the full disk."""
    import resource

    undisturbed, _ = whole_run
    run = small.copy_of("small", "full", "base", "cot")
    room = (undisturbed.final("base") / "model.safetensors").stat().st_size // 2

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    stage = ("stages.sft", "--stage", "baseline", *QUICK)
    output = small.run(*stage, name="full", code=2, preexec_fn=no_room)
    assert "sft-001" in output
    assert "the same command goes on" in output.lower()
    assert "once there is room" in output
    assert run.record(BASELINE)["status"] == "running"
    assert list(run.phase(BASELINE).glob("checkpoint-*/complete")) == []
    small.run(*stage, name="full")
    assert weights(run, BASELINE) == weights(undisturbed, BASELINE)


@pytest.mark.nightly
def test_data_processes_give_the_same_batches_before_and_after_a_kill(small: Small, whole_run: tuple[RunDir, str]):
    undisturbed, _ = whole_run
    run = small.copy_of("small", "forked", "base", "cot")
    baseline = ("--stage", "baseline", "baselines.sft_labels.trainer.dataloader_num_workers=2")
    data: list[psutil.Process] = []

    def worker(entry: psutil.Process) -> psutil.Process:
        (found,) = entry.children()
        data.extend(found.children())
        return found

    saved = exists(run.phase(BASELINE) / "checkpoint-4" / "complete")
    code, output = small.end_when(saved, signal.SIGKILL, "stages.sft", *baseline, name="forked", victim=worker)
    assert code == 2, output
    assert len(data) == 2
    small.run("stages.sft", *baseline, name="forked")
    assert steps(run, BASELINE) == steps(undisturbed, BASELINE)
    assert weights(run, BASELINE) == weights(undisturbed, BASELINE)


@pytest.mark.nightly
def test_ctrl_c_in_grpo_with_data_processes_leaves_none_and_the_same_command_goes_on(
    small: Small, whole_run: tuple[RunDir, str]
):
    undisturbed, _ = whole_run
    name = "stage2_grpo_format"
    run = small.copy_of("small", "forked_grpo", "base", "cot", "stage1_sft")
    stage = ("stages.grpo", "--stage", "2", "stages.stage2.trainer.dataloader_num_workers=2")

    def a_step_is_taken() -> bool:
        return bool(steps(run, name))

    code, output = small.end_when(a_step_is_taken, signal.SIGINT, *stage, name="forked_grpo", group=True)
    assert code == 130, output
    small.run(*stage, name="forked_grpo")
    assert steps(run, name) == steps(undisturbed, name)
    assert weights(run, name) == weights(undisturbed, name)
