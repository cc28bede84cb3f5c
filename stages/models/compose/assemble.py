"""Configuration, weights and processor of a composed model, written as transformers' own classes write them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from stages.models.compose.language import IMAGE_TOKEN, Language, text_config, with_rows
from stages.models.compose.vision import LLAVA, Reading, Tower


def assemble(folder: Path, tower: Tower, reading: Reading, language: Language, seed: int) -> None:
    """Write model, processor, tokenizer, chat template and generation config to a folder.

    Args:
        folder: where to write; there already.
        tower: the vision part.
        reading: how its features are read.
        language: the language part.
        seed: of the projector's weights.
    """
    from transformers import FastVlmForConditionalGeneration, GenerationConfig, LlavaForConditionalGeneration

    cls = LlavaForConditionalGeneration if reading.model_type == LLAVA else FastVlmForConditionalGeneration
    config = cls.config_class(
        text_config=text_config(language),
        vision_config=_vision_config(tower, reading),
        image_token_index=language.image_token_id,
        image_seq_length=reading.tokens,
        vision_feature_layer=reading.layer,
        vision_feature_select_strategy=reading.strategy,
        tie_word_embeddings=bool(language.model.config.get_text_config(decoder=True).tie_word_embeddings),
        **language.special_ids,
    )
    torch.manual_seed(seed)
    model = cls(config)
    model.model.vision_tower.load_state_dict(tower.model.state_dict())
    _load_language(model, language)
    model.tie_weights()
    model.generation_config = GenerationConfig(**language.special_ids)
    model.save_pretrained(folder)
    processor_of(tower, reading, language).save_pretrained(folder)


def processor_of(tower: Tower, reading: Reading, language: Language) -> Any:
    """Return the processor that makes of a picture as many tokens as the tower gives.

    CLIP's image processor with the tower's figures, whoever's tower it is: timm's does not save itself, and SigLIP's has no
    crop_size, from which vLLM learns how many tokens a picture takes.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": reading.image_size, "width": reading.image_size}
    images = CLIPImageProcessor(
        do_resize=True,
        size=side,
        do_center_crop=False,
        crop_size=side,
        resample=tower.resample,
        rescale_factor=tower.rescale_factor,
        image_mean=list(tower.image_mean),
        image_std=list(tower.image_std),
        do_convert_rgb=True,
    )
    language.tokenizer.chat_template = language.template
    return LlavaProcessor(
        images,
        language.tokenizer,
        patch_size=reading.patch_size,
        vision_feature_select_strategy=reading.strategy,
        num_additional_image_tokens=reading.leading,
        image_token=IMAGE_TOKEN,
        chat_template=language.template,
    )


def _vision_config(tower: Tower, reading: Reading) -> Any:
    config = copy.deepcopy(tower.model.config)
    # The projector asks it of every tower, and those that give maps do not all say it.
    config.hidden_size = reading.width
    return config


def _load_language(model: Any, language: Language) -> None:
    source, rows = language.model, language.rows
    base = getattr(source, source.base_model_prefix)
    embedded = with_rows(base.embed_tokens.weight, rows)
    model.model.language_model.load_state_dict({**base.state_dict(), "embed_tokens.weight": embedded})
    with torch.no_grad():
        model.lm_head.weight.copy_(with_rows(source.get_output_embeddings().weight, rows))
