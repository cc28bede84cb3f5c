"""SmolVLM: what SmolVLM2 checkpoints are. Idefics3's structure with a processor for videos too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import idefics_tokenizer, image_tokens, special_ids, text_sizes, vision_sizes


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config). Tiling is off; `model.processor` can turn it on, as real
    ones have it.
    """
    from transformers import GenerationConfig, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from trl.chat_template_utils import smolvlm_chat_template

    tokenizer = idefics_tokenizer(texts, sizes.vocab_size)
    side = {"longest_edge": sizes.image_size}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=side, max_image_size=side, do_image_splitting=False),
        tokenizer,
        SmolVLMVideoProcessor(size=side, video_sampling={"max_frames": 4, "fps": 1, "video_size": side}),
        image_seq_len=image_tokens(sizes),
        chat_template=smolvlm_chat_template,
    )
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **text_sizes(sizes, tokenizer)},
        vision_config=vision_sizes(sizes),
        scale_factor=sizes.scale_factor,
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
        **special_ids(tokenizer),
    )
    return config, processor, GenerationConfig(**special_ids(tokenizer))
