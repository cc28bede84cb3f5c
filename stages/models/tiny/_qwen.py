"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: tokenizer, image sizes, rotary sections, ids and generation config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import qwen_tokenizer, text_sizes

IMAGE_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def tokenizer_of(sizes: TinyConfig, texts: Iterable[str]) -> Any:
    """Return the tokenizer with the marks of images and videos."""
    return qwen_tokenizer(texts, sizes.vocab_size, IMAGE_MARKS)


def pixels(sizes: TinyConfig) -> dict[str, Any]:
    """Return arguments of the image and video processors. An image keeps its aspect, with image_size squared pixels at most."""
    cell = sizes.patch_size * sizes.scale_factor
    return {
        "patch_size": sizes.patch_size,
        "merge_size": sizes.scale_factor,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": cell**2, "longest_edge": sizes.image_size**2},
    }


def text_config(sizes: TinyConfig, tokenizer: Any, **fields: Any) -> dict[str, Any]:
    """Return the text model's configuration; half a head's width is shared out among time, height and width."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6], **fields}
    return {**text_sizes(sizes, tokenizer), "rope_parameters": rope}


def vision_config(sizes: TinyConfig, **fields: Any) -> dict[str, Any]:
    """Return the fields that the vision models share."""
    return {
        "depth": sizes.vision_layers,
        "num_heads": sizes.vision_hidden_size // 32,
        "patch_size": sizes.patch_size,
        "spatial_merge_size": sizes.scale_factor,
        "temporal_patch_size": 2,
        **fields,
    }


def image_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the marks, as the model's configuration names them."""
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(IMAGE_MARKS)), strict=True))


def generation_config(tokenizer: Any) -> Any:
    """Return as the checkpoints have it: it samples from a cut distribution, penalises repetition and ends at either
    of two tokens.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.001,
        repetition_penalty=1.05,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
