"""Every combination of DeepSpeed, adapters, fixed parts and precision that is offered, trained by two real processes on CPU.

docs/combinations.md is the table of what is found here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from combinations import COMBINATIONS, EVERYWHERE, LANGUAGE, NORMS, RESUMED, SHARED, SOFT_PROMPT, TABLE
from tiers import asked, tiers

from pipeline.config.loader import CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2600)]
HERE = Path(__file__).resolve().parent
RATES = {"language": 1e-2, "vision": 1e-4, "connector": 1e-3}
PARTS = {"vision": ".vision_model.", "connector": ".connector.", "language": ".text_model."}
EVERY_CHANGE = (
    *(f"full-{level}" for level in ("plain", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")),
    *(f"lora-{level}" for level in ("plain", "zero3")),
    "lora_everywhere-zero3",
    "frozen_vision-zero2",
    "full_bf16-zero2",
    "full_bf16-zero3",
    "full_bf16_grpo-plain",
    "lora_bf16-zero3",
    "full_grpo-zero3",
    "lora_grpo-zero2",
    "lora_frozen_vision_grpo-plain",
    "lora_rates-zero3",
    "qlora_4bit-zero2",
    "qlora_4bit_grpo-plain",
    "saved-zero3",
    "dora-plain",
    "prompt-zero2",
)
"""Every level once, every kind of what trains once at the level that changes most of it; the rest of the table is nightly."""

SERVED = [name for name in COMBINATIONS if "qlora" not in name]


def of(*kinds: str) -> list[Any]:
    """Names of the combinations that have one of these words in them, by tier."""
    names = [name for name in COMBINATIONS if any(kind in name for kind in kinds)]
    return tiers(names, set(names) & set(EVERY_CHANGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the combinations are trained."""
    return tmp_path_factory.mktemp("combinations")


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, folder: Path) -> dict[str, dict[str, Any]]:
    """What one launch of two processes finds about each combination asked for, and about those it is compared with."""
    chosen = asked(request, "name")
    compared = {"full-plain"}
    compared |= {SHARED.get(name, f"{name.partition('-')[0]}-plain") for name in chosen if "bf16" not in name}
    names = [name for name in TABLE if name in compared or name in chosen]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    log = folder / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*command, str(HERE / "combinations.py"), str(folder), *names],
            env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=2500)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, log.read_text()[-5000:]
    result: dict[str, dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return result


def trains(name: str) -> str:
    """A pattern of the weights that a combination is meant to move."""
    kind = name.partition("-")[0]
    if kind.startswith("frozen_vision"):
        return r".*(connector|text_model)\..*"
    if kind.startswith("frozen_language"):
        return r".*vision_model\..*"
    if kind.startswith(("full", "rates")):
        return ".*"
    if kind == "saved":
        return rf"({LANGUAGE}|.*modality_projection\.proj)\.weight"
    if kind == "biased":
        return rf"({EVERYWHERE})\.weight|.*\.bias"
    if kind.startswith("prompt"):
        return r".*text_model\.embed_tokens\.weight"
    if kind == "ln_tuning":
        return rf"{NORMS}\.weight"
    if kind.startswith("lora_frozen_vision"):
        return r".*(text_model.*(q_proj|v_proj|down_proj)|modality_projection\.proj)\.weight"
    return rf"({EVERYWHERE if kind in ('lora_everywhere', 'lora_rates') else LANGUAGE})\.weight"


@pytest.mark.parametrize("name", tiers(SERVED, set(SERVED) & set(EVERY_CHANGE)))
def test_a_rollout_server_would_be_given_the_weights_that_are_handed_over(
    name: str, found: dict[str, dict[str, Any]]
) -> None:
    """All of them, from one rank, adapters merged and shards put together. In bfloat16 DeepSpeed's module holds rounded ones."""
    facts = found[name]
    rounded = "bf16" in name and not name.endswith("-plain")
    # Half a unit in the last of eight binary places.
    assert facts["served"] <= (2**-8 * facts["largest"] if rounded else 1e-6)


@pytest.mark.parametrize("name", tiers(COMBINATIONS, EVERY_CHANGE))
def test_it_moves_the_weights_it_should_and_hands_them_over_plain(name: str, found: dict[str, dict[str, Any]]) -> None:
    facts = found[name]
    assert "error" not in facts, facts["error"]
    assert facts["clean"], "plain transformers misses weights, or finds strange ones"
    assert facts["same_names"]
    assert facts["dtypes"] == ["torch.float32"]
    assert facts["adapter_files"] == []
    every = set(found["full-plain"]["moved"])
    assert set(facts["moved"]) == {weight for weight in every if re.fullmatch(trains(name), weight)}
    # There the trainer's model is the rounded one.
    if "qlora" not in name:
        assert facts["logits"] < (3e-2 if "bf16" in name else 1e-5)
    if "bf16" not in name:
        assert facts["from_plain"] < 1e-4


def test_the_plain_full_training_moves_every_weight(found: dict[str, dict[str, Any]]) -> None:
    assert len(found["full-plain"]["moved"]) == found["full-plain"]["weights"]


@pytest.mark.parametrize("name", of("full_bf16", "prompt_bf16", "full-"))
def test_a_stage_begins_with_the_float32_weights_it_was_handed(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert found[name]["start"] == 0


@pytest.mark.parametrize("name", of("bf16", "qlora"))
def test_bf16_copies_are_never_handed_over_for_float32_masters(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert found[name]["masters_between_bf16"] > 0.5


@pytest.mark.parametrize("name", of("qlora"))
def test_a_quantised_base_is_handed_over_in_full_precision(name: str, found: dict[str, dict[str, Any]]) -> None:
    """What final/ adds to its parent is the adapter's rank 4; a merge into rounded weights would add a full rank of error."""
    assert found[name]["rank"] <= 4


@pytest.mark.parametrize("name", of("prompt"))
def test_prompt_tuning_moves_the_rows_of_its_own_tokens_alone(name: str, found: dict[str, dict[str, Any]]) -> None:
    moved = found[name]["moved_tokens"]
    assert moved == list(range(moved[0], moved[0] + SOFT_PROMPT))


@pytest.mark.parametrize("name", of("rates"))
def test_each_part_moves_at_its_own_logged_rate(name: str, found: dict[str, dict[str, Any]]) -> None:
    first, second, _ = found[name]["rows"]
    for part, rate in RATES.items():
        assert first[f"learning_rate/{part}"] == pytest.approx(rate)
        # The schedule is linear to 0 in 3 steps.
        assert second[f"learning_rate/{part}"] == pytest.approx(rate * 2 / 3)
        farthest = max(move for weight, move in found[name]["moved"].items() if PARTS[part] in weight)
        # AdamW moves a weight by its rate at most: rate * (1 + 2/3 + 1/3).
        assert farthest < 2.1 * rate
    assert first["learning_rate"] == pytest.approx(RATES["language"])


@pytest.mark.parametrize("name", tiers(RESUMED, set(RESUMED) & set(EVERY_CHANGE)))
def test_a_resumed_stage_ends_as_an_undisturbed_one(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert found[name]["from_undisturbed"] == 0
    assert [row["step"] for row in found[name]["rows"]] == [1, 2, 3]


@pytest.mark.parametrize("name", tiers(SHARED, ("shared_grpo-zero3",)))
def test_shared_prompts_end_at_the_weights_of_trl(name: str, found: dict[str, dict[str, Any]], folder: Path) -> None:
    """By whole stages; each rank holds a group in every micro-batch."""
    from safetensors.torch import load_file

    shared, unshared = found[name], found[SHARED[name]]
    assert "error" not in shared, shared["error"]
    assert {row["shared_prefix/rows_ratio"] for row in shared["rows"]} == {1.0}
    assert not any("shared_prefix/rows_ratio" in row for row in unshared["rows"])
    finals = [folder / one / "stage2_grpo" / "final" / "model.safetensors" for one in (name, SHARED[name])]
    ours, theirs = map(load_file, finals)
    assert max(float((ours[weight] - theirs[weight]).abs().max()) for weight in theirs) <= 1e-4
    assert max(shared["moved"].values()) >= 1e-3


def test_every_shipped_deepspeed_file_is_trained_with() -> None:
    levels = {name.partition("-")[2] for name in COMBINATIONS}
    assert levels == {"plain", *(path.stem for path in (CONFIGS / "deepspeed").glob("*.json"))}
