"""What changes the loss, what trains, and what a prompt is made of, with shared prompts: loss and gradients are trl's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpo_pairs as pairs
import pytest
import torch
from tiers import tiers
from trl import GRPOTrainer

from stages.models.loading import bitsandbytes, freeze
from stages.shared_prefix import logprobs
from stages.training.grpo_trainer import PolicyTrainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 1e-5
FAMILIES = ("idefics3", "qwen3_vl")
LANGUAGE = r".*(text_model|language_model).*\.(q|v|down)_proj"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {variant: pairs.build(folder / variant, variant) for variant in pairs.VARIANTS}


def both(bases: dict[str, Path], scratch: Path, variant: str = "idefics3", **options: Any) -> list[Any]:
    """trl's trainer and the stages', with the same options."""
    options = {"gradient_checkpointing": False, **options}
    return [pairs.trainer(cls, bases[variant], scratch, variant, **options) for cls in (GRPOTrainer, PolicyTrainer)]


def compare(theirs: Any, ours: Any, batch: dict[str, Any], rows_ratio: float = 1.0) -> None:
    expected, found = pairs.scored(theirs, batch), pairs.scored(ours, batch)
    assert ours._metrics["train"]["shared_prefix/rows_ratio"][-1] == rows_ratio
    for one, other in zip(expected[:2], found[:2], strict=True):
        assert (one - other).abs().max() <= LIMIT
    assert expected[2]
    assert pairs.furthest(expected[2], found[2]) <= LIMIT


@pytest.mark.parametrize("variant", tiers(pairs.VARIANTS, pairs.EVERY_CHANGE))
def test_prompts_of_several_pictures(
    variant: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In tiles, of two shapes, from one to three in a prompt; the same pictures in another order are another prompt."""
    asked = pairs.rows_of(pairs.SEVERAL)
    size = {"per_device_train_batch_size": len(asked) * pairs.GROUP}
    theirs, ours = both(bases, tmp_path, variant, **size)
    rollouts = [pairs.rollout(by, asked) for by in (theirs, ours)]
    for key, value in rollouts[0].items():
        other = rollouts[1][key]
        assert value.equal(other) if isinstance(value, torch.Tensor) else value == other, key
    groups: list[int] = []
    pack = logprobs.Packed.of
    monkeypatch.setattr(logprobs.Packed, "of", lambda *args: groups.append(len(args[3])) or pack(*args))
    compare(theirs, ours, pairs.shuffled(theirs, asked))
    assert set(groups) == {len(asked)}


@pytest.mark.parametrize("variant", tiers(pairs.VARIANTS, pairs.EVERY_CHANGE))
def test_prompts_of_no_one_and_two_pictures(variant: str, bases: dict[str, Path], tmp_path: Path):
    """In one batch, which TRL cannot sample, and in parts of which some show no picture: each as TRL scores it by itself."""
    asked = pairs.rows_of(pairs.MIXED)
    theirs, ours = both(bases, tmp_path, variant, per_device_train_batch_size=len(asked) * pairs.GROUP)
    batches = []
    for ours.sharing in (False, True):
        batches.append(pairs.cut(pairs.rollout(ours, asked)))
    for key, value in batches[0].items():
        other = batches[1][key]
        assert value.equal(other) if isinstance(value, torch.Tensor) else value == other, key
    expected = pairs.scored_alone(theirs, batches[0], asked)
    for ours.sharing in (True, False):
        for at_once in (None, pairs.GROUP, 3):
            found = pairs.scored(ours, batches[0], at_once)
            for one, other in zip(expected[:2], found[:2], strict=True):
                assert (one - other).abs().max() <= LIMIT
            assert pairs.furthest(expected[2], found[2]) <= LIMIT


