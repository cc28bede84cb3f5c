"""A causal language model whose weights lie in an ONNX file, quantised to whole numbers or not.

Exporters keep the names of transformers' parameters where they can: of embeddings and norms as the names of tensors, of linear
layers as the paths of the nodes that multiply by them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

_NODES = ("MatMul", "MatMulInteger", "Gemm")


def load_onnx(folder: Path, file: Path) -> Any:
    """Return the model of a folder's config.json with the weights of an ONNX file, in float32.

    Raises:
        ValueError: when a weight is not in the file, or is of another shape there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    found = read_weights(file)
    wanted = model.state_dict()
    tied = set(model.all_tied_weights_keys) if config.get_text_config().tie_word_embeddings else set()
    wrong = [name for name, value in wanted.items() if name in found and found[name].shape != value.shape]
    lost = [name for name in wanted if name not in found and name not in tied]
    if wrong or lost:
        names = ", ".join([*lost, *wrong][:3])
        raise ValueError(f"{file.name} has no {names} of {len(lost) + len(wrong)} weights that {config.model_type} has")
    model.load_state_dict({name: found[name] for name in wanted if name not in tied}, strict=False)
    model.tie_weights()
    return model


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an ONNX file in float32, by the names transformers gives them."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}

    def value(name: str) -> torch.Tensor:
        """A tensor by its name; a quantised one is (whole number - zero point) * scale."""
        stem = name.removesuffix("_quantized")
        if f"{stem}_scale" not in stored:
            return torch.from_numpy(stored[name].copy()).float()
        numbers = torch.from_numpy(stored[f"{stem}_quantized"].astype("float32"))
        zero = torch.from_numpy(stored[f"{stem}_zero_point"].astype("float32"))
        return (numbers - zero) * torch.from_numpy(stored[f"{stem}_scale"].astype("float32"))

    found = {
        name.removesuffix("_quantized"): value(name)
        for name, one in stored.items()
        if name.removesuffix("_quantized").endswith((".weight", ".bias")) and one.ndim
    }
    for node in graph.node:
        if node.op_type in _NODES and len(node.input) > 1 and node.input[1] in stored:
            path = re.sub(r"/(MatMul|Gemm)(_quant)?$", "", node.name.strip("/")).replace("/", ".")
            across = next((one.i for one in node.attribute if one.name == "transB"), 0)
            matrix = value(node.input[1])
            found.setdefault(f"{path}.weight", (matrix if across else matrix.T).contiguous())
    return found
