"""A supervised step weighs tokens alike, however they are shared out over micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiers import tiers
from transformers import AutoProcessor
from trl import SFTConfig

from pipeline.config.families import tiny_families
from pipeline.config.schema import TinyConfig
from pipeline.data.conversations import assistant_turn, user_turn
from stages.models.loading import hold_batch_norms
from stages.models.tiny import build_tiny
from stages.training.sft_trainer import SupervisedTrainer

SIZES = {"hidden_size": 32, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 32, "vision_layers": 1}


def update(folder: Path, rows: int, accumulated: int) -> dict[str, torch.Tensor]:
    """What one step of SGD on two rows, whose answers have one word and thirty, changes."""
    columns = {
        "prompt": [user_turn("Which emotion?")] * 2,
        "completion": [assistant_turn("joy"), assistant_turn("joy " * 30)],
        "colour": ["red", "navy"],
    }

    def drawn(batch: dict[str, Any]) -> dict[str, Any]:
        images = [[Image.new("RGB", (64, 64), colour)] for colour in batch["colour"]]
        return {"prompt": batch["prompt"], "completion": batch["completion"], "images": images}

    # TRL's own defaults but for what makes two ways comparable.
    arguments = SFTConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulated,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        bf16=False,
        max_length=None,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
    )
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    data = Dataset.from_dict(columns).with_transform(drawn)
    trainer = SupervisedTrainer(model=str(folder), args=arguments, train_dataset=data, processing_class=processor)
    # As a stage prepares it: else each batch would be normalised by its own pictures.
    hold_batch_norms(trainer.model)
    before = {name: one.detach().clone() for name, one in trainer.model.named_parameters()}
    trainer.train()
    return {name: one.detach() - before[name] for name, one in trainer.model.named_parameters()}


@pytest.mark.parametrize("family", tiers(tiny_families(), ("qwen2_5_vl", "qwen3_vl")))
def test_a_step_is_the_same_in_one_batch_and_in_two(family: str, tmp_path: Path) -> None:
    """transformers takes the two Qwens for models whose loss knows nothing of the other micro-batches."""
    build_tiny(tmp_path, TinyConfig(family=family, vocab_size=384, **SIZES), ["Which emotion? joy"] * 20, seed=0)
    whole, halves = update(tmp_path, 2, 1), update(tmp_path, 1, 2)
    size = sum(float(one.square().sum()) for one in whole.values()) ** 0.5
    apart = sum(float((one - halves[name]).square().sum()) for name, one in whole.items()) ** 0.5
    assert apart < 1e-5 * size
    assert size > 0
