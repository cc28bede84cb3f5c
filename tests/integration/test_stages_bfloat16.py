"""Whole runs in bfloat16, as a GPU resolves `model.dtype: auto`: every stage is trained, handed over, verified and evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small_runs import HERE, QUICK, Small
from tiers import tiers

from pipeline.files import read_jsonl

pytestmark = pytest.mark.slow
LORA = "model.peft={r: 4, lora_alpha: 8, target_modules: all-linear}"
UNEVEN = (
    "task.options={seed: 0, train: 13, val: 8, test: 7, size: 64}",
    "evaluation.batch_size=3",
    "stages.stage1_sft.validation={split: val}",
    "stages.stage2_grpo.dynamic_sampling=2",
)
"""Rows that two processes cannot share evenly in training, validation (3 batches), rollouts and evaluation: neither may wait."""
LAUNCHES = {
    "one process": ["launch.num_processes=1"],
    "two processes": ["launch.num_processes=2"],
    "LoRA on two processes": ["launch.num_processes=2", LORA],
    "ZeRO-2": ["launch.num_processes=2", "launch.deepspeed=zero2"],
    "ZeRO-3": ["launch.num_processes=2", "launch.deepspeed=zero3", *UNEVEN],
}
BFLOAT16 = "model.dtype=bfloat16"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Small:
    """Runs of combinations.yaml. What waits for a process that never comes fails at the time limit."""
    return Small(tmp_path_factory.mktemp("bfloat16"), repo_root, HERE / "combinations.yaml")


@pytest.fixture(scope="module")
def base(runs: Small) -> str:
    """A run whose base model is made and evaluated, once for all launches."""
    runs.run("stages.base", BFLOAT16, *QUICK, name="base")
    return "base"


@pytest.mark.parametrize("launch", tiers(LAUNCHES, ("one process",)))
def test_a_run_in_bfloat16_hands_over_what_it_trained(launch: str, runs: Small, request: pytest.FixtureRequest) -> None:
    # Of other rows, so with a base of its own.
    name, uneven = launch.replace(" ", "_"), launch == "ZeRO-3"
    run = runs.run_dir(name) if uneven else runs.copy_of(request.getfixturevalue("base"), name, "base")
    runs.run("pipeline run", BFLOAT16, *(() if uneven else QUICK), *LAUNCHES[launch], name=name)
    for stage in ("stage1_sft", "stage2_grpo"):
        record = run.record(stage) or {}
        assert record["status"] == "complete"
        assert record["trainer"]["bf16"]
        # Through accelerate's autocast the logits would be 5e-3 away from those of the weights. ZeRO trains bf16 copies.
        logits = record["verification"]["logits"]
        assert logits["difference"] < (1e-5 if logits["dtype"] == "float32" else 2e-2 * logits["largest"])
        assert record["metrics"]["images/swap_change"] > record["metrics"]["images/swap_rounding"]
        assert "images_unseen" not in record["alarms"]
        if record["best"]:
            assert record["best"]["step"] in (1, 2)
            assert uneven


def test_a_step_that_deepspeed_skips_is_counted_and_the_stage_goes_on(runs: Small, base: str) -> None:
    run = runs.copy_of(base, "skipped", "base")
    words = ("reward_funcs=[nan_once.nan_once_reward]", "trainer.max_steps=4")
    output = runs.run(
        "stages.grpo",
        *("--stage", "2", BFLOAT16, *QUICK, *LAUNCHES["ZeRO-2"]),
        *(f"stages.stage2_grpo.{word}" for word in words),
        name="skipped",
    )
    rows = list(read_jsonl(run.phase("stage2_grpo") / "metrics.jsonl"))
    assert [row.get("skipped_steps") for row in rows] == [None, 1.0, None, None]
    assert rows[1]["grad_norm"] == math.inf
    assert all(math.isfinite(rows[step][key]) for step in (0, 2, 3) for key in ("loss", "grad_norm"))
    assert "ALARM skipped in stage2_grpo at step 2" in output
    record = run.record("stage2_grpo") or {}
    assert record["status"] == "complete"
    assert record["alarms"]["skipped"]["steps"] == 1
    assert "nan" not in record["alarms"]


def test_a_preflight_finds_a_stage_whose_hand_over_would_be_refused(runs: Small) -> None:
    """Before the hours of training that would come to nothing."""
    wrong = "stages.stage2_grpo.reward_funcs=[wrong_reference.wrong_reward]"
    words = (BFLOAT16, "launch.num_processes=1", wrong)
    output = runs.run("pipeline preflight", *words, name="preflight", code=2)
    assert "stage2_grpo: its final/ would be refused" in output
    assert "its logits differ from the trainer's" in output
    assert "stage1_sft: its final/" not in output
    assert "stage1_sft: final/ verified" in output
    told = json.loads((runs.run_dir("preflight").root / "forecast.json").read_text())
    assert [problem.split(":")[0] for problem in told["problems"]] == ["stage2_grpo"]
