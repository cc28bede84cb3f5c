"""The shipped table of shapes: its parameters are those of the configurations it gives, made without memory; no hub is asked."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipeline.config.evaluation import SWEEPS, LabModel
from pipeline.config.families import part_of
from pipeline.sweeps.memory import estimate, read_shapes
from pipeline.sweeps.shape_table import shape_table, tensors_of

PUBLISHED = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "OpenGVLab/InternVL2-8B": 8_075_365_376,
    "OpenGVLab/InternVL2-26B": 25_514_186_112,
    "microsoft/Phi-3-vision-128k-instruct": 4_146_621_440,
}
"""Parameters of the published files, as public lists of others have them; of InternVL2 and Phi-3-vision those of InternVL2.5 and
Phi-3.5-vision, whose modules are the same."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_as_many_parameters_as_the_published_files(name: str) -> None:
    assert sum(shape_table()[name]["parameters"].values()) == PUBLISHED[name]


@pytest.mark.parametrize("name", shape_table())
def test_the_parameters_follow_from_the_configuration(name: str) -> None:
    entry = shape_table()[name]
    assert counted(entry) == entry["parameters"]
    weighed = {"vision": 0, "connector": 0, "language": 0}
    for tensor, (_, shape) in tensors_of(entry).items():
        part = part_of(tensor)
        assert part is not None
        weighed[part] += shape[0] * (shape[1] if len(shape) > 1 else 1)
    assert weighed == entry["parameters"]


def counted(entry: dict[str, Any]) -> dict[str, int]:
    """Parameters by part of the model that transformers makes of a configuration.

    Where it has no class of the family, of one with modules of equal shape.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    kind, vision = entry["model_type"], dict(entry["vision_config"])
    text = {"pad_token_id": 0, "tie_word_embeddings": False, **(entry.get("text_config") or entry["llm_config"])}
    more = {key: entry[key] for key in ("scale_factor", "downsample_ratio") if key in entry}
    found = {"vision": 0, "connector": 0, "language": 0}
    with torch.device("meta"):
        if kind == "phi3_v":
            # CLIP, Phi-3, and between them two linear layers from four merged patches, with what separates rows and crops.
            width, hidden = 4 * vision["hidden_size"], text["hidden_size"]
            tower = AutoModel.from_config(CONFIG_MAPPING["clip_vision_model"](**vision))
            language = AutoModelForCausalLM.from_config(CONFIG_MAPPING["phi3"](**text))
            found["vision"] = sum(one.numel() for one in tower.parameters())
            found["language"] = sum(one.numel() for one in language.parameters())
            found["connector"] = width * hidden + hidden + hidden * hidden + hidden + 2 * width
            return found
        if kind.startswith("internvl"):
            names = {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}
            vision = {names.get(key, key): value for key, value in vision.items()}
            vision |= {key: [vision[key]] * 2 for key in ("image_size", "patch_size")}
            # InternLM2 is a Llama whose query, key and value lie in one matrix.
            text["model_type"] = text["model_type"].replace("internlm2", "llama")
        if kind.startswith("qwen"):
            del text["model_type"], text["pad_token_id"]
        config = CONFIG_MAPPING[kind.removesuffix("_chat")](
            text_config=text, vision_config=vision, tie_word_embeddings=entry.get("tie_word_embeddings", False), **more
        )
        model = AutoModelForImageTextToText.from_config(config)
    for name, parameter in model.named_parameters():
        found[part_of(name) or "language"] += parameter.numel()
    return found


def test_every_model_of_the_shipped_sweeps_is_told_without_a_hub() -> None:
    asked = {
        model["name_or_path"]
        for path in SWEEPS.glob("*.yaml")
        for model in yaml.safe_load(path.read_text(encoding="utf-8"))["models"].values()
        if "name_or_path" in model and model.get("backend") != "openai"
    }
    assert len(asked) > 3
    for name in sorted(asked):
        one = estimate(read_shapes(LabModel(name_or_path=name)), "bfloat16", gpu=True, rows=1, new_tokens=32)
        assert 2 * sum(one.parameters.values()) == one.weights


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        # Each 1,024 pixels a side, at what the family makes of them by its published processor.
        ("HuggingFaceTB/SmolVLM-256M-Instruct", 17 * 64),
        ("HuggingFaceTB/SmolVLM-Instruct", 17 * 81),
        ("OpenGVLab/InternVL2-8B", 10 * 256),
        ("Qwen/Qwen2-VL-2B-Instruct", 1024**2 // 14**2 // 4),
    ],
)
def test_a_picture_has_the_tokens_of_the_family(name: str, tokens: int) -> None:
    shapes = read_shapes(LabModel(name_or_path=name))
    assert estimate(shapes, "bfloat16", gpu=True, rows=1, new_tokens=1).image_tokens == tokens


def test_four_bits_shrink_the_language_model_s_matrices_alone() -> None:
    shapes = read_shapes(LabModel(name_or_path="Qwen/Qwen2-VL-2B-Instruct"))
    told = {
        precision: estimate(shapes, precision, gpu=True, rows=1, new_tokens=32).weights
        for precision in ("bfloat16", "8bit", "4bit")
    }
    matrices = 28 * (2 * 1536 * 1536 + 2 * 256 * 1536 + 3 * 8960 * 1536)
    rows = 28 * (2 * 1536 + 2 * 256 + 2 * 8960 + 1536)
    assert told["bfloat16"] - told["8bit"] == matrices - 4 * rows
    assert told["bfloat16"] - told["4bit"] == pytest.approx(matrices * (1.5 - 1 / 64 - 4 / 16384), abs=2)