@pytest.mark.parametrize("variant", tiers(pairs.VARIANTS, pairs.EVERY_CHANGE))
@pytest.mark.parametrize("sharing", [True, False])
def test_a_step_on_no_one_and_two_pictures(sharing: bool, variant: str, bases: dict[str, Path], tmp_path: Path):
    """By shuffled micro-batches, some without a picture: the sum of their gradients is that of TRL's loss of the whole."""
    asked = [row for row in pairs.rows_of(pairs.MIXED) for _ in range(pairs.GROUP)]
    parts = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": pairs.GROUP}
    _, ours = both(bases, tmp_path, variant, loss_type="dapo", **parts)
    theirs, whole = both(bases, tmp_path, variant, loss_type="dapo", per_device_train_batch_size=3 * pairs.GROUP)
    ours.sharing = whole.sharing = sharing
    torch.manual_seed(2)
    whole.model.train()
    batch = whole._generate_and_score_completions(asked)
    grads = []
    for by, steps in ((theirs, 1), (ours, 3)):
        torch.manual_seed(2)
        by.model.train()
        by.model.zero_grad()
        by.current_gradient_accumulation_steps = steps
        for by._step in range(steps):
            by.compute_loss(by.model, batch if by is theirs else by._prepare_inputs(asked)).backward()
        grads.append({name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None})
    assert max(float(one.abs().max()) for one in grads[0].values()) > 0
    assert pairs.furthest(*grads) <= LIMIT


@pytest.mark.parametrize("variant", FAMILIES)
def test_prompts_of_text_alone(variant: str, bases: dict[str, Path], tmp_path: Path):
    asked = pairs.rows_of([(0, ()), (1, ())])
    theirs, ours = both(bases, tmp_path, variant, per_device_train_batch_size=2 * pairs.GROUP)
    compare(theirs, ours, pairs.shuffled(theirs, asked))


@pytest.mark.parametrize("variant", FAMILIES)
def test_prompts_of_a_token_or_two(variant: str, bases: dict[str, Path], tmp_path: Path):
    """Of padding there may be as much as the longest prompt is long; one token alone leaves nothing to share."""
    theirs, ours = both(bases, tmp_path, variant)
    for lengths, rows_ratio in (((2, 2), 1.0), ((1, 7), 1.0), ((2, 2, 9), 1.0), ((1, 1), 0.0)):
        compare(theirs, ours, random_prompts(lengths, kinds=variant == "qwen3_vl"), rows_ratio)


def random_prompts(lengths: Sequence[int], kinds: bool) -> dict[str, Any]:
    """A batch without pictures, padded on the left; `kinds`: with that of each token."""
    noise, longest = torch.Generator().manual_seed(0), max(lengths)
    drawn = torch.randint(200, 300, (len(lengths), longest), generator=noise)
    mask = torch.stack([(torch.arange(longest) >= longest - length).long() for length in lengths])
    rows = len(lengths) * pairs.GROUP
    batch = {
        "prompt_ids": (drawn * mask).repeat_interleave(pairs.GROUP, dim=0),
        "prompt_mask": mask.repeat_interleave(pairs.GROUP, dim=0),
        "completion_ids": torch.randint(200, 300, (rows, 5), generator=noise),
        "completion_mask": (torch.arange(5) < torch.arange(rows)[:, None] % 5 + 1).long(),
    }
    return batch | ({"mm_token_type_ids": torch.zeros(rows, longest + 5, dtype=torch.long)} if kinds else {})


