"""Vision towers and language models of every kind that composes, with random weights and few layers, as their hubs have them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

SIDE = 32
"""Of a tower's pictures; its patches are 8 pixels, the stride of its maps 8, 16 or 32."""
_PATCHES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}


def _configs() -> dict[str, tuple[str, dict[str, Any]]]:
    """What each tower is called here: its class in transformers, and the fields of its configuration."""
    patches = _PATCHES
    return {
        "clip": ("CLIPVisionModel", patches),
        "siglip": ("SiglipVisionModel", {**patches, "vision_use_head": False}),
        "dinov2": ("Dinov2Model", {**patches, "mlp_ratio": 2}),
        "dinov2_with_registers": ("Dinov2WithRegistersModel", {**patches, "mlp_ratio": 2, "num_register_tokens": 3}),
        "dinov3_vit": ("DINOv3ViTModel", {**patches, "num_register_tokens": 2}),
        "vit": ("ViTModel", patches),
        "mobilenet_v2": ("MobileNetV2Model", {"image_size": SIDE, "depth_multiplier": 0.35, "output_stride": 16}),
        "resnet": (
            "ResNetModel",
            {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        ),
        "convnext": (
            "ConvNextModel",
            {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "image_size": SIDE},
        ),
        "siglip2": ("Siglip2VisionModel", {**patches, "num_patches": 16, "vision_use_head": False}),
        "swin": (
            "SwinModel",
            {"image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
        ),
    }


TOWERS = {
    "llava": ("clip", "siglip", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit"),
    "fast_vlm": ("mobilenet_v2", "resnet", "convnext"),
}
"""Class of a composed model: the towers of transformers' own that it takes."""
TIMM = ("tf_efficientnet_lite0", "fastvit_t8", "mobilenetv4_conv_small")
"""Towers of the package timm, which fast_vlm takes."""
LANGUAGES = ("llama", "qwen2", "qwen3", "smollm3")


def save_tower(name: str, folder: Path) -> Path:
    """Write a tower with its image processor."""
    import torch
    import transformers

    cls_name, fields = _configs()[name]
    cls = getattr(transformers, cls_name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields))
    widen(model)
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def save_timm(name: str, folder: Path) -> Path:
    """Write a tower of timm in the way timm's own folders are: a configuration with `pretrained_cfg`, and safetensors."""
    import json

    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    widen(model)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    own = {key: model.pretrained_cfg[key] for key in ("mean", "std", "interpolation", "input_size", "num_classes")}
    config = {"architecture": name, "num_classes": 1000, "num_features": model.num_features, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def widen(model: Any) -> None:
    """Draw matrices wide enough for what is shown to show: see `stages.models.tiny.draw_weights`."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (2.0 / parameter[0].numel()) ** 0.5)


def image_processor() -> Any:
    """Return one with figures of its own."""
    from transformers import CLIPImageProcessor

    side = {"height": SIDE, "width": SIDE}
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    return CLIPImageProcessor(size=side, crop_size=side, image_mean=mean, image_std=std, resample=2)


TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] + '<|im_end|>' }}
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As many language models have it: a content that is no string is an error."""


@functools.cache
def tokenizer_text() -> tuple[str, ...]:
    """What the tokenizer learns its words from."""
    return ("What is the capital of France? Name three colours. Which picture shows a dog?",) * 3


def tokenizer(template: str | None = TEMPLATE, eos: str = "<|im_start|>") -> Any:
    """Return a byte-level BPE whose end token is the wrong one, as that of SmolLM2's GGUF file is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(tokenizer_text(), trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|im_start|>", eos_token=eos)
    found.chat_template = template
    return found


def save_language(
    name: str, folder: Path, *, tied: bool = True, rows: int = 0, template: str | None = TEMPLATE
) -> Path:
    """Write a language model with its tokenizer.

    Args:
        name: its model_type.
        folder: where to write.
        tied: whether its head is its embeddings.
        rows: embeddings beyond its tokens, as models have whose vocabulary is rounded up.
        template: its chat template.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer(template)
    sizes = {
        "vocab_size": len(words) + rows,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        # The least that vLLM computes on a CPU.
        "head_dim": 32,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    if name == "gpt2":
        sizes = {**sizes, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 1024}
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            del sizes[key]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
