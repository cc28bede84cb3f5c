"""A stage starts from a checkpoint only when the parent's record proves it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import UserError
from pipeline.handoff import checkpoint, parent_checkpoint
from pipeline.phases import start_record
from pipeline.run import BASE, RunDir, weights_digest, write_json


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose stage 1 is complete and whose base lies elsewhere, as a hub model does."""
    run = RunDir(tmp_path / "runs", "demo")
    for name, folder in ((BASE, tmp_path / "hub"), ("stage1_sft", run.final("stage1_sft"))):
        folder.mkdir(parents=True)
        for file in ("config.json", "generation_config.json", "processor_config.json"):
            (folder / file).write_text("{}")
        (folder / "model.safetensors").write_bytes(name.encode())
        where = "final" if name != BASE else str(folder)
        write_json(
            run.record_path(name), {"status": "complete", "checkpoint": where, "weights": weights_digest(folder)}
        )
    return run


def told(run: RunDir, name: str) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint(run, name)
    return "\n".join(caught.value.problems)


def test_a_complete_stage_hands_over_its_folder(run: RunDir) -> None:
    assert checkpoint(run, "stage1_sft") == run.final("stage1_sft")


def test_a_hub_model_is_handed_over_from_where_it_lies(run: RunDir, tmp_path: Path) -> None:
    assert checkpoint(run, BASE) == tmp_path / "hub"


def test_a_hub_model_may_lack_a_generation_config(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "hub" / "generation_config.json").unlink()
    assert checkpoint(run, BASE) == tmp_path / "hub"


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
def test_either_name_of_a_processor_s_file_will_do(run: RunDir, file: str) -> None:
    final = run.final("stage1_sft")
    (final / "processor_config.json").rename(final / file)
    assert checkpoint(run, "stage1_sft") == final


def test_a_stage_that_has_not_been_run_says_so(run: RunDir) -> None:
    assert "stage2_grpo_format has not been run; finish it first" in told(run, "stage2_grpo_format")


def test_a_stage_that_is_still_running_says_so_even_with_its_files_there(run: RunDir) -> None:
    write_json(run.record_path("stage1_sft"), {**(run.record("stage1_sft") or {}), "status": "running"})
    assert "stage1_sft is running; finish it first" in told(run, "stage1_sft")


def test_weights_that_changed_since_are_refused(run: RunDir) -> None:
    (run.final("stage1_sft") / "model.safetensors").write_bytes(b"tampered")
    text = told(run, "stage1_sft")
    assert "weights changed since stage1_sft finished" in text
    assert "--clean" in text


def test_a_second_weight_file_is_a_change(run: RunDir) -> None:
    (run.final("stage1_sft") / "model-2.safetensors").write_bytes(b"more")
    assert "weights changed" in told(run, "stage1_sft")


def test_only_safetensors_count_as_weights(run: RunDir) -> None:
    final = run.final("stage1_sft")
    (final / "model.safetensors").rename(final / "pytorch_model.bin")
    assert "holds no *.safetensors; only safetensors are read" in told(run, "stage1_sft")


def test_everything_that_is_missing_is_told_at_once(run: RunDir) -> None:
    for path in run.final("stage1_sft").iterdir():
        path.unlink()
    text = told(run, "stage1_sft")
    for missing in (
        "config.json is missing",
        "generation_config.json is missing",
        "processor_config.json",
        "safetensors",
    ):
        assert missing in text
    assert len(text.splitlines()) == 4


def test_a_folder_that_is_gone_is_refused(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "hub").rename(tmp_path / "moved")
    assert "holds no *.safetensors" in told(run, BASE)


def test_a_stage_starts_from_the_parent_its_block_names(run: RunDir) -> None:
    config = load("demo")
    assert parent_checkpoint(config, run, "stage2_grpo_format") == ("stage1_sft", run.final("stage1_sft"))
    assert parent_checkpoint(config, run, "stage1_sft")[0] == BASE
    with pytest.raises(UserError, match="stage2_grpo_format has not been run"):
        parent_checkpoint(config, run, "stage3_grpo_accuracy")


def test_the_best_is_handed_over_by_its_own_digest(run: RunDir) -> None:
    best = run.phase("stage1_sft") / "best"
    shutil.copytree(run.final("stage1_sft"), best)
    (best / "model.safetensors").write_bytes(b"better")
    record = run.record("stage1_sft") or {}
    write_json(run.record_path("stage1_sft"), {**record, "best": {"step": 4, "weights": weights_digest(best)}})
    config = load("demo", ["stages.stage2.init_from=stage1:best"])
    assert parent_checkpoint(config, run, "stage2_grpo_format") == ("stage1_sft", best)
    start = start_record(config, run, "stage2_grpo_format")
    assert start["parent_weights"] == weights_digest(best)
    (best / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="weights changed since stage1_sft finished"):
        checkpoint(run, "stage1_sft", which="best")


def test_a_stage_without_validation_has_no_best(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"stage1_sft has no best checkpoint.*validation: block.*--clean"):
        checkpoint(run, "stage1_sft", which="best")
