"""What a training stage refuses before a worker starts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline.config.schema import DistillConfig, LaunchConfig, RunConfig, StageConfig, TaskConfig
from pipeline.errors import UserError
from pipeline.files import weights_digest, write_json
from pipeline.run_dir import RunDir
from pipeline.runs.handover import file_digests
from stages.processes.work import Work, clean
from stages.training import stage

STAGE = "stage2_grpo"
TRAINER = {"per_device_train_batch_size": 8, "steps_per_generation": 2, "num_generations": 4}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="run",
        output_dir=str(tmp_path),
        task=TaskConfig(name="scenes", options={"train": 6, "val": 1, "test": 1, "size": 32}),
        stages={STAGE: StageConfig(algorithm="grpo", init_from="base", reward_funcs=["format"], trainer=TRAINER)},
    )


def test_a_grpo_stage_whose_rows_do_not_fill_a_rollout_is_refused_with_the_number_it_needs(config):
    two = dataclasses.replace(config, launch=LaunchConfig(num_processes=2))
    work = Work(two, STAGE, RunDir(two.output_dir, two.name))
    with pytest.raises(UserError, match=r"has 6 rows, and one rollout asks 8 prompts"):
        stage.rows_as_begun(work)


def test_a_grpo_stage_with_the_rows_of_one_rollout_is_accepted(config):
    assert stage.rows_as_begun(Work(config, STAGE, RunDir(config.output_dir, config.name))).count("\n") >= 5


def test_rows_are_built_by_who_starts_a_stage_and_only_read_by_its_workers(config, monkeypatch):
    from pipeline.data import training_rows
    from pipeline.data.load import load_task

    run = RunDir(config.output_dir, config.name)
    task = load_task(config.task, run.cache)
    built = training_rows.read_or_build_rows(config, run, STAGE, task)
    stage.rows_as_begun(Work(config, STAGE, run), keep=True)
    monkeypatch.delattr(training_rows, "training_columns")
    assert training_rows.read_or_build_rows(config, run, STAGE, task) == built


def test_a_teacher_of_logits_is_recorded_and_another_one_is_named_when_the_stage_goes_on(config, tmp_path):
    base, teacher = tmp_path / "run" / "base", tmp_path / "teacher"
    for folder in (base / "final", teacher):
        write_json(folder / "config.json", {"model_type": "idefics3"})
        (folder / "model.safetensors").write_text(folder.name)
    digests = file_digests(base / "final")
    write_json(base / "stage.json", {"status": "complete", "checkpoint": "final", "weights": "w", "files": digests})
    distill = DistillConfig(teacher=str(teacher))
    sft = StageConfig(algorithm="sft", init_from="base", data="labels", prompt="direct", distill=distill)
    work = Work(dataclasses.replace(config, stages={"stage1_sft": sft}), "stage1_sft", RunDir(tmp_path, "run"))
    record = stage.teacher_record(work)
    assert record == {"teacher": {"folder": str(teacher), "weights": weights_digest(teacher)}}
    write_json(work.run.record_path("stage1_sft"), record)
    assert stage.teacher_record(work) == record
    (teacher / "model.safetensors").write_text("trained on")
    write_json(teacher / "config.json", {"model_type": "smolvlm"})
    with pytest.raises(UserError) as caught:
        stage.teacher_record(work)
    family, weights = caught.value.problems
    assert family.startswith(f"stages.stage1_sft.distill.teacher: '{teacher}' is a smolvlm, and the student")
    assert "has other weights than when stage1_sft was begun; restore them" in weights
    with pytest.raises(UserError) as caught:
        stage.check_it_can_start(work)
    # Begun again, it may learn from other weights.
    assert caught.value.problems == [family]
    assert stage.teacher_record(dataclasses.replace(work, config=config, name=STAGE)) == {}


def test_cleaning_a_stage_that_cannot_start_deletes_nothing(config, monkeypatch):
    work = Work(config, STAGE, RunDir(config.output_dir, config.name))
    kept = work.run.final(STAGE) / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("weights")
    monkeypatch.setattr(stage.command, "load_checked", lambda arguments: (config, work.run))
    with pytest.raises(UserError, match=r"has not been run; finish it first: python -m pipeline run --to base"):
        stage.main(config.stage(STAGE).algorithm, "", lambda work: None, ["--stage", STAGE, "--clean"])
    assert kept.read_text() == "weights"


def test_what_a_killed_clean_left_is_not_gone_on_from(config, monkeypatch):
    work = Work(config, STAGE, RunDir(config.output_dir, config.name))
    for left in ("checkpoint-4/complete", "start/config.json"):
        write_json(work.folder / left, {})
    monkeypatch.setattr(stage.command, "load_checked", lambda arguments: (config, work.run))
    with pytest.raises(UserError, match="has not been run"):
        stage.main(config.stage(STAGE).algorithm, "", lambda work: None, ["--stage", STAGE])
    assert [path.name for path in work.folder.iterdir()] == [".lock"]


def test_a_clean_that_is_killed_has_deleted_the_record_first(tmp_path, monkeypatch):
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    for step in range(20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    write_json(tmp_path / "stage.json", {})
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        clean(tmp_path)
    assert not (tmp_path / "stage.json").exists()
