"""Every family of small VLMs goes through the same four stages, and what it hands over is what it trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiers import asked, tiers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1300)]
VARIANTS = (
    "idefics3",
    "idefics3_tiled",
    "smolvlm",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_thinking",
    "idefics3_special_tags",
    "internvl",
    "llava",
    "fast_vlm",
    "composed_llava",
    "composed_fast_vlm",
)
UNUSED = {"llava": 2, "composed_llava": 21}
"""Tensors of a tower that learn nothing, for LLaVA takes features from before them: SigLIP's last norm; of DINOv2, read at the
last layer but one, also its last layer and the token of masked patches."""
TILED = ("idefics3_tiled", "smolvlm")
MIXED = (*TILED, "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_thinking", "internvl")
"""Those in which a wide picture is another number of tokens than a square one."""

RELOADED = {"is_local", "local_files_only", "padding_side", "tokenizer_class", "model_specific_special_tokens"}
"""Keys that transformers adds to a tokenizer's file when it saves one it has loaded; tokenizer.json holds what it does."""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """Where family_runs.py trained those that are asked for, in one process, and loaded them again in another."""
    folder = tmp_path_factory.mktemp("families")
    done = subprocess.run(
        [sys.executable, "tests/integration/family_runs.py", str(folder), *asked(request, "name")],
        cwd=repo_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(params=tiers(VARIANTS, ("idefics3_tiled", "qwen2_5_vl", "internvl")))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def measured(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert "error" not in found, found["error"]
    return found


def test_every_stage_moves_every_part_but_the_frozen_one(measured: dict[str, Any], name: str):
    for stage, result in measured["stages"].items():
        assert set(result["moved"]) == {"vision", "connector", "language"}
        for part, (moved, tensors) in result["moved"].items():
            # freeze: [vision]
            if stage == "stage2_grpo_format" and part == "vision":
                assert moved == 0
            else:
                unused = UNUSED.get(name, 0) if part == "vision" else 0
                assert moved == tensors - unused, f"{stage}: {moved} of {tensors} tensors of {part} moved"


def test_the_trainer_scores_a_rollout_with_the_logprobs_it_was_sampled_with(measured: dict[str, Any], name: str):
    differences = [one["logprob_difference"] for one in measured["stages"].values() if "logprob_difference" in one]
    assert len(differences) == 3
    # About 1e-6 when all is right; right padding alone makes it 5e-5 in Qwen2.5-VL.
    assert max(differences) <= 1e-5
    # Else the batches were not mixed.
    assert (len(set(measured["prompt_lengths"])) > 1) == (name in MIXED)


def test_sft_rollout_and_evaluation_ask_with_the_same_tokens(measured: dict[str, Any]):
    assert len(measured["prompts"]) == 5
    assert all(prompt == measured["prompts"][0] for prompt in measured["prompts"])


def test_a_fresh_process_loads_what_was_trained_and_writes_the_same(measured: dict[str, Any]):
    fresh = measured["reloaded"]
    assert fresh["complaints"] == {}
    assert fresh["logit_difference"] <= 1e-5
    assert fresh["generation_equal"]
    assert measured["evaluation_equal"]


def test_greedy_answers_are_the_argmax_whatever_the_checkpoint_asks_for(measured: dict[str, Any]):
    assert measured["greedy_is_argmax"] == 1.0


def test_processor_and_generation_config_are_handed_on(measured: dict[str, Any], folder: Path, name: str):
    # Of model.processor; they are handed on too.
    settings = {"do_image_splitting", "size"} if name in TILED else set()
    changed = {file: set(keys) for file, keys in measured["changed"].items()}
    assert changed["processor_config.json"] <= ({"image_processor", "video_processor"} if settings else set())
    assert (
        changed["tokenizer_config.json"]
        <= {"is_local", "local_files_only", "padding_side", "tokenizer_class", "model_specific_special_tokens"}
        # Idefics3's processor declares its own anew; tokenizer.json says of each token whether it is special.
        | ({"extra_special_tokens"} if name == "idefics3_special_tags" else set())
        | settings
    )
    assert changed["tokenizer.json"] == set()
    assert changed["generation_config.json"] <= {"eos_token_id"}
    ends = [_ends(folder / name / phase / "final") for phase in ("base", "stage4_clgrpo")]
    assert ends[0] == ends[1]


def _ends(final: Path) -> list[int]:
    ends = json.loads((final / "generation_config.json").read_text())["eos_token_id"]
    return ends if isinstance(ends, list) else [ends]
