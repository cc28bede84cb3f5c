"""Sharing a prompt among its completions changes the time alone: log-probabilities, gradients, tokens, weights are trl's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpo_pairs as pairs
import pytest
import torch
from tiers import tiers
from trl import GRPOTrainer

from stages.shared_prefix import logprobs
from stages.training.grpo_trainer import PolicyTrainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 1e-5


@pytest.fixture(scope="module", params=tiers(pairs.VARIANTS, pairs.EVERY_CHANGE))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any, Any]:
    """(family, its checkpoint, trl's trainer, the stages')."""
    folder = tmp_path_factory.mktemp(request.param)
    base = pairs.build(folder / "base", request.param)
    options = {"gradient_checkpointing": False}
    trainers = [pairs.trainer(cls, base, folder, request.param, **options) for cls in (GRPOTrainer, PolicyTrainer)]
    return request.param, base, trainers[0], trainers[1]


def test_log_probabilities_and_gradients_are_those_of_trl(pair: tuple[str, Path, Any, Any]):
    """Shuffled rows, prompts of two lengths, one text on two pictures, completions of any length."""
    _, _, theirs, ours = pair
    batch = pairs.shuffled(theirs)
    assert batch["prompt_mask"].sum(dim=1).unique().numel() == 2
    expected, found = pairs.scored(theirs, batch), pairs.scored(ours, batch)
    assert ours._metrics["train"]["shared_prefix/rows_ratio"] == [1.0]
    assert (found[0] - expected[0]).abs().max() <= LIMIT
    assert (found[1] - expected[1]).abs().max() <= LIMIT
    assert pairs.furthest(expected[2], found[2]) <= LIMIT
    for model in (theirs.model, ours.model):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    again = pairs.scored(ours, batch)
    assert pairs.furthest(expected[2], again[2]) <= LIMIT


def test_tokens_are_those_of_trl(pair: tuple[str, Path, Any, Any]):
    _, _, theirs, ours = pair
    # Completions end at many lengths, and leave the batch.
    early = list(range(5, 384, 12))
    for sample in (False, True):
        for ends in ([], early):
            assert pairs.tokens_of(ours, sample, ends) == pairs.tokens_of(theirs, sample, ends)


TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "beta": ("qwen2_5_vl", {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 5}),
    "num_iterations": ("internvl", {"num_iterations": 2, "gradient_checkpointing": False}),
    "micro_batches": ("llava", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}),
    "torn_groups": ("smolvlm", {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}),
    "old_rollouts": ("qwen3_vl", {"per_device_train_batch_size": 6, "steps_per_generation": 2, "beta": 0.1}),
    "lora": ("idefics3", {"beta": 0.1}),
}


@pytest.mark.parametrize("name", tiers(TRAININGS, ("beta", "torn_groups", "lora")))
def test_twenty_steps_end_at_the_weights_of_trl(name: str, tmp_path: Path):
    from peft import LoraConfig

    variant, options = TRAININGS[name]
    if name == "lora":
        options = {**options, "peft": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}
    base = pairs.build(tmp_path / "base", variant)
    (told, theirs), (own, ours) = (
        pairs.trained(cls, base, tmp_path, variant, max_steps=20, **options) for cls in (GRPOTrainer, PolicyTrainer)
    )
    assert max(float((theirs[one] - ours[one]).abs().max()) for one in theirs) <= 1e-4
    before = pairs.trainer(GRPOTrainer, base, tmp_path, variant, peft=options.get("peft")).model.state_dict()
    assert max(float((theirs[one] - before[one]).abs().max()) for one in theirs) >= 1e-3
    assert [row["reward"] for row in told if "reward" in row] == [row["reward"] for row in own if "reward" in row]
    assert all(row["shared_prefix/rows_ratio"] > 0 for row in own if "loss" in row)


def test_a_batch_that_is_computed_otherwise_is_left_to_trl(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    base = pairs.build(tmp_path / "base", "idefics3")
    theirs, ours = (pairs.trainer(cls, base, tmp_path, "idefics3") for cls in (GRPOTrainer, PolicyTrainer))
    batch = pairs.shuffled(theirs)
    right = logprobs.prompt_positions

    def wrong(*args: Any) -> torch.Tensor:
        return torch.cat([right(*args)[..., :-1], right(*args)[..., -1:] + 1], dim=-1)

    monkeypatch.setattr(logprobs, "prompt_positions", wrong)
    assert pairs.scored(ours, batch)[0].equal(pairs.scored(theirs, batch)[0])
    assert "shared_prefix: off" in capfd.readouterr().err
    assert not ours.sharing


def test_a_rollout_is_that_of_trl_to_the_bit_from_each_picture_processed_once(pair: tuple[str, Path, Any, Any]):
    name, _, theirs, ours = pair
    rollouts, processed = [], []
    for by in (theirs, ours):
        counted = _Counted(by.processing_class.image_processor)
        by.processing_class.image_processor = counted
        rollouts.append(pairs.rollout(by))
        by.processing_class.image_processor = counted.processor
        processed.append(counted.pictures)
    assert rollouts[0].keys() == rollouts[1].keys()
    for key, value in rollouts[0].items():
        other = rollouts[1][key]
        assert value.equal(other) if isinstance(value, torch.Tensor) else value == other, key
    # TRL counts its tiles by making them once more.
    times = 3 if name == "internvl" else 2
    assert processed == [times * 3 * pairs.GROUP, 3]


class _Counted:
    """An image processor that counts its pictures."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.pictures = processor, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, images: Any, *rest: Any, **how: Any) -> Any:
        self.pictures += len(images)
        return self.processor(images, *rest, **how)
