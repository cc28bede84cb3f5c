"""Memory told from a model's files: the parameters are those of the real model, and quantised bytes those of bitsandbytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluation import LabModel
from pipeline.errors import UserError
from pipeline.sweeps.memory import PROCESS, Shapes, estimate, read_shapes, tensor_shapes


def write(folder: Path, tensors: dict[str, list[int]], config: dict[str, Any]) -> Path:
    """A model folder whose safetensors file is a header and a hole as large as the data."""
    folder.mkdir(parents=True, exist_ok=True)
    about, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 4 * math.prod(shape)
        about[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(about).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + end)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


TENSORS = {
    "model.vision_model.encoder.layers.0.self_attn.q_proj.weight": [100, 100],
    "model.connector.proj.weight": [50, 200],
    "model.text_model.embed_tokens.weight": [1000, 64],
    "model.text_model.layers.0.mlp.up_proj.weight": [128, 64],
    "model.text_model.layers.0.input_layernorm.weight": [64],
    "lm_head.weight": [1000, 64],
}
TEXT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 128, "vocab_size": 1000}  # fmt: skip
VISION = {"hidden_size": 100, "intermediate_size": 200, "image_size": 64, "patch_size": 16}
CONFIG = {
    "model_type": "idefics3",
    "scale_factor": 2,
    "tie_word_embeddings": True,
    "text_config": TEXT,
    "vision_config": VISION,
}


def told(folder: Path, precision: str, **how: Any) -> Any:
    return estimate(
        read_shapes(LabModel(name_or_path=str(folder))), precision, **{"gpu": True, "rows": 1, "new_tokens": 10, **how}
    )


def test_a_tied_head_is_counted_once_and_parts_are_told_apart(tmp_path: Path) -> None:
    one = told(write(tmp_path / "m", TENSORS, CONFIG), "bfloat16")
    assert one.parameters == {"vision": 10_000, "connector": 10_000, "language": 64_000 + 8192 + 64}
    assert one.weights == 2 * sum(one.parameters.values())
    assert told(tmp_path / "m", "float32").weights == 2 * one.weights
    untied = write(tmp_path / "untied", TENSORS, {**CONFIG, "tie_word_embeddings": False})
    assert told(untied, "bfloat16").weights == one.weights + 2 * 64_000


def test_only_the_matrices_of_the_language_model_s_layers_shrink(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", TENSORS, CONFIG)
    full = told(folder, "bfloat16").weights
    # A byte less each, and a scale a row.
    assert told(folder, "8bit").weights == full - 8192 + 4 * 128
    assert told(folder, "4bit").weights == pytest.approx(full - 1.5 * 8192 + 8192 / 64, rel=1e-3)


def test_cache_and_activations_grow_with_the_rows_and_tokens(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", TENSORS, CONFIG)
    one, ten = told(folder, "bfloat16"), told(folder, "bfloat16", rows=10)
    assert one.image_tokens == (64 // 16) ** 2 // 4
    assert one.cache == 2 * 1 * 2 * 16 * (4 + 256 + 10) * 2
    assert (ten.cache, ten.activations) == (10 * one.cache, 10 * one.activations)
    assert told(folder, "auto", gpu=False).process == PROCESS


def test_on_a_cpu_the_file_is_resident_while_it_is_converted(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", TENSORS, CONFIG)
    whole, converted = told(folder, "float32", gpu=False), told(folder, "bfloat16", gpu=False)
    assert (whole.loading, told(folder, "bfloat16").loading) == (0, 0)
    # The tied head is in the file.
    assert converted.loading == 4 * (sum(converted.parameters.values()) + 64_000)
    assert converted.total == PROCESS + converted.weights + max(
        converted.loading, converted.cache + converted.activations
    )


@pytest.mark.parametrize(
    ("config", "processor", "tokens"),
    [
        ({"model_type": "qwen2_vl", "vision_config": {"patch_size": 14, "spatial_merge_size": 2}}, {}, 1024**2 // 14**2 // 4),
        ({"model_type": "qwen2_vl", "vision_config": {"patch_size": 14}}, {"max_pixels": 200704}, 256),
        ({"model_type": "idefics3", "scale_factor": 4, "vision_config": {"image_size": 512, "patch_size": 16}},
         {"size": {"longest_edge": 2048}}, 17 * 64),
        ({"model_type": "idefics3", "scale_factor": 4, "vision_config": {"image_size": 512, "patch_size": 16}},
         {"size": {"longest_edge": 512}}, 64),
        ({"model_type": "internvl", "vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}},
         {"max_patches": 12}, 10 * 256),
        ({"model_type": "llava", "vision_config": {"image_size": 336, "patch_size": 14}}, {}, 576),
    ],
)  # fmt: skip
def test_the_tokens_of_a_picture_follow_the_family_and_its_processor(config: Any, processor: Any, tokens: int) -> None:
    one = estimate(Shapes({}, {**config, "text_config": TEXT}, processor), "bfloat16", gpu=True, rows=1, new_tokens=1)
    assert one.image_tokens == tokens


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl", "internvl"])
def test_parameters_are_those_of_the_real_model(family: str, tmp_path: Path) -> None:
    from tests.unit.stages.training.test_setup import model_of

    # Without memory.
    there = model_of(family)
    model = type(there)(there.config)
    model.save_pretrained(tmp_path)
    one = told(tmp_path, "float32")
    assert sum(one.parameters.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert one.weights == 4 * sum(one.parameters.values())


def test_files_that_are_not_what_they_say_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not readable as safetensors"):
        tensor_shapes(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_shapes(LabModel(name_or_path=str(tmp_path)))
    with pytest.raises(UserError, match="not to be had from the hub"):
        read_shapes(LabModel(name_or_path="none-such/model"))
