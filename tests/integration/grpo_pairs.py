"""Bare trl.GRPOTrainer and the stages' trainer on the same tiny model and the same rows, to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from trl import GRPOConfig
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import (
    shuffle_sequence_dict,
    split_pixel_values_by_grid,
    unsplit_pixel_values_by_grid,
)

from pipeline.config.schema import ModelConfig, RunConfig, StageConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.run_dir import RunDir
from rewards import completion_text
from stages.models.loading import attention, hold_batch_norms, load_processor
from stages.models.tiny import build_tiny
from stages.processes.work import Work
from stages.shared_prefix.row_groups import pad_kinds
from stages.training.grpo_trainer import PolicyTrainer

ASKED = ("Which emotion?", "Which emotion does this picture evoke? Give reasons, then the answer.")
TILES = {"do_image_splitting": True, "size": {"longest_edge": 128}}
VARIANTS: dict[str, dict[str, Any]] = {
    "idefics3": {},
    "idefics3_tiled": TILES,
    "smolvlm": TILES,
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "qwen3_vl": {},
    "internvl": {},
    "llava": {},
    "fast_vlm": {},
}
"""Family, and what its processor does with a picture."""
EVERY_CHANGE = ("idefics3_tiled", "qwen3_vl", "internvl")
"""Of the variants: images in tiles, positions in three dimensions, tiles of unequal number. The others are nightly."""
FIELDS = ("pixel_values", "pixel_attention_mask", "image_grid_thw", "num_images", "num_tiles", "mm_token_type_ids")
GROUP = 4
SEVERAL = ((0, (0, 2)), (0, (2, 0)), (1, (1,)), (0, (0, 1, 2)))
"""Prompts of several pictures, as numbers of texts and of pictures; the first two have the same tokens."""

MIXED = ((0, (0,)), (1, ()), (0, (1, 2)))
"""Prompts of one, no and two pictures: as many pictures as prompts."""


def build(folder: Path, variant: str) -> Path:
    """A tiny checkpoint whose weights are large, so that a token moved by one place moves every log-probability."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "vision_hidden_size": 64, "vision_layers": 2, "layers": 2}
    build_tiny(folder, TinyConfig(family=variant.removesuffix("_tiled"), vocab_size=384, **sizes), list(ASKED) * 20, 0)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    louder = {
        name: one + torch.randn(one.shape) * (0.12 if one.dim() > 1 else 0.05)
        for name, one in sorted(weights.items())
        # Batch norms count their batches.
        if one.is_floating_point()
    }
    save_file({**weights, **louder}, folder / "model.safetensors", {"format": "pt"})
    return folder


def pictures() -> list[Image.Image]:
    """Noise of two shapes."""
    noise = torch.Generator().manual_seed(0)
    sizes = ((64, 64), (64, 128), (64, 64), (64, 128))
    pixels = [torch.randint(0, 255, (*size, 3), generator=noise, dtype=torch.uint8) for size in sizes]
    return [Image.fromarray(one.numpy()) for one in pixels]


def rows() -> list[dict[str, Any]]:
    """Two texts on pictures of two shapes; the third row asks the first one's text of another picture, the last is the widest."""
    return [{"prompt": user_turn(ASKED[number % 2]), "images": [picture]} for number, picture in enumerate(pictures())]


def rows_of(prompts: Sequence[tuple[int, tuple[int, ...]]]) -> list[dict[str, Any]]:
    """Rows of these texts on these pictures, of which a prompt may have several, or none when all have none."""
    drawn = pictures()
    return [
        {"prompt": [{"role": "user", "content": ASKED[text]}], "images": [drawn[one] for one in numbers]}
        for text, numbers in prompts
    ]


def reward(completions: list[Any], **columns: Any) -> list[float]:
    """Something a random model can win."""
    return [float(sum(completion_text(one).encode()) % 7) for one in completions]