@pytest.mark.parametrize("kept", [0, 5])
def test_completions_that_are_masked_from_their_first_token(kept: int, bases: dict[str, Path], tmp_path: Path):
    """As `mask_truncated_completions` masks all of them, or all but some."""
    theirs, ours = both(bases, tmp_path)
    batch = pairs.shuffled(theirs)
    batch["completion_mask"][kept:] = 0
    compare(theirs, ours, batch)
    found = pairs.scored(ours, batch)
    assert (found[0][kept:] == 0).all()


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_any_part_may_be_frozen_with_any_checkpointing(
    reentrant: bool | None, variant: str, bases: dict[str, Path], tmp_path: Path
):
    how = {
        "gradient_checkpointing": reentrant is not None,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    theirs, ours = both(bases, tmp_path, variant, **how)
    batch = pairs.shuffled(theirs)
    for frozen in ([], ["vision"], ["language", "connector"], ["language"]):
        for by in (theirs, ours):
            by.model.requires_grad_(True)
            freeze(by.model, frozen)
        compare(theirs, ours, batch)


@pytest.mark.parametrize(
    ("variant", "bits", "reentrant"),
    [("idefics3", None, False), ("qwen3_vl", None, True), ("idefics3", "4bit", False), ("idefics3", "4bit", True)],
)
def test_adapters_of_the_language_model(
    variant: str, bits: str | None, reentrant: bool, bases: dict[str, Path], tmp_path: Path
):
    from peft import LoraConfig

    how = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    lora = LoraConfig(r=4, target_modules=LANGUAGE)
    quantization = bitsandbytes(bits, "float32") if bits else None
    theirs, ours = both(bases, tmp_path, variant, peft=lora, quantization=quantization, **how)
    for by in (theirs, ours):
        for one in by.model.parameters():
            if one.requires_grad:
                # As a stage does: trl makes those of a quantized model bfloat16.
                one.data = one.data.float()
        pairs.moved(by)
    batch = pairs.shuffled(theirs)
    compare(theirs, ours, batch)
    assert all("lora" in name for name in pairs.scored(ours, batch)[2])


TWICE = {"num_iterations": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"loss_{name}": {**TWICE, "loss_type": name} for name in (
        "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo",
    )},
    "sequence": {**TWICE, "importance_sampling_level": "sequence"},
    "luspo_sequence": {**TWICE, "loss_type": "luspo", "importance_sampling_level": "sequence"},
    "high_entropy": {**TWICE, "top_entropy_quantile": 0.4},
    "entropy_bonus": {**TWICE, "entropy_coef": 0.1},
    "mask_truncated": {**TWICE, "mask_truncated_completions": True, "max_completion_length": 64},
    "scale_batch": {**TWICE, "scale_rewards": "batch"},
    "scale_none": {**TWICE, "scale_rewards": "none"},
    "two_sided": {**TWICE, "delta": 1.1},
    "off_policy": {**TWICE, "off_policy_mask_threshold": 0.001},
    "reference": {**TWICE, "beta": 0.1},
    "reference_adapter": {**TWICE, "beta": 0.1, "lora": True},
    "padded": {**TWICE, "pad_to_multiple_of": 16},
    "tempered": {**TWICE, "temperature": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_loss_is_that_of_trl(name: str, bases: dict[str, Path], tmp_path: Path):
    """Of weights that have moved since the rollout; Qwen3-VL's rows have most that may be out of place."""
    from peft import LoraConfig

    options = dict(OPTIONS[name])
    peft = LoraConfig(r=4, target_modules=LANGUAGE) if options.pop("lora", False) else None
    theirs, ours = both(bases, tmp_path, "qwen3_vl", peft=peft, **options)
    expected, found = pairs.lost(theirs), pairs.lost(ours)
    assert found[0] == pytest.approx(expected[0], rel=LIMIT, abs=LIMIT)
    assert max(float(one.norm()) for one in expected[1].values()) > 1e-3
    assert pairs.furthest(expected[1], found[1]) <= LIMIT
    shared = found[2].pop("shared_prefix/rows_ratio"), found[2].pop("shared_prefix/difference")
    assert shared[0] == 1.0
    for key in expected[2]:
        assert found[2][key] == pytest.approx(expected[2][key], rel=1e-4, abs=1e-6), key


def test_evaluation_by_trl_is_the_same(bases: dict[str, Path], tmp_path: Path):
    theirs, ours = both(bases, tmp_path, "qwen3_vl", per_device_eval_batch_size=8)
    figures = []
    for by in (theirs, ours):
        torch.manual_seed(2)
        figures.append(by.evaluate())
    measured = {key for key in figures[0] if not key.endswith(("_time", "runtime", "_per_second"))}
    assert {"eval_loss", "eval_reward", "eval_entropy"} <= measured
    for key in measured:
        assert figures[1][key] == pytest.approx(figures[0][key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        (
            {"dropout": 0.05},
            "model.peft.lora_dropout: 0.05 would drop the same of all completions of a prompt; set it to 0",
        ),
        ({"model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"}}, "is eager; it needs sdpa"),
    ],
)
def test_what_keeps_prompts_from_being_shared_is_said_at_the_start(
    options: dict[str, Any], words: str, bases: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from peft import LoraConfig

    options = dict(options)
    dropout = options.pop("dropout", None)
    peft = None if dropout is None else LoraConfig(r=4, target_modules=LANGUAGE, lora_dropout=dropout)
    ours = pairs.trainer(PolicyTrainer, bases["idefics3"], tmp_path, "idefics3", peft=peft, **options)
    said = capfd.readouterr().err
    assert "shared_prefix: off" in said
    assert words in said
    assert not ours.sharing
