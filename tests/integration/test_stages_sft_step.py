"""The SFT step beside bare trl.SFTTrainer's: the same loss and gradients, without the work that nothing trains from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from tiers import tiers
from torch.utils.flop_counter import FlopCounterMode
from trl import SFTConfig, SFTTrainer
from trl.trainer import utils

from pipeline.config.schema import ModelConfig, RunConfig, StageConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.run_dir import RunDir
from pipeline.system.library_patches import score_labels_alone
from stages.models import loading
from stages.models.tiny import build_tiny
from stages.processes.work import Work
from stages.training.sft_trainer import SupervisedTrainer

pytestmark = pytest.mark.slow
FAMILIES = ("idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "llava")
SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 64,
    "vision_hidden_size": 64,
    "vision_layers": 3,
    "layers": 2,
}
LORA = {"r": 2, "target_modules": r".*(text_model|language_model).*\.(q_proj|v_proj)"}


@pytest.fixture(autouse=True)
def trl_as_it_is():
    """What a stage changes in TRL for its process ends with the test."""
    with mock.patch.object(utils, "_use_triton", utils._use_triton):
        yield


def picture(number: int, family: str) -> Image.Image:
    """A picture of noise; where a family keeps the shapes of pictures, every second one is wide."""
    noise = torch.Generator().manual_seed(number)
    shape = (64, 128 if number % 2 and family != "llava" else 64, 3)
    return Image.fromarray(torch.randint(0, 255, shape, generator=noise, dtype=torch.uint8).numpy())


def rows(family: str) -> Any:
    from datasets import Dataset

    columns = {
        "prompt": [user_turn("Which emotion?" * (number % 3 + 1)) for number in range(12)],
        "completion": [[{"role": "assistant", "content": "joy " * (number % 4 + 1)}] for number in range(12)],
        "images": [[number] for number in range(12)],
    }
    return Dataset.from_dict(columns).with_transform(
        lambda read: {**read, "images": [[picture(one, family) for one in images] for images in read["images"]]}
    )


def trainer(ours: bool, base: Path, scratch: Path, family: str, *, freeze=(), lora=False, **options: Any) -> Any:
    """The stage's trainer, prepared as the stage does it, or TRL's with the same parts held fixed."""
    stage = StageConfig(algorithm="sft", init_from="base", data="labels", freeze=list(freeze))
    model = ModelConfig(peft=LORA if lora else None)
    config = RunConfig(name="pair", output_dir=str(scratch), stages={"stage1_sft": stage}, model=model)
    work = Work(config, "stage1_sft", RunDir(scratch, config.name))
    own = {
        "output_dir": str(scratch / "trainer"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": 2,
        "max_length": None,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
    }
    processor = loading.load_processor(base, config)
    made = (SupervisedTrainer if ours else SFTTrainer)(
        model=str(base),
        args=SFTConfig(**{**own, **options}),
        train_dataset=rows(family),
        processing_class=processor,
        peft_config=loading.peft_config(work, processor.tokenizer),
    )
    if ours:
        loading.prepare(made, work)
    else:
        loading.freeze(made.model, list(freeze))
    return made


def step(by: Any) -> tuple[int, dict[str, torch.Tensor]]:
    """(floating point operations, gradients) of the first rows, with gradient checkpointing as in training."""
    if by.args.gradient_checkpointing:
        by.model.gradient_checkpointing_enable()
    by.model.train()
    by.current_gradient_accumulation_steps = 1
    batch = by._prepare_inputs(by.data_collator([by.train_dataset[number] for number in range(4)]))
    tokens = (batch["labels"][:, 1:] != -100).sum()
    with FlopCounterMode(display=False) as counter:
        by.training_step(by.model, batch, tokens)
    grads = {name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None}
    return counter.get_total_flops(), grads


@pytest.mark.parametrize("held", ["frozen vision", "adapters of the language model"])
@pytest.mark.parametrize("family", tiers(FAMILIES, ("smolvlm", "qwen3_vl", "internvl")))
def test_checkpointing_costs_a_frozen_vision_tower_nothing_and_leaves_every_gradient(family, held, tmp_path):
    build_tiny(tmp_path / "base", TinyConfig(family=family, **SIZES), ["Which emotion? joy"] * 20, 0)
    how: dict[str, Any] = {"freeze": ["vision"]} if held == "frozen vision" else {"lora": True}
    (theirs, expected), (ours, found) = (
        step(trainer(own, tmp_path / "base", tmp_path, family, **how)) for own in (0, 1)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # transformers' own hook does not reach the embeddings of Qwen3-VL's vision tower.
    assert ours <= theirs if family == "qwen3_vl" else ours < 0.95 * theirs


def test_reentrant_checkpointing_keeps_the_gradients_it_needs_of_embeddings(tmp_path):
    build_tiny(tmp_path / "base", TinyConfig(family="idefics3", **SIZES), ["Which emotion? joy"] * 20, 0)
    how = {"gradient_checkpointing_kwargs": {"use_reentrant": True}, "lora": True}
    by = trainer(True, tmp_path / "base", tmp_path, "idefics3", **how)
    by.model.gradient_checkpointing_enable(by.args.gradient_checkpointing_kwargs)
    by.args.gradient_checkpointing = False
    _, grads = step(by)
    assert grads


def test_no_hook_is_left_where_checkpointing_is_turned_off_and_on_at_each_rollout(tmp_path):
    build_tiny(tmp_path / "base", TinyConfig(family="idefics3", **SIZES), ["Which emotion? joy"] * 20, 0)

    def hooks(ours: bool) -> int:
        by = trainer(ours, tmp_path / "base", tmp_path, "idefics3")
        for _ in range(3):
            by.model.gradient_checkpointing_enable()
            by.model.gradient_checkpointing_disable()
        return len(by.model.get_input_embeddings()._forward_hooks)

    # At 0 by itself, transformers has mended it and our cure can go.
    assert (hooks(False), hooks(True)) == (3, 0)


def test_on_a_cpu_only_positions_with_a_label_are_scored_and_the_gradients_are_the_same(tmp_path):
    build_tiny(tmp_path / "base", TinyConfig(family="idefics3", **SIZES), ["Which emotion? joy"] * 20, 0)
    by = trainer(True, tmp_path / "base", tmp_path, "idefics3", gradient_checkpointing=False)
    scored: list[int] = []
    head = utils._ChunkedLogProbFunction.apply

    def counted(hidden: torch.Tensor, *rest: Any) -> Any:
        scored.append(len(hidden))
        return head(hidden, *rest)

    with mock.patch.object(utils._ChunkedLogProbFunction, "apply", counted):
        _, everything = step(by)
        by.model.zero_grad()
        score_labels_alone()
        _, labels_alone = step(by)
    batch = by.data_collator([by.train_dataset[number] for number in range(4)])
    rows, length = batch["labels"].shape
    assert scored == [rows * (length - 1), int((batch["labels"][:, 1:] != -100).sum())]
    for name, expected in everything.items():
        torch.testing.assert_close(labels_alone[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", tiers(["idefics3", "qwen2_5_vl"], ["qwen2_5_vl"]))
def test_twenty_steps_end_at_trl_s_weights(family, tmp_path):
    """SGD, because Adam makes steps of equal size of what is rounding alone."""
    build_tiny(tmp_path / "base", TinyConfig(family=family, **SIZES), ["Which emotion? joy"] * 20, 0)
    how = {"optim": "sgd", "learning_rate": 1e-1, "max_steps": 20, "gradient_accumulation_steps": 2}
    both = []
    for ours in (False, True):
        if ours:
            score_labels_alone()
        by = trainer(ours, tmp_path / "base", tmp_path, family, freeze=["vision"], **how)
        # TRL's own trainer is not told the tokens of a whole step of this family (test_sft_trainer.py).
        by.model_accepts_loss_kwargs = True
        before = {name: one.detach().clone() for name, one in by.model.named_parameters()}
        by.train()
        both.append({name: one.detach() for name, one in by.model.named_parameters()})
    theirs, found = both
    assert max((theirs[name] - before[name]).abs().max() for name in theirs) > 1e-2
    assert max(float((theirs[name] - found[name]).abs().max()) for name in theirs) < 1e-6
