"""A checkpoint that answers prompts about images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.images import open_rgb
from stages._loading import compute_dtype, load_processor, use_cpu


class Answerer:
    """A checkpoint that answers prompts about images with transformers' generate.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
        local_rank: the GPU to use, where there is one.
    """

    def __init__(self, folder: Path, config: Any, local_rank: int) -> None:
        from transformers import AutoModelForImageTextToText

        self.processor = load_processor(folder, config)
        self.device = torch.device("cpu")
        if not use_cpu():
            self.device = torch.device("cuda", local_rank)
            torch.cuda.set_device(self.device)  # Else every process would open a context on the first GPU too.
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, compute_dtype(config)),
            attn_implementation=config.model.attn_implementation,
            trust_remote_code=config.model.trust_remote_code,
        )
        self.model.to(self.device).eval()
        self.image_token = getattr(self.model.config, "image_token_id", None)

    @torch.inference_mode()
    def __call__(
        self, prompt: str, examples: Any, max_new_tokens: int, sample: bool, seed: int
    ) -> list[tuple[str, int]]:
        """(text, number of tokens) per example; at temperature 1 without any truncation of the distribution when sampling."""
        from pipeline.rows import user_turn

        text = self.processor.apply_chat_template(user_turn(prompt), add_generation_prompt=True)
        images = [[open_rgb(example.image)] for example in examples]
        inputs = self.processor(
            text=[text] * len(images), images=images, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.device, dtype=self.model.dtype)  # Only the pixels are floats.
        torch.manual_seed(seed % 2**63)
        # Said in full, as rollouts are: a checkpoint's own generation config may penalise repetition (Qwen2.5-VL's does).
        how: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
        if sample:
            how |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        if self.image_token is not None:
            how["suppress_tokens"] = [self.image_token]  # A model near random would write it.
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **how)[:, inputs["input_ids"].shape[1] :]
        tokenizer = self.processor.tokenizer
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        lengths = (tokens != tokenizer.pad_token_id).sum(dim=1).tolist()
        return list(zip(texts, lengths, strict=True))
