"""Rollouts from a real vLLM server on CPU, and dynamic sampling: the same weights, tokens and logprobs as the trainer's."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUICK, Small, steps, train, weights
from tiny_parts import save_language, save_tower

from pipeline.config.schema import ComposeConfig
from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir
from pipeline.system.vllm_server import known_flags, serve_environment
from stages.models.compose import compose

pytestmark = pytest.mark.slow
STAGE, PARENT = "stage2_grpo_format", "stage1_sft"
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
LIMIT = 1e-3


def logged(run: RunDir) -> list[dict[str, float]]:
    """The rows of the stage's metrics.jsonl."""
    return list(read_jsonl(run.phase(STAGE) / "metrics.jsonl"))


def found_of_prompts(first: dict[str, float], samples: int) -> float:
    """The share of prompts' tokens that a server finds, in blocks of 32, when it keeps nothing of the step before.

    Of a prompt's four completions the first computes it, and three find its whole blocks.

    Args:
        first: the row of the first step.
        samples: completions of a step.
    """
    prompt = round(first["num_tokens"] / samples - first["completions/mean_length"])
    assert prompt > 32
    return 3 / 4 * ((prompt - 1) // 32 * 32) / prompt


@needs_vllm
def test_a_stage_samples_from_a_server_that_has_its_weights(small: Small, whole_run: tuple[RunDir, str]) -> None:
    """Two rows, so that the same prompts come at every step, and large steps: what the server kept of older weights would show.

    The stage is killed after its first checkpoint and goes on; the server is gone both times.
    """
    run = small.copy_of("small", "served", "base", "cot", PARENT)
    words = (
        *QUICK,
        f"stages.{STAGE}.rollouts=vllm",
        f"stages.{STAGE}.split=train[:2]",
        f"stages.{STAGE}.freeze=[]",
        f"stages.{STAGE}.trainer.learning_rate=3e-3",
        # Small blocks, so that short prompts are cached too. Raw: before the image token is suppressed, as the trainer's are.
        "launch.rollout_flags={block-size: 32, logprobs-mode: raw_logprobs}",
    )
    halfway = run.phase(STAGE) / "checkpoint-2" / "complete"
    small.end_when(halfway.exists, signal.SIGKILL, "stages.grpo", "--stage", "2", *words, name="served")
    assert small.processes("served", wait=30) == []
    small.run("stages.grpo", "--stage", "2", *words, name="served")
    assert small.processes("served", wait=30) == []
    rows = logged(run)
    assert steps(run, STAGE) == [1, 2, 3, 4]
    assert max(row["sampling/sampling_logp_difference/max"] for row in rows) <= LIMIT
    assert all("rewards/format_reward/mean" in row and row["reward_std"] >= 0 for row in rows)
    assert any(row["grad_norm"] > 0 for row in rows)
    assert {row["sampling/left_out_ratio"] for row in rows} == {0}
    assert [row["sampling/prefix_cache_hit_ratio"] for row in rows] == pytest.approx([found_of_prompts(rows[0], 8)] * 4)
    # Processed pictures are kept: they do not depend on weights. The third step is the first of the server that is started again.
    assert [row["sampling/image_cache_hit_ratio"] for row in rows] == [0, 1, 0, 1]
    assert run.record(STAGE)["status"] == "complete"
    assert weights(run, STAGE)[STAGE] not in (None, weights(run, PARENT)[PARENT])
    assert not (run.phase(STAGE) / "rollouts").exists()


@needs_vllm
@pytest.mark.nightly
def test_a_stage_has_its_next_rollout_sampled_while_it_trains(small: Small, whole_run: tuple[RunDir, str]) -> None:
    """On two processes, a group lying on both; the stage is asked to stop while its server samples, and goes on."""
    run = small.copy_of("small", "ahead", "base", "cot", PARENT)
    words = (
        *QUICK,
        f"stages.{STAGE}.rollouts=vllm",
        f"stages.{STAGE}.rollouts_ahead=true",
        # One epoch: three prompts a step.
        f"stages.{STAGE}.split=train[:36]",
        f"stages.{STAGE}.freeze=[]",
        f"stages.{STAGE}.trainer.max_steps=12",
        f"stages.{STAGE}.trainer.per_device_train_batch_size=6",
        f"stages.{STAGE}.trainer.learning_rate=3e-3",
        "launch.num_processes=2",
        "launch.rollout_flags={block-size: 32, logprobs-mode: raw_logprobs}",
    )
    halfway = run.phase(STAGE) / "checkpoint-2" / "complete"
    small.end_when(halfway.exists, signal.SIGTERM, "stages.grpo", "--stage", "2", *words, name="ahead")
    assert small.processes("ahead", wait=30) == []
    before = len(logged(run))
    assert 2 <= before < 12
    small.run("stages.grpo", "--stage", "2", *words, name="ahead")
    assert small.processes("ahead", wait=30) == []
    rows = logged(run)
    assert steps(run, STAGE) == list(range(1, 13))
    # The first rollout of a process is of the present weights; those after it are an update behind.
    assert [row["sampling/staleness"] for row in rows] == [0, *[1] * (before - 1), 0, *[1] * (11 - before)]
    for row in rows:
        apart = row["sampling/sampling_logp_difference/max"]
        assert apart > LIMIT if row["sampling/staleness"] else apart <= LIMIT
        # Three pictures in four requests.
        assert row["sampling/image_cache_hit_ratio"] == 1 / 4
        assert row["sampling/prefix_cache_hit_ratio"] == pytest.approx(found_of_prompts(rows[0], 12))
    assert run.record(STAGE)["status"] == "complete"


@needs_vllm
@pytest.mark.nightly
@pytest.mark.parametrize("student", ["composed", "soft_prompt"])
def test_a_whole_run_of_a_student_that_vllm_knows_by_its_files_alone_samples_from_a_server(
    student: str, small: Small, tmp_path: Path
) -> None:
    """One whose architecture vLLM has from transformers, and one whose prompts begin with tokens that it was given."""
    if student == "composed":
        parts = save_tower("mobilenet_v2", tmp_path / "tower"), save_language("llama", tmp_path / "language")
        own = [f"model.compose={{vision: {parts[0]}, language: {parts[1]}}}", f"stages.{STAGE}.freeze=[vision]"]
    else:
        own = ["model.peft={peft_type: PROMPT_TUNING, num_virtual_tokens: 4}", f"stages.{STAGE}.freeze=[]"]
    small.run(
        "pipeline run",
        *("--to", STAGE, *QUICK, *own, "baselines=null"),
        *(f"stages.{PARENT}.trainer.max_steps=4", f"stages.{PARENT}.gate={{action: warn}}"),
        f"stages.{STAGE}.reward_funcs=[rewards_for_tests.parity_reward]",
        *(f"stages.{STAGE}.rollouts=vllm", f"stages.{STAGE}.trainer.learning_rate=3e-3"),
        "launch.rollout_flags={logprobs-mode: raw_logprobs}",
        name=student,
    )
    run = small.run_dir(student)
    rows = logged(run)
    assert steps(run, STAGE) == [1, 2, 3, 4]
    assert max(row["sampling/sampling_logp_difference/max"] for row in rows) <= LIMIT
    assert any(row["grad_norm"] > 0 for row in rows)
    assert weights(run, STAGE)[STAGE] not in (None, weights(run, PARENT)[PARENT])
    assert run.record(STAGE)["status"] == "complete"


@needs_vllm
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("words", "tiles"),
    [
        pytest.param([], 4 + 1, id=""),
        pytest.param(["--ahead", "--rows", "6"], 4 + 1, id="ahead"),
        # Of two pictures, the second of which lies in the text, of none, and of one.
        pytest.param(["--pictures", "2", "0", "1", "--rows", "3"], 4 + 1 + 2 + 1, id="pictures"),
    ],
)
def test_logprobs_and_greedy_tokens_are_the_trainers_after_every_update(
    words: list[str], tiles: int, tmp_path: Path, repo_root: Path
) -> None:
    """A random Idefics3 whose images are cut into tiles, which TRL's own server mode cannot do."""
    made = subprocess.run(
        [sys.executable, "-c", TILED, str(tmp_path / "tiled")], cwd=repo_root, timeout=200, check=False
    )
    assert made.returncode == 0
    found = compared(tmp_path / "tiled", repo_root, words, [0, 1, 1] if "--ahead" in words else [0, 0, 0])
    # Of the first row's pictures, each as its tiles and the whole; four tokens each.
    assert found["image_tokens"] == tiles * 4


