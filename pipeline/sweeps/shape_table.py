"""The shapes of public models that are shipped, so that memory is told without their files: shapes.yaml, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("shapes.yaml")
STORED = "BF16"
"""What the published weights of all of them are stored in."""

Tensors = dict[str, tuple[str, tuple[int, ...]]]


@cache
def shape_table() -> dict[str, dict[str, Any]]:
    """Return every entry by the name the hub has for the model."""
    read: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return read


def tensors_of(entry: Mapping[str, Any]) -> Tensors:
    """Return tensors that weigh what the model's do: each matrix of the language model's layers, and what is left of each part.

    Fused matrices (query, key and value in one) are told apart here, which changes neither elements nor rows.
    """
    text = entry.get("text_config") or entry["llm_config"]
    hidden, between, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    width = text.get("head_dim", hidden // heads)
    queries, keys = heads * width, text["num_key_value_heads"] * width
    layer = (
        (queries, hidden),
        (keys, hidden),
        (keys, hidden),
        (hidden, queries),
        *[(between, hidden)] * 2,
        (hidden, between),
    )
    matrices: Tensors = {
        f"text_model.layers.{number}.{place}.weight": (STORED, shape)
        for number in range(text["num_hidden_layers"])
        for place, shape in enumerate(layer)
    }
    counted = sum(rows * columns for _, (rows, columns) in matrices.values())
    parts = entry["parameters"]
    rest = {"vision_model": parts["vision"], "connector": parts["connector"], "text_model": parts["language"] - counted}
    return matrices | {f"{name}.rest": (STORED, (count,)) for name, count in rest.items()}
