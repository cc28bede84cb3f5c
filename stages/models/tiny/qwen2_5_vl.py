"""Qwen2.5-VL: Qwen2-VL with a vision model that attends in windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny import _qwen
from stages.models.tiny._parts import VISION_MLP


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config)."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    tokenizer = _qwen.tokenizer_of(sizes, texts)
    pixels = _qwen.pixels(sizes)
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        tokenizer,
        Qwen2VLVideoProcessor(**pixels),
        chat_template=qwen2_5_vl_chat_template,
    )
    vision_config = _qwen.vision_config(
        sizes,
        hidden_size=sizes.vision_hidden_size,
        intermediate_size=VISION_MLP * sizes.vision_hidden_size,
        out_hidden_size=sizes.hidden_size,
        window_size=sizes.patch_size * sizes.scale_factor,
        fullatt_block_indexes=[sizes.vision_layers - 1],
    )
    config = Qwen2_5_VLConfig(
        text_config=_qwen.text_config(sizes, tokenizer),
        vision_config=vision_config,
        tie_word_embeddings=True,
        **_qwen.image_ids(tokenizer),
    )
    return config, processor, _qwen.generation_config(tokenizer)