@needs_vllm
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("tower", "language", "tokens"),
    [
        pytest.param("dinov2_with_registers", "qwen3", 19, id="llava"),
        # With batch norms, whose statistics a reload must leave as they are.
        pytest.param("mobilenet_v2", "llama", 4, id="fast_vlm"),
    ],
)
def test_a_server_of_a_composed_model_has_the_trainers_weights(
    tower: str, language: str, tokens: int, tmp_path: Path, repo_root: Path
) -> None:
    """Of a model that vLLM computes by transformers' own, which the server's command says by itself; the head is tied."""
    parts = ComposeConfig(str(save_tower(tower, tmp_path / tower)), str(save_language(language, tmp_path / language)))
    assert compose(tmp_path / "composed", parts, seed=0)
    found = compared(tmp_path / "composed", repo_root, [], [0, 0, 0])
    assert found["image_tokens"] == tokens


def compared(folder: Path, repo_root: Path, words: list[str], staleness: list[int]) -> dict[str, Any]:
    """What `benchmarks.rollout_logprobs` finds of a checkpoint, held to be what a server with the trainer's weights gives."""
    command = [sys.executable, "-m", "benchmarks.rollout_logprobs", str(folder), "--flags", '{"block-size": 32}']
    done = subprocess.run([*command, *words], cwd=repo_root, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # By the weights that sampled them.
    assert max(found["logprobs"]) <= 1e-5
    assert found["staleness"] == staleness
    assert [drift > LIMIT for drift in found["drift"]] == [age > 0 for age in staleness]
    assert found["greedy"]
    assert found["moved"] > LIMIT
    return found


TILED = """
import sys
from pathlib import Path
from pipeline.system.library_patches import prepare_libraries
prepare_libraries()
from transformers import AutoProcessor
from pipeline.config.schema import TinyConfig
from stages.models.tiny import build_tiny
folder = Path(sys.argv[1])
sizes = TinyConfig(hidden_size=64, layers=2, intermediate_size=128, vision_hidden_size=64, vision_layers=1, vocab_size=384)
build_tiny(folder, sizes, ["Which emotion does this picture evoke? Give reasons, then the answer."] * 40, seed=0)
processor = AutoProcessor.from_pretrained(folder)
processor.image_processor.do_image_splitting = True
processor.image_processor.size = {"longest_edge": 2 * sizes.image_size}
processor.save_pretrained(folder)
"""
"""Writes a tiny Idefics3 that cuts an image into tiles of 64 pixels and adds the whole."""


SELECTED = (
    *QUICK,
    f"stages.{STAGE}.reward_funcs=[rewards_for_tests.parity_of_some_reward]",
    f"stages.{STAGE}.freeze=[]",
    f"stages.{STAGE}.dynamic_sampling=4",
)


@pytest.fixture(scope="module")
def filled(small: Small, whole_run: tuple[RunDir, str]) -> RunDir:
    """A stage with dynamic sampling, of whose prompts half earn the same whatever is written."""
    run = small.copy_of("small", "filled", "base", "cot", PARENT)
    train(small.root, "2", "filled", *SELECTED)
    return run


def test_dynamic_sampling_fills_batches_with_groups_that_teach(small: Small, filled: RunDir) -> None:
    """The batches are filled from the prompts that earn now this, now that."""
    run = small.copy_of("small", "plain", "base", "cot", PARENT)
    train(small.root, "2", "plain", *SELECTED[:-1])
    plain, rows = logged(run), logged(filled)
    assert sum(row["frac_reward_zero_std"] for row in plain) > 0
    assert sum(row["sampling/resampled_groups"] for row in rows) > 0
    for row in rows:
        assert row["kept/frac_reward_zero_std"] * 2 == row["sampling/zero_std_left"]
        assert row["sampling/zero_std_left"] <= row["frac_reward_zero_std"] * 2
    assert sum(row["sampling/zero_std_left"] for row in rows) < sum(2 * row["frac_reward_zero_std"] for row in rows)
    # The same prompts, told without the selection.
    for key in ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length"):
        assert rows[0][key] == plain[0][key]
    assert weights(filled, STAGE) != weights(run, STAGE)


@pytest.mark.nightly
def test_a_kill_changes_nothing_of_what_dynamic_sampling_selects(small: Small, whole_run: tuple[RunDir, str]) -> None:
    """Both by the entry point: a process of its own may round otherwise than that of the tests, on some processors."""
    run, undisturbed = (small.copy_of("small", name, "base", "cot", PARENT) for name in ("cut_short", "undisturbed"))
    small.run("stages.grpo", "--stage", "2", *SELECTED, name="undisturbed")
    halfway = run.phase(STAGE) / "checkpoint-2" / "complete"
    small.end_when(halfway.exists, signal.SIGKILL, "stages.grpo", "--stage", "2", *SELECTED, name="cut_short")
    small.run("stages.grpo", "--stage", "2", *SELECTED, name="cut_short")
    assert weights(run, STAGE) == weights(undisturbed, STAGE)
    # Of each process's first batch.
    told_once = ("shared_prefix/difference", "shared_prefix/difference_of_trl")
    once = ("seconds", "step_time", *told_once)
    same = [[{k: v for k, v in row.items() if k not in once} for row in logged(one)] for one in (undisturbed, run)]
    assert same[0] == same[1]


PARSER = """
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(*(word for action in make_arg_parser(FlexibleArgumentParser())._actions for word in action.option_strings))
"""


@needs_vllm
@pytest.mark.nightly
def test_the_flags_read_from_the_source_of_vllm_are_those_its_parser_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARSER], env=serve_environment(cpu=True), capture_output=True, text=True, check=True
    )
    taken = {word.removeprefix("--") for word in done.stdout.splitlines()[-1].split() if word.startswith("--")}
    assert len(taken) > 300
    assert {word for word in taken if not {word, word.removeprefix("no-")} & known_flags()} == {"help"}
