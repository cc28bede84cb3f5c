"""Qwen2-VL: images in their own aspect, as many tokens as they have cells, and three-dimensional positions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny import _qwen
from stages.models.tiny._parts import VISION_MLP


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config)."""
    from transformers import Qwen2VLConfig, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    tokenizer = _qwen.tokenizer_of(sizes, texts)
    pixels = _qwen.pixels(sizes)
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        tokenizer,
        Qwen2VLVideoProcessor(**pixels),
        # The two families' templates are the same.
        chat_template=qwen2_5_vl_chat_template,
    )
    config = Qwen2VLConfig(
        text_config=_qwen.text_config(sizes, tokenizer),
        vision_config=_qwen.vision_config(
            sizes, embed_dim=sizes.vision_hidden_size, hidden_size=sizes.hidden_size, mlp_ratio=VISION_MLP
        ),
        tie_word_embeddings=True,
        **_qwen.image_ids(tokenizer),
    )
    return config, processor, _qwen.generation_config(tokenizer)
