"""Idefics3, the default: SmolVLM-256M and SmolVLM-500M are checkpoints of it, so a real student differs only by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import idefics_tokenizer, image_tokens, special_ids, text_sizes, vision_sizes


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config). Tiling is off; `model.processor` can turn it on, as real
    ones have it.
    """
    from transformers import GenerationConfig, Idefics3Config
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from trl.chat_template_utils import smolvlm_chat_template

    tokenizer = idefics_tokenizer(texts, sizes.vocab_size)
    side = {"longest_edge": sizes.image_size}
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False),
        tokenizer,
        image_seq_len=image_tokens(sizes),
        chat_template=smolvlm_chat_template,
    )
    config = Idefics3Config(
        text_config={"model_type": "llama", **text_sizes(sizes, tokenizer), "tie_word_embeddings": True},
        vision_config=vision_sizes(sizes),
        scale_factor=sizes.scale_factor,
        image_token_id=processor.image_token_id,
        tie_word_embeddings=True,
        **special_ids(tokenizer),
    )
    return config, processor, GenerationConfig(**special_ids(tokenizer))
