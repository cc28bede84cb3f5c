"""A stage starts from a checkpoint only when the parent's record proves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.files import weights_digest, write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.handover import checkpoint, file_digests, parent_checkpoint, weights_of
from pipeline.runs.phases import start_record

FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose stage 1 is complete and whose base lies elsewhere, as a hub model does."""
    run = RunDir(tmp_path / "runs", "demo")
    for name, folder in ((BASE, tmp_path / "hub"), ("stage1_sft", run.final("stage1_sft"))):
        folder.mkdir(parents=True)
        for file in FILES:
            (folder / file).write_text("{}")
        (folder / "model.safetensors").write_bytes(name.encode())
        where = "final" if name != BASE else str(folder)
        files = file_digests(folder)
        record = {"status": "complete", "checkpoint": where, "weights": weights_of(files), "files": files}
        write_json(run.record_path(name), record)
    return run


def told(run: RunDir, name: str) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint(run, name)
    return "\n".join(caught.value.problems)


def test_a_complete_stage_hands_over_its_folder(run: RunDir) -> None:
    assert checkpoint(run, "stage1_sft") == run.final("stage1_sft")


def test_a_hub_model_is_handed_over_from_where_it_lies(run: RunDir, tmp_path: Path) -> None:
    assert checkpoint(run, BASE) == tmp_path / "hub"


def test_a_stage_that_has_not_been_run_says_so(run: RunDir) -> None:
    assert "stage2_grpo_format has not been run; finish it first" in told(run, "stage2_grpo_format")


def test_a_stage_that_is_still_running_says_so_even_with_its_files_there(run: RunDir) -> None:
    write_json(run.record_path("stage1_sft"), {**(run.record("stage1_sft") or {}), "status": "running"})
    assert "stage1_sft is running; finish it first" in told(run, "stage1_sft")


def test_a_stage_that_was_not_verified_is_refused_with_what_its_verification_found(run: RunDir) -> None:
    record = run.record("stage1_sft") or {}
    write_json(run.record_path("stage1_sft"), {**record, "status": "trained"})
    assert "stage1_sft is trained, but its final/ has not passed verification" in told(run, "stage1_sft")
    found = {"problems": ["tokenizer.json: a: 1 -> 2"]}
    write_json(run.record_path("stage1_sft"), {**record, "status": "trained", "verification": found})
    assert "tokenizer.json: a: 1 -> 2" in told(run, "stage1_sft")


@pytest.mark.parametrize("file", [*FILES, "model.safetensors"])
def test_each_file_a_loader_reads_is_refused_by_name_when_it_changed_or_went(run: RunDir, file: str) -> None:
    path = run.final("stage1_sft") / file
    path.write_bytes(path.read_bytes() + b" ")
    text = told(run, "stage1_sft")
    assert f"{file} changed since it was recorded" in text
    assert "--clean" in text
    # The file and the cure.
    assert len(text.splitlines()) == 2
    path.unlink()
    assert f"{file} is missing" in told(run, "stage1_sft")


@pytest.mark.parametrize("file", ["model-2.safetensors", "adapter_config.json", "additional_chat_templates/tool.jinja"])
def test_a_file_that_a_loader_would_read_too_is_a_change(run: RunDir, file: str) -> None:
    path = run.final("stage1_sft") / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"more")
    assert f"{file} was added since it was recorded" in told(run, "stage1_sft")


def test_the_model_card_may_be_edited(run: RunDir) -> None:
    (run.final("stage1_sft") / "README.md").write_text("my model")
    assert checkpoint(run, "stage1_sft") == run.final("stage1_sft")


def test_workers_do_not_read_the_files_their_launcher_has_read(run: RunDir) -> None:
    (run.final("stage1_sft") / "model.safetensors").write_bytes(b"tampered")
    assert checkpoint(run, "stage1_sft", verify=False) == run.final("stage1_sft")


def test_a_record_without_digests_proves_nothing(run: RunDir) -> None:
    record = run.record("stage1_sft") or {}
    write_json(run.record_path("stage1_sft"), {key: value for key, value in record.items() if key != "files"})
    assert "its record holds no digests" in told(run, "stage1_sft")


def test_everything_that_differs_is_told_at_once(run: RunDir) -> None:
    for path in run.final("stage1_sft").iterdir():
        path.unlink()
    text = told(run, "stage1_sft")
    assert all(f"{file} is missing" in text for file in (*FILES, "model.safetensors"))


def test_the_digest_of_the_weights_is_that_of_their_files(run: RunDir) -> None:
    final = run.final("stage1_sft")
    assert weights_of(file_digests(final)) == weights_digest(final)
    (final / "model.safetensors").unlink()
    assert weights_of(file_digests(final)) is None


def test_a_folder_that_is_gone_is_refused(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "hub").rename(tmp_path / "moved")
    assert "model.safetensors is missing" in told(run, BASE)


def test_a_stage_starts_from_the_parent_its_block_names(run: RunDir) -> None:
    config = load("demo")
    assert parent_checkpoint(config, run, "stage2_grpo_format") == ("stage1_sft", run.final("stage1_sft"))
    assert parent_checkpoint(config, run, "stage1_sft")[0] == BASE
    with pytest.raises(UserError, match="stage2_grpo_format has not been run"):
        parent_checkpoint(config, run, "stage3_grpo_accuracy")


def test_a_parent_that_missed_a_gate_that_stops_is_refused(run: RunDir) -> None:
    row = {"id": "a", "decoding": "greedy", "style": "think", "gold": "awe", "label": None, "reason": "empty"}
    (run.phase("stage1_sft") / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    gate = "stages.1.gate={format_rate: 0.5, action: %s}"
    with pytest.raises(UserError, match=r"stage1_sft missed its gate: 0 of 1 greedy answers"):
        parent_checkpoint(load("demo", [gate % "stop"]), run, "stage2_grpo_format")
    for action in ("warn", "continue"):
        assert parent_checkpoint(load("demo", [gate % action]), run, "stage2_grpo_format")[0] == "stage1_sft"


def test_the_best_is_handed_over_by_its_own_digest(run: RunDir) -> None:
    best = run.phase("stage1_sft") / "best"
    shutil.copytree(run.final("stage1_sft"), best)
    (best / "model.safetensors").write_bytes(b"better")
    record = run.record("stage1_sft") or {}
    write_json(
        run.record_path("stage1_sft"),
        {**record, "best": {"step": 4, "weights": weights_digest(best), "files": file_digests(best)}},
    )
    config = load("demo", ["stages.stage2.init_from=stage1:best"])
    assert parent_checkpoint(config, run, "stage2_grpo_format") == ("stage1_sft", best)
    start = start_record(config, run, "stage2_grpo_format")
    assert start["parent_weights"] == weights_digest(best)
    (best / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.safetensors changed since it was recorded"):
        checkpoint(run, "stage1_sft", which="best")


def test_a_stage_without_validation_has_no_best(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"stage1_sft has no best checkpoint.*validation: block.*--clean"):
        checkpoint(run, "stage1_sft", which="best")
