"""Where models and processors are loaded, in one place: device, precision, adapters, and the parts that stay fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.compat import declare_torchvision_ops
from pipeline.errors import UserError
from stages._launch import Work

declare_torchvision_ops()

import torch  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

PART_PREFIXES = {
    "vision": ("vision_model", "vision_tower", "visual"),
    "connector": (
        "connector",
        "multi_modal_projector",
        "image_newline",
        "visual.merger",
        "visual.deepstack_merger_list",
    ),
    "language": ("text_model", "language_model", "lm_head"),
}
"""Module names of the parts of a VLM across the model families of transformers."""


def use_cpu() -> bool:
    """Whether stages run on the CPU of this machine."""
    return not torch.cuda.is_available()


def compute_dtype(config: Any) -> str:
    """bfloat16 or float32, as model.dtype resolves on this machine. Weights are float32 masters either way."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if not use_cpu() and torch.cuda.is_bf16_supported() else "float32"


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of a checkpoint, with the run's `model.processor` arguments. It pads on the left.

    Some checkpoints (Qwen2.5-VL, Qwen3-VL) pad on the right by default. GRPOTrainer lays prompts out from the left itself, but
    takes mm_token_type_ids as the processor pads them: in a batch of images of several shapes they would mark other tokens than
    the image's, and the log-probabilities that train would be those of other positions.

    Raises:
        UserError: when the processor needs a package that is not installed.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=config.model.trust_remote_code, **config.model.processor
        )
    except ImportError as error:  # torchvision for processors that also read videos, num2words for SmolVLM2's.
        raise UserError(f"the processor in {folder} needs a package that is not installed: {error}") from error
    processor.tokenizer.padding_side = "left"
    return processor


def lora_config(work: Work) -> Any:
    """peft.LoraConfig of `model.peft`, or None when all weights train."""
    if work.config.model.peft is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**work.config.model.peft)


def freeze(model: torch.nn.Module, parts: list[str]) -> None:
    """Hold the named parts fixed.

    Raises:
        UserError: when a part has no parameter in this model, or nothing is left to train.
    """
    for part in parts:
        found = [parameter for name, parameter in model.named_parameters() if part_of(name) == part]
        if not found:
            raise UserError(
                f"freeze: this model has no part named {part} (looked for {', '.join(PART_PREFIXES[part])})"
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: {parts} leaves nothing to train")


def part_of(name: str) -> str | None:
    """The part of a VLM a parameter belongs to, by its name; the longest prefix decides, so visual.merger is a connector."""
    found = {prefix: part for part, names in PART_PREFIXES.items() for prefix in names if f".{prefix}." in f".{name}."}
    return found[max(found, key=len)] if found else None
