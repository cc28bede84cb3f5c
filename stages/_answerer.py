"""A checkpoint that answers prompts about images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.images import open_rgb
from stages._loading import compute_dtype, image_token_id, load_model, load_processor


class Answerer:
    """A checkpoint that answers prompts about images with transformers' generate.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
        local_rank: the GPU to use, where there is one.
    """

    def __init__(self, folder: Path, config: Any, local_rank: int) -> None:
        self.processor = load_processor(folder, config)
        self.model, _ = load_model(folder, config, compute_dtype(config), local_rank)

    @torch.inference_mode()
    def __call__(
        self, prompt: str, examples: Any, max_new_tokens: int, sample: bool, seed: int
    ) -> list[tuple[str, int]]:
        """(text, number of tokens) per example; at temperature 1 without any truncation of the distribution when sampling."""
        torch.manual_seed(seed % 2**63)
        return generate(self.model, self.processor, prompt, examples, max_new_tokens, sample)


def generate(
    model: Any, processor: Any, prompt: str, examples: Any, max_new_tokens: int, sample: bool = False
) -> list[tuple[str, int]]:
    """(text, number of tokens) that a model answers per example; greedy unless `sample`.

    Args:
        model: in evaluation mode, on the device it is to run on.
        processor: padding on the left.
    """
    from pipeline.rows import user_turn

    text = processor.apply_chat_template(user_turn(prompt), add_generation_prompt=True)
    images = [[open_rgb(example.image)] for example in examples]
    inputs = processor(
        text=[text] * len(images), images=images, return_tensors="pt", padding=True, add_special_tokens=False
    ).to(model.device, dtype=model.dtype)  # Only the pixels are floats.
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    return complete(model, processor.tokenizer, inputs, max_new_tokens, **how)


def complete(model: Any, tokenizer: Any, inputs: Any, max_new_tokens: int, **how: Any) -> list[tuple[str, int]]:
    """(text, number of tokens) with which a model goes on from `inputs`, (batch, length) padded on the left.

    Greedy, and without the penalties of the checkpoint's own generation config, unless `how` says otherwise.
    """
    # Said in full, as rollouts are: a checkpoint's own generation config may penalise repetition (Qwen2.5-VL's does).
    settings: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, **how}
    image_token = image_token_id(model)
    if image_token is not None:
        settings["suppress_tokens"] = [image_token]  # A model near random would write it.
    tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, **settings)[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    lengths = (tokens != tokenizer.pad_token_id).sum(dim=1).tolist()
    return list(zip(texts, lengths, strict=True))
