"""The hand-over of a stage: verified in a fresh process, refused when anything differs, held to its gate, checkpoints deleted."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from small_runs import CONFIG, QUICK, STAGES, Small, snapshot, steps, weights

from pipeline.config.loader import load
from pipeline.files import weights_digest, write_json
from pipeline.run_dir import RunDir
from pipeline.runs.handover import file_digests

pytestmark = pytest.mark.slow
STAGE1, STAGE2 = "stage1_sft", "stage2_grpo_format"


@pytest.fixture(scope="module")
def run(whole_run: tuple[RunDir, str]) -> RunDir:
    return whole_run[0]


def logs(run: RunDir, name: str) -> list[str]:
    """The attempts of a stage's workers, one folder each."""
    found = sorted(path.name for path in (run.phase(name) / "logs").iterdir() if path.is_dir())
    assert found
    return found


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def tamper(final: Path) -> None:
    """Change one thing in each of the files that decide what a model reads, says and when it stops."""
    edit(final / "tokenizer.json", '"ignore_merges": false', '"ignore_merges": true')
    edit(final / "chat_template.jinja", "Assistant", "Bot")
    edit(final / "processor_config.json", '"do_rescale": true', '"do_rescale": false')
    settings = json.loads((final / "generation_config.json").read_text())
    (final / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 5}))


def test_every_stage_was_verified_before_it_was_complete(run):
    for name in STAGES:
        record = run.record(name)
        assert record["status"] == "complete"
        assert record["files"] == file_digests(run.final(name))
        assert record["verification"]["problems"] == []
        assert record["verification"]["logits"]["dtype"] == "float32"
        assert record["verification"]["logits"]["difference"] < 1e-5
        assert record["verification"]["logits"]["largest"] > 1
        assert record["verification"]["answers"]["asked"] == 8
        assert "final/ loaded anew gives the trainer's logits" in (run.phase(name) / "report" / "report.md").read_text()


def test_what_the_trainer_writes_into_a_configuration_is_not_handed_on(run):
    """transformers' trainer switches the cache off and makes a list of the end token."""

    def read(file: Path) -> Any:
        return json.loads(file.read_text(), object_hook=lambda found: {k: found[k] for k in found if k != "dtype"})

    for file in ("config.json", "generation_config.json"):
        first, *others = [read(run.final(name) / file) for name in ("base", *STAGES)]
        # A stage says of each part that its weights are float32.
        assert all(other == first for other in others)


def test_the_checkpoints_of_complete_stages_are_gone_and_counted(run):
    for name in STAGES:
        assert list(run.phase(name).glob("checkpoint-*")) == []
        assert run.record(name)["freed_bytes"] > 2 * (run.final(name) / "model.safetensors").stat().st_size


def test_each_tampered_file_is_refused_by_name_before_any_worker_starts(small, run):
    copy = small.copy_of("small", "tampered_files", "base", "cot", STAGE1)
    tamper(copy.final(STAGE1))
    output = small.run("stages.grpo", "--stage", "2", name="tampered_files", code=2)
    for file in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"):
        assert f"{file} changed since it was recorded" in output
    assert "final: config.json" not in output
    assert copy.record(STAGE2) is None


def test_a_verification_names_every_field_that_is_not_the_parents(run, tmp_path):
    from stages.checkpoints.verify import diff_from_parent

    config = load(CONFIG)
    final = Path(shutil.copytree(run.final(STAGE1), tmp_path / "final"))
    assert diff_from_parent(final, run.final("base"), config) == []
    tamper(final)
    edit(final / "config.json", '"max_position_embeddings": 512', '"max_position_embeddings": 64')
    (final / "tokenizer_config.json").unlink()
    found = "\n".join(diff_from_parent(final, run.final("base"), config))
    for field in (
        "tokenizer.json: model.ignore_merges: False -> True",
        "chat_template.jinja differs from the parent's",
        "processor_config.json: image_processor.do_rescale: True -> False",
        "generation_config.json: eos_token_id: ",
        "config.json: text_config.max_position_embeddings: 512 -> 64",
        "tokenizer_config.json is missing",
    ):
        assert field in found
    declared = load(CONFIG, ["model.processor={do_rescale: false}"])
    undeclared = diff_from_parent(run.final(STAGE1), run.final("base"), declared)
    assert "processor_config.json: image_processor.do_rescale: False -> True" in undeclared


