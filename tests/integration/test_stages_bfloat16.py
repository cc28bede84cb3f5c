"""Whole runs in bfloat16, as a GPU resolves `model.dtype: auto`: every stage is trained, handed over, verified and evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
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


def run(command: str, folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline` on combinations.yaml. What waits for a process that never comes fails at the time limit."""
    words = [sys.executable, "-m", "pipeline", command, "--config", HERE / "combinations.yaml", f"output_dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*words, *settings], env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_run_in_bfloat16_hands_over_what_it_trained(launch: str, tmp_path: Path) -> None:
    done = run("run", tmp_path, "model.dtype=bfloat16", *LAUNCHES[launch])
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("stage1_sft", "stage2_grpo"):
        record = json.loads((tmp_path / "combinations" / stage / "stage.json").read_text())
        assert record["status"] == "complete"
        assert record["trainer"]["bf16"]
        # Through accelerate's autocast the logits would be 5e-3 away from those of the weights. ZeRO trains bf16 copies.
        logits = record["verification"]["logits"]
        assert logits["difference"] < (1e-5 if logits["dtype"] == "float32" else 2e-2 * logits["largest"])
        if record["best"]:
            assert record["best"]["step"] in (1, 2)
            assert launch == "ZeRO-3"


def test_a_preflight_finds_a_stage_whose_hand_over_would_be_refused(tmp_path: Path) -> None:
    """Before the hours of training that would come to nothing."""
    wrong = "stages.stage2_grpo.reward_funcs=[wrong_reference.wrong_reward]"
    done = run("preflight", tmp_path, "model.dtype=bfloat16", "launch.num_processes=1", wrong)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "stage2_grpo: its final/ would be refused" in done.stderr
    assert "its logits differ from the trainer's" in done.stderr
    assert "stage1_sft: its final/" not in done.stderr
    assert "stage1_sft: final/ verified" in done.stderr
    told = json.loads((tmp_path / "combinations" / "forecast.json").read_text())
    assert [problem.split(":")[0] for problem in told["problems"]] == ["stage2_grpo"]