def trainer(
    cls: type, base: Path, scratch: Path, variant: str, peft: Any = None, quantization: Any = None, **options: Any
) -> Any:
    """A trainer of either class with the same options."""
    from datasets import Dataset

    stage = StageConfig(algorithm="grpo", init_from="base")
    model = ModelConfig(processor=VARIANTS[variant])
    config = RunConfig(name="pair", output_dir=str(scratch), stages={"stage1_grpo": stage}, model=model)
    work = Work(config, "stage1_grpo", RunDir(scratch, config.name))
    work.folder.mkdir(parents=True, exist_ok=True)
    own = {
        "output_dir": str(scratch / "trainer"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "num_generations": GROUP,
        "per_device_train_batch_size": 3 * GROUP,
        "max_completion_length": 8,
        # Adam makes steps of equal size of what is rounding alone.
        "optim": "sgd",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": attention(base, config)},
    }
    how = {
        "model": str(base),
        "reward_funcs": reward,
        "args": GRPOConfig(**{**own, **options}),
        "train_dataset": Dataset.from_list([{"number": number} for number in range(12)]).with_transform(_opened),
        "processing_class": load_processor(base, config),
        "eval_dataset": Dataset.from_list([{"number": number} for number in range(3)]).with_transform(_opened),
        "peft_config": peft,
        "quantization_config": quantization,
    }
    made = cls(work, **how) if cls is PolicyTrainer else cls(**how)
    # As every stage does; else a tower's answer would be that of the pictures beside it.
    hold_batch_norms(made.model)
    return made


def _opened(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
    found = [rows()[number % 4] for number in batch["number"]]
    return {name: [row[name] for row in found] for name in ("prompt", "images")}


def rollout(by: Any, asked: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What a trainer makes of these prompts, or of three."""
    torch.manual_seed(2)
    by.model.train()
    asked = asked or rows()[:3]
    batch: dict[str, Any] = by._generate_and_score_completions([row for row in asked for _ in range(GROUP)])
    return batch


def shuffled(by: Any, asked: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Its rollout in any order, with completions of unequal lengths."""
    batch = cut(rollout(by, asked))
    shuffled_batch: dict[str, Any] = unsplit_pixel_values_by_grid(
        shuffle_sequence_dict(split_pixel_values_by_grid(batch))
    )
    return shuffled_batch


def cut(batch: dict[str, Any]) -> dict[str, Any]:
    """A rollout whose completions have unequal lengths."""
    longest = batch["completion_ids"].shape[1]
    lengths = torch.randint(1, longest + 1, (len(batch["prompt_ids"]), 1), generator=torch.Generator().manual_seed(3))
    return {**batch, "completion_mask": (torch.arange(longest) < lengths).long()}


def scored(
    by: Any, batch: dict[str, Any], at_once: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(log-probabilities, entropies, gradients of a random sum of both) of a trainer, of so many rows at once, or of all."""
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    fields = {name: batch[name] for name in FIELDS if name in batch}
    by.model.train()
    by.model.zero_grad()
    logps, entropies, _ = by._get_per_token_logps_and_entropies(
        by.model, tokens, mask, batch["completion_ids"].shape[1], at_once, compute_entropy=True, **fields
    )
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(4))
    (weights * (logps + entropies)).sum().backward()
    grads = {name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None}
    return logps.detach(), entropies.detach(), grads


def scored_alone(
    by: Any, batch: dict[str, Any], asked: Sequence[dict[str, Any]]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """As `scored`, the rows of each prompt by themselves, with what the processor makes of that prompt alone."""
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width, completion = batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]
    weights = torch.randn((len(tokens), completion), generator=torch.Generator().manual_seed(4))
    by.model.train()
    by.model.zero_grad()
    found = []
    for number, row in enumerate(asked):
        part = slice(number * GROUP, (number + 1) * GROUP)
        turns = prepare_multimodal_messages(row["prompt"], images=row["images"])
        text = by.processing_class.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        fields: dict[str, Any] = {}
        if row["images"]:
            how = {"return_tensors": "pt", "add_special_tokens": False}
            made = by.processing_class(text=[text] * GROUP, images=[row["images"]] * GROUP, **how)
            fields = pad_kinds({name: made[name] for name in FIELDS if name in made}, width, completion)
            fields["num_images"] = [len(row["images"])] * GROUP
            if made["pixel_values"].dim() == 4 and len(made["pixel_values"]) != sum(fields["num_images"]):
                fields["num_tiles"] = [len(made["pixel_values"]) // GROUP] * GROUP
        logps, entropies, _ = by._get_per_token_logps_and_entropies(
            by.model, tokens[part], mask[part], completion, compute_entropy=True, **fields
        )
        (weights[part] * (logps + entropies)).sum().backward()
        found.append((logps.detach(), entropies.detach()))
    grads = {name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None}
    logps, entropies = (torch.cat(of_all) for of_all in zip(*found, strict=True))
    return logps, entropies, grads


def moved(by: Any) -> None:
    """Move what trains, so that ratios are not 1 and a new adapter does something."""
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for one in by.model.parameters():
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=noise) * 0.02)


def lost(by: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, Any]]:
    """(loss, gradients, metrics) of a step on a rollout that was drawn before the weights moved."""
    torch.manual_seed(2)
    by.model.train()
    by.current_gradient_accumulation_steps = 1
    batch = by._prepare_inputs([row for row in rows()[:3] for _ in range(GROUP)])
    moved(by)
    by.model.zero_grad()
    loss = by.compute_loss(by.model, batch)
    loss.backward()
    grads = {name: one.grad.clone() for name, one in by.model.named_parameters() if one.grad is not None}
    return loss.item(), grads, {name: values[-1] for name, values in by._metrics["train"].items() if values}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative distance of two tensors of a name, in the 2-norm.

    A tensor whose norm is below a thousandth of all is measured against that: the bias of a key has no gradient but rounding.
    """
    assert one.keys() == other.keys()
    least = 1e-3 * float(torch.stack([tensor.norm() for tensor in one.values()]).norm())
    # No completion was scored.
    if least == 0:
        return max(float(tensor.abs().max()) for tensor in other.values())
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp(min=least)) for name in one)


def tokens_of(by: Any, sample: bool, ends: list[int]) -> list[list[int]]:
    """What a trainer writes to three prompts, four times each.

    Args:
        ends: tokens that end a completion, beside the model's own.
    """
    torch.manual_seed(1)
    config = by.generation_config
    before = config.do_sample, config.eos_token_id, config.max_new_tokens
    config.do_sample, config.eos_token_id, config.max_new_tokens = sample, [*by.eos_token_ids, *ends], 24
    prompts = [
        prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows()[:3] for _ in range(GROUP)
    ]
    completions: list[list[int]] = (
        by.complete_prompts(prompts)["completion_ids"]
        if isinstance(by, PolicyTrainer)
        else by._generate_single_turn(*by._tokenize_prompts(prompts), GROUP)[0]
    )
    config.do_sample, config.eos_token_id, config.max_new_tokens = before
    return completions


def trained(
    cls: type, base: Path, scratch: Path, variant: str, **options: Any
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """(what was logged, weights) after a training."""
    by = trainer(cls, base, scratch, variant, **options)
    by.train()
    return by.state.log_history, by.model.state_dict()
