"""Tiny random models for the lab: a VLM of any family, and a model of text alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import TinyConfig
from stages.models.tiny import build_tiny
from stages.models.tiny._parts import qwen_tokenizer

TEXTS = [
    "Which emotion does this scene evoke? Options: amusement, awe, fear. Answer: awe",
    "Describe this picture in fine detail.",
] * 20
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vlm(folder: Path, family: str = "idefics3", seed: int = 0) -> Path:
    """A random VLM of a family."""
    build_tiny(folder, TinyConfig(family=family, layers=1, vision_layers=1, max_positions=2048), TEXTS, seed)
    return folder


def text_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama with a tokenizer and a chat template of text models."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = qwen_tokenizer(TEXTS, 400, [])
    tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
