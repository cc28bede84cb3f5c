"""How a verified stage becomes complete, and when it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import GateConfig, RunConfig, StageConfig
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import RunDir
from pipeline.scoring.kinds import judge_kind
from pipeline.types import Question, Split
from stages.checkpoints.accept import START, VERIFICATION, accept, delete_checkpoints
from stages.processes.work import Work

STAGE = "stage1_sft"
PASSED = {"problems": [], "files": {"config.json": "abc"}, "answers": {"asked": 8, "parsed": 8}}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    gate = GateConfig(format_rate=0.9)
    stage = StageConfig(algorithm="sft", init_from="base", data="cot", gate=gate)
    work = Work(RunConfig(name="run", output_dir=str(tmp_path), stages={STAGE: stage}), STAGE, RunDir(tmp_path, "run"))
    write_json(work.run.record_path(STAGE), {"status": "trained", "steps": 3})
    return work


def test_a_wrong_answer_in_the_right_form_speaks_for_a_hand_over(work: Work) -> None:
    # Loads transformers.
    from stages.checkpoints.verify import _answers

    row = Question("a", (), "Which?", ("a cat", "a dog"), "A", "letter")
    task = Task("t", ("test",), lambda split: Split((row, row)), lambda row, style: "Which?", judge_kind)
    said = [("<think>Two.</think><answer>A or B</answer>", 9), ("A or B", 2)]
    assert _answers(lambda *_, **__: said, work, task) == {"asked": 2, "parsed": 1}


def verified(work: Work, **changed: Any) -> None:
    (work.folder / VERIFICATION).write_text(json.dumps({**PASSED, **changed}))


def record(work: Work) -> dict[str, Any]:
    return work.run.record(STAGE) or {}


def test_a_stage_that_was_not_verified_stays_trained(work: Work) -> None:
    assert accept(work) is False
    assert record(work)["status"] == "trained"


def test_a_verified_stage_is_complete_and_names_its_files(work: Work) -> None:
    verified(work)
    assert accept(work) is True
    assert record(work)["status"] == "complete"
    assert record(work)["steps"] == 3
    assert record(work)["files"] == {"config.json": "abc"}
    assert record(work)["verification"]["answers"] == {"asked": 8, "parsed": 8}


def test_everything_that_differs_is_told_and_recorded_and_nothing_is_complete(work: Work) -> None:
    verified(work, problems=["tokenizer.json: a: 1 -> 2", "generation_config.json: eos_token_id: 1 -> 5"])
    with pytest.raises(UserError) as refused:
        accept(work)
    for problem in ("tokenizer.json: a: 1 -> 2", "eos_token_id: 1 -> 5", f"--clean {STAGE}"):
        assert problem in str(refused.value)
    assert record(work)["status"] == "trained"
    assert len(record(work)["verification"]["problems"]) == 2


def test_answers_that_rule_the_gate_out_are_not_accepted(work: Work) -> None:
    verified(work, answers={"asked": 8, "parsed": 2})
    with pytest.raises(UserError, match="2 of 8 greedy answers of final/ are well formed"):
        accept(work)
    assert record(work)["status"] == "trained"


def test_checkpoints_are_deleted_and_counted_also_when_a_first_try_was_killed(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    for freed in (300, 500):
        for step in (freed - 10, freed):
            (work.folder / f"checkpoint-{step}").mkdir()
        (work.folder / f"checkpoint-{freed}" / "optimizer.pt").write_bytes(b"x" * freed)
        delete_checkpoints(work)
    assert list(work.folder.glob("checkpoint-*")) == []
    assert record(work)["freed_bytes"] == 800
    (work.folder / START).mkdir()
    (work.folder / START / "model.safetensors").write_bytes(b"x" * 100)
    delete_checkpoints(work)
    assert not (work.folder / START).exists()
    assert record(work)["freed_bytes"] == 900
    assert "2 checkpoints deleted" in capsys.readouterr().err
    before = work.run.record_path(STAGE).stat().st_mtime_ns
    delete_checkpoints(work)
    assert work.run.record_path(STAGE).stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""
