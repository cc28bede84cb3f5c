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
LAUNCHES = {
    "one process": ["launch.num_processes=1"],
    "two processes": ["launch.num_processes=2"],
    "LoRA on two processes": ["launch.num_processes=2", LORA],
    "ZeRO-2": ["launch.num_processes=2", "launch.deepspeed=zero2"],
    "ZeRO-3": ["launch.num_processes=2", "launch.deepspeed=zero3"],
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_run_in_bfloat16_hands_over_what_it_trained(launch: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "--config", str(HERE / "combinations.yaml")]
    settings = ["model.dtype=bfloat16", *LAUNCHES[launch], f"output_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *settings], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("stage1_sft", "stage2_grpo"):
        record = json.loads((tmp_path / "combinations" / stage / "stage.json").read_text())
        assert record["status"] == "complete"
        assert record["trainer"]["bf16"]
        # Through accelerate's autocast the logits would be 5e-3 away from those of the weights. ZeRO trains bf16 copies.
        logits = record["verification"]["logits"]
        assert logits["difference"] < (1e-5 if logits["dtype"] == "float32" else 2e-2 * logits["largest"])
