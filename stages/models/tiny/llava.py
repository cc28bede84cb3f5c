"""LLaVA as its small checkpoints are: SigLIP, a two-layer projector and a Qwen2, every image resized to one square."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import qwen_tokenizer, special_ids, text_sizes, vision_sizes

CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] if part['type'] == 'image' %}<image>
{% endfor %}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config). No pixel shuffle: (image_size / patch_size) squared tokens."""
    from transformers import GenerationConfig, LlavaConfig, LlavaProcessor, SiglipImageProcessor

    tokenizer = qwen_tokenizer(texts, sizes.vocab_size, ["<image>"])
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": sizes.image_size, "width": sizes.image_size}),
        tokenizer,
        patch_size=sizes.patch_size,
        # SigLIP has no class token to leave out.
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaConfig(
        text_config={"model_type": "qwen2", **text_sizes(sizes, tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **vision_sizes(sizes), "vision_use_head": False},
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_index=processor.image_token_id,
        image_seq_length=(sizes.image_size // sizes.patch_size) ** 2,
        tie_word_embeddings=False,
    )
    return config, processor, GenerationConfig(**special_ids(tokenizer))