@pytest.mark.nightly
def test_killed_before_its_verification_a_stage_is_verified_and_not_trained_again(small: Small, run: RunDir):
    """One stage through everything that may lie between its last step and its completion; it is trained once."""
    name, final_of = "handed", "model.safetensors"
    copy = small.copy_of("small", name, "base", "cot")
    stage = ("stages.sft", "--stage", "1", *QUICK, "keep_checkpoints=true")

    def trained() -> bool:
        return (copy.record(STAGE1) or {}).get("status") == "trained"

    code, _ = small.end_when(trained, signal.SIGKILL, *stage, name=name)
    assert code == -signal.SIGKILL
    right = copy.record(STAGE1)
    assert right["weights"] == run.record(STAGE1)["weights"]
    assert "is trained, but" in small.run("stages.grpo", "--stage", "2", *QUICK, name=name, code=2)

    weight_file = copy.final(STAGE1) / final_of
    trained_weights = weight_file.read_bytes()
    # As if other weights had been saved than were trained:
    shutil.copy(copy.final("base") / final_of, weight_file)
    write_json(copy.record_path(STAGE1), {**right, "weights": weights_digest(copy.final(STAGE1))})
    output = small.run(*stage, name=name, code=2)
    assert "its logits differ from the trainer's" in output
    assert trained()

    weight_file.write_bytes(trained_weights)
    write_json(copy.record_path(STAGE1), right)
    gate = f"stages.{STAGE1}.gate={{format_rate: 0.9, action: %s}}"
    # A student that never writes the format.
    output = small.run(*stage, gate % "stop", name=name, code=2)
    assert "0 of 4 greedy answers of final/ are well formed" in output
    assert not (copy.phase(STAGE1) / "predictions.jsonl").exists()
    assert trained()

    output = small.run(*stage, gate % "warn", name=name)
    assert f"WARNING: {STAGE1} missed its gate: 0 of 4 greedy answers" in output
    assert copy.record(STAGE1)["status"] == "complete"
    assert steps(copy, STAGE1) == steps(run, STAGE1)
    assert (copy.phase(STAGE1) / "checkpoint-60").is_dir()
    assert [log for log in logs(copy, STAGE1) if log.startswith("sft")] == ["sft-001"]

    # A crash between final/ and its record: the trainer goes on from its last checkpoint and takes no further step.
    write_json(
        copy.record_path(STAGE1), {**{key: right[key] for key in right if key != "weights"}, "status": "running"}
    )
    weight_file.write_bytes(b"torn")
    output = small.run("stages.sft", "--stage", "1", *QUICK, name=name)
    assert copy.record(STAGE1)["weights"] == right["weights"] == weights(copy, STAGE1)[STAGE1]
    assert steps(copy, STAGE1) == steps(run, STAGE1)
    assert "checkpoints deleted" in output
    assert list(copy.phase(STAGE1).glob("checkpoint-*")) == []


def test_a_gate_stops_warns_or_is_noted_and_changing_it_trains_nothing(small: Small, run: RunDir):
    name = "gated"
    copy = small.copy_of("small", name, "base", "cot", *STAGES[:3])
    before = {phase: logs(copy, phase) for phase in STAGES[:3]}
    final = snapshot(copy.final(STAGE2))
    gate = f"stages.{STAGE2}.gate={{format_rate: 0.5, action: %s}}"

    output = small.run("pipeline run", gate % "stop", name=name, code=2)
    assert f"{STAGE2} missed its gate: 0 of 16 greedy answers (0.0 %) are well formed" in output
    assert f"stages.{STAGE2}.gate.action=warn" in output
    output = small.run("stages.grpo", "--stage", "3", gate % "stop", name=name, code=2)
    assert f"{STAGE2} missed its gate" in output
    assert copy.record("stage3_grpo_accuracy") is None

    report = copy.phase(STAGE2) / "report" / "report.md"
    for action, said, level in [("warn", True, "warning"), ("continue", False, "note")]:
        output = small.run("stages.grpo", "--stage", "2", gate % action, name=name)
        assert (f"WARNING: {STAGE2} missed its gate" in output) is said
        assert f"- **{level}** {STAGE2}: missed its gate ({action}): 0 of 16" in report.read_text()
        assert copy.record(STAGE2)["gate"]["action"] == action
    assert {phase: logs(copy, phase) for phase in STAGES[:3]} == before
    assert snapshot(copy.final(STAGE2)) == final
