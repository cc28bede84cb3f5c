"""What several families are made of: the text model's sizes, and tokenizers trained on the student's texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.config.schema import TinyConfig
from pipeline.scoring.response import TAGS

VISION_MLP = 2
"""Width of a vision model's inner layer, as a multiple of its width. With 4, as checkpoints have it, a student that is trained
for minutes reads no picture."""


def text_sizes(sizes: TinyConfig, tokenizer: Any) -> dict[str, Any]:
    """Return fields that every text model's configuration has."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.hidden_size // 32,
        "num_key_value_heads": sizes.hidden_size // 32,
        "max_position_embeddings": sizes.max_positions,
        **special_ids(tokenizer),
    }


def vision_sizes(sizes: TinyConfig) -> dict[str, Any]:
    """Return fields that most vision models' configurations have."""
    return {
        "hidden_size": sizes.vision_hidden_size,
        "intermediate_size": VISION_MLP * sizes.vision_hidden_size,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_hidden_size // 32,
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
    }


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """Return the ids of padding, begin and end."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def image_tokens(sizes: TinyConfig) -> int:
    """Return tokens of one image of image_size after the pixel shuffle."""
    return (sizes.image_size // sizes.patch_size // sizes.scale_factor) ** 2


def add_tags(tokenizer: Any) -> None:
    """Make of each tag of an answer one token of its own. Plain ones: a decoder would leave special ones out."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])


def without_tags(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts that a vocabulary is learned from, cut at the tags: it need not hold their parts."""
    return (part for text in texts for part in re.split("|".join(TAGS), text))


def idefics_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Return a byte-level BPE with the special tokens of Idefics3 and SmolVLM: every text encodes, none needs an
    unknown token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    grid = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    control = ["<|im_start|>", "<end_of_utterance>", "<pad>", "<fake_token_around_image>", "<image>", "<global-img>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        without_tags(texts),
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(TAGS),
            special_tokens=control + grid,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    add_tags(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        additional_special_tokens=control[3:] + grid,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def qwen_tokenizer(
    texts: Iterable[str], vocab_size: int, images: Sequence[str], names: dict[str, str] | None = None
) -> Any:
    """Return a tokenizer of Qwen2's class, which InternVL and small LLaVAs use too, with a vocabulary of its own.

    Args:
        texts: what the vocabulary is learned from.
        vocab_size: of all tokens, the special ones included.
        images: the special tokens a family marks images with.
        names: attributes under which a processor looks some of them up.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *images]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(without_tags(texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names or {},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    add_tags(tokenizer)
    return tokenizer
