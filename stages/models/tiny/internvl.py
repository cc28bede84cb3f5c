"""InternVL in the Hugging Face format: an image is cut into tiles by its aspect, beside a view of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import image_tokens, qwen_tokenizer, special_ids, text_sizes, vision_sizes

IMAGE_MARKS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<IMG_CONTEXT>
{% elif part['type'] == 'video' %}<video>
{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config). A square image is one tile; a wide one two and the whole."""
    from transformers import GenerationConfig, GotOcr2ImageProcessor, InternVLConfig, InternVLProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    tokenizer = qwen_tokenizer(texts, sizes.vocab_size, list(IMAGE_MARKS.values()), IMAGE_MARKS)
    side = {"height": sizes.image_size, "width": sizes.image_size}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=side, crop_to_patches=True, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=side),
        image_seq_length=image_tokens(sizes),
        chat_template=CHAT_TEMPLATE,
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_sizes(sizes, tokenizer)},
        vision_config=vision_sizes(sizes),
        downsample_ratio=1 / sizes.scale_factor,
        image_seq_length=image_tokens(sizes),
        image_token_id=processor.image_token_id,
        tie_word_embeddings=False,
    )
    return config, processor, GenerationConfig(**special_ids(tokenizer))
