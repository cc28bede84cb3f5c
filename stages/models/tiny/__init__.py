"""Tiny random models of every family, as plain Hugging Face folders: the students of the demo and the tests.

A file here is a family and its name goes into `model.tiny.family`. Its `build` gives what a real checkpoint of the family
holds: the configuration of a model, a processor with tokenizer and chat template, and a generation config. Tokenizers are
byte-level BPEs trained on the texts the student will read and write; nothing binary is kept in the repository.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config.schema import TinyConfig

WEIGHTS, POSITIONS = 0.06, 1.0
"""Standard deviations of a new model's matrices, and of the embeddings that tell patches of a picture apart.

Families draw theirs with 0.02, for models ten times as wide and runs ten thousand times as long. At widths around 128 what
enters a layer then hardly shows in what leaves it, and where a patch lies is lost beside what it shows."""


def build_tiny(folder: Path, sizes: TinyConfig, texts: Iterable[str], seed: int) -> None:
    """Write model, processor, tokenizer, chat template and generation config to `folder`.

    Args:
        folder: where to write; created.
        sizes: see `pipeline.config.schema.TinyConfig`.
        texts: what the tokenizer is trained on.
        seed: of the random weights; the same arguments give the same bytes.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    config, processor, generation = importlib.import_module(f"stages.models.tiny.{sizes.family}").build(sizes, texts)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    draw_weights(model)
    model.generation_config = generation
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def draw_weights(model: Any) -> None:
    """Draw a model's matrices anew, wide enough for one of some 128 channels; biases, norms and convolutions stay."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or "pos_embed" in name:
                parameter.normal_(0, POSITIONS)
            elif parameter.dim() == 2:
                parameter.normal_(0, WEIGHTS)
