"""Qwen3-VL: the vision model's features also enter the first layers of the text model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny import _qwen
from stages.models.tiny._parts import VISION_MLP


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config)."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor
    from trl.chat_template_utils import qwen3_vl_chat_template

    tokenizer = _qwen.tokenizer_of(sizes, texts)
    pixels = _qwen.pixels(sizes)
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        tokenizer,
        Qwen3VLVideoProcessor(**pixels),
        chat_template=qwen3_vl_chat_template,
    )
    vision_config = _qwen.vision_config(
        sizes,
        hidden_size=sizes.vision_hidden_size,
        intermediate_size=VISION_MLP * sizes.vision_hidden_size,
        out_hidden_size=sizes.hidden_size,
        num_position_embeddings=(sizes.image_size // sizes.patch_size) ** 2,
        deepstack_visual_indexes=list(range(min(sizes.vision_layers, sizes.layers))),
    )
    config = Qwen3VLConfig(
        text_config={**_qwen.text_config(sizes, tokenizer, mrope_interleaved=True), "head_dim": 32},
        vision_config=vision_config,
        tie_word_embeddings=True,
        **_qwen.image_ids(tokenizer),
    )
    return config, processor, _qwen.generation_config(tokenizer)
