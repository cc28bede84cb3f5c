"""FastVLM: a convolutional tower with batch norms, whose map is the image's tokens, a two-layer projector and a Qwen2.

Apple's checkpoints have a FastViT from the package timm. This one has a ResNet, which transformers brings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.config.schema import TinyConfig
from stages.models.tiny._parts import qwen_tokenizer, special_ids, text_sizes
from stages.models.tiny.llava import CHAT_TEMPLATE


def build(sizes: TinyConfig, texts: Iterable[str]) -> tuple[Any, Any, Any]:
    """Return (configuration, processor, generation config). A ResNet halves an image as often as makes a cell of it one pixel."""
    from transformers import FastVlmConfig, GenerationConfig, LlavaProcessor, SiglipImageProcessor

    tokenizer = qwen_tokenizer(texts, sizes.vocab_size, ["<image>"])
    cell = sizes.patch_size * sizes.scale_factor
    # The first layers quarter the image, and every block but the first halves it.
    blocks = max(1, cell.bit_length() - 2)
    cell = 2 ** (blocks + 1)
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": sizes.image_size, "width": sizes.image_size}),
        tokenizer,
        patch_size=cell,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    width = sizes.vision_hidden_size
    config = FastVlmConfig(
        text_config={"model_type": "qwen2", **text_sizes(sizes, tokenizer)},
        vision_config={
            "model_type": "resnet",
            "embedding_size": width,
            "hidden_sizes": [width] * blocks,
            "depths": [sizes.vision_layers] * blocks,
            "layer_type": "basic",
            # What the projector asks of a tower; a ResNet's own fields do not say it.
            "hidden_size": width,
        },
        image_token_index=processor.image_token_id,
        image_seq_length=(sizes.image_size // cell) ** 2,
        tie_word_embeddings=False,
    )
    return config, processor, GenerationConfig(**special_ids(tokenizer))
