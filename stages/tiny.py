"""A tiny random Idefics3 with its own tokenizer, as a plain Hugging Face folder: the student of the demo and the tests.

SmolVLM-256M/500M are Idefics3 checkpoints too, so a real student differs from this one only by name. The tokenizer is a
byte-level BPE trained on the texts the student will read and write; nothing binary is kept in the repository.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.schema import TinyConfig


def build_tiny(folder: Path, sizes: TinyConfig, texts: Iterable[str], seed: int) -> None:
    """Write model, processor, tokenizer, chat template and generation config to `folder`.

    Args:
        folder: where to write; created.
        sizes: see `pipeline.schema.TinyConfig`.
        texts: what the tokenizer is trained on.
        seed: of the random weights; the same arguments give the same bytes.
    """
    from pipeline.compat import declare_torchvision_ops

    declare_torchvision_ops()
    import torch
    from transformers import GenerationConfig, Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from trl.chat_template_utils import smolvlm_chat_template

    tokenizer = _tokenizer(texts, sizes.vocab_size)
    side = {"longest_edge": sizes.image_size}
    image_seq_len = (sizes.image_size // sizes.patch_size // sizes.scale_factor) ** 2
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False),
        tokenizer,
        image_seq_len=image_seq_len,
        chat_template=smolvlm_chat_template,
    )
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_config: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.hidden_size // 32,
        "num_key_value_heads": sizes.hidden_size // 32,
        "max_position_embeddings": sizes.max_positions,
        "tie_word_embeddings": True,
        **special,
    }
    vision_config: dict[str, Any] = {
        "hidden_size": sizes.vision_hidden_size,
        "intermediate_size": 4 * sizes.vision_hidden_size,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_hidden_size // 32,
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
    }
    config = Idefics3Config(
        text_config=text_config,
        vision_config=vision_config,
        scale_factor=sizes.scale_factor,
        image_token_id=processor.image_token_id,
        tie_word_embeddings=True,
        **special,
    )
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**special)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE with Idefics3's special tokens: every text encodes, none needs an unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    grid = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    control = ["<|im_start|>", "<end_of_utterance>", "<pad>", "<fake_token_around_image>", "<image>", "<global-img>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=control + grid,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        additional_special_tokens=control[3:] + grid,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
