"""What a model needs on its device when it answers, told from its files alone: no weight is read, torch is not imported.

The formula is our reading; docs/sweeps.md holds it, its assumptions and its measured error.

    peak = weights + KV cache + the larger of (vision tower's activations, language model's prefill)
    on a CPU: the process + weights + the larger of (that cache and those activations, the file while it is converted)

- weights: every tensor's elements × bytes. 8bit and 4bit (bitsandbytes) hold the matrices of the language model's layers in 1
  byte + 4 bytes a row, or in NF4's 0.5 byte + double-quantised scales; all else keeps 2
  bytes (4 on a CPU).
- KV cache: 2 × layers × key-value heads × head width × tokens × rows × bytes.
- activations: tokens × (4 × hidden + 2 × intermediate) × bytes of the one layer that is live, for all pictures of a batch in the
  vision tower, and with its logits for all rows of a batch in the language model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import LabModel
from pipeline.config.families import part_of
from pipeline.errors import UserError
from pipeline.runs.handover import model_folder
from pipeline.sweeps.shape_table import shape_table, tensors_of
from pipeline.system.hub import refusal

PICTURE = 1024
"""Pixels a side of the square picture that is reckoned with, where a model reads pictures at their own size."""
PROMPT = 256
"""Tokens of question, options and instructions that are reckoned with."""
PROCESS = 600_000_000
"""Bytes of a CPU process before its model: Python with torch and transformers."""
CONTEXT = 500_000_000
"""Bytes a GPU must have beside them for a CUDA context, which torch does not count as allocated."""
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
_STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


@dataclass(frozen=True)
class Shapes:
    """What the files of a model say without its weights."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Name: (dtype as safetensors calls it, shape)."""
    config: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what they are for, and parameters by part of the model."""

    weights: int
    cache: int
    activations: int
    process: int
    loading: int
    """Of the file, whose pages are resident on a CPU while its weights are converted to another precision."""
    image_tokens: int
    parameters: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.process + self.weights + max(self.loading, self.cache + self.activations)


def read_shapes(model: LabModel) -> Shapes:
    """Return the shapes of a model's tensors and its configuration: from its folder, the hub's cache, the shipped table, or the
    hub's metadata.

    Raises:
        UserError: when they cannot be had; says why.
    """
    folder = model_folder(model) or cached_folder(model)
    if folder is None and (entry := shape_table().get(model.name_or_path or "")):
        return Shapes(tensors_of(entry), entry, {**entry.get("processor", {}), **model.processor})
    if folder is None:
        return _from_hub(model)
    files = weight_files(folder)
    if not files or not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json or no *.safetensors")
    tensors = {name: tensor for file in files for name, tensor in tensor_shapes(file).items()}
    return Shapes(tensors, _json(folder / "config.json"), _processor(folder, model))


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors that transformers reads of a folder, which may hold the same weights once more for other tools
    (consolidated.safetensors); all there are where nothing says which.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    named = {str(name) for name in _json(index).get("weight_map", {}).values()} if index.is_file() else set()
    return sorted(file for file in folder.glob("*.safetensors") if not named or file.name in named)


def count_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], each: float) -> float:
    """Return the bytes of tensors, given as name: (dtype, shape), in a precision of `each` bytes a number.

    What is stored in one byte, such as FP8 or packed weights of bitsandbytes, is held as it is.
    """
    return sum(
        math.prod(shape) * (each if _STORED.get(dtype, 4) > 1 else min(each, 1)) for dtype, shape in tensors.values()
    )


def tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name, and (dtype, shape), of every tensor in a safetensors file, from its header.

    Raises:
        UserError: when the file has no such header.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping.
            return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not readable as safetensors: {error}") from error


def estimate(shapes: Shapes, precision: str, *, gpu: bool, rows: int, new_tokens: int) -> Estimate:
    """Return peak memory of a model that answers `rows` rows of one picture at a time.

    Args:
        shapes: of the model.
        precision: one of `pipeline.config.evaluation.PRECISIONS`; auto is bfloat16 on a GPU and float32 elsewhere.
        gpu: whether the device is a GPU.
        rows: of a batch.
        new_tokens: most tokens of an answer.
    """
    precision = ("bfloat16" if gpu else "float32") if precision == "auto" else precision
    computed = 4 if precision == "float32" or (precision in ("8bit", "4bit") and not gpu) else 2
    text, vision = _text(shapes.config), shapes.config.get("vision_config", {})
    crops, patches, image_tokens = _picture(shapes, text, vision)
    tokens = image_tokens + PROMPT
    hidden, layers = int(text.get("hidden_size", 0)), int(text.get("num_hidden_layers", 0))
    heads = int(text.get("num_attention_heads", 1))
    width = int(text.get("head_dim") or hidden // max(heads, 1))
    cache = 2 * layers * int(text.get("num_key_value_heads") or heads) * width * (tokens + new_tokens) * rows * computed
    prefill = tokens * rows * (4 * hidden + 2 * int(text.get("intermediate_size", 0))) * computed
    logits = rows * int(text.get("vocab_size", 0)) * 4
    # Qwen2-VL calls its output hidden_size.
    seen = int(vision.get("embed_dim") or vision.get("hidden_size") or 0)
    between = int(vision.get("intermediate_size") or seen * float(vision.get("mlp_ratio", 4)))
    looking = rows * crops * patches * (4 * seen + 2 * between) * computed
    weights, parameters = _weights(shapes, precision, computed)
    as_loaded = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(precision)
    stored = [(dtype, _STORED.get(dtype, 4) * math.prod(shape)) for dtype, shape in shapes.tensors.values()]
    loading = 0 if gpu else sum(size for dtype, size in stored if dtype != as_loaded)
    activations = max(looking, prefill + logits)
    return Estimate(weights, cache, activations, 0 if gpu else PROCESS, loading, image_tokens, parameters)


def _weights(shapes: Shapes, precision: str, computed: int) -> tuple[int, dict[str, int]]:
    """Bytes of all weights, and parameters by part. A head that is tied to the embeddings is not there twice."""
    total, parameters = 0.0, {"vision": 0, "connector": 0, "language": 0}
    tied = bool(shapes.config.get("tie_word_embeddings", _text(shapes.config).get("tie_word_embeddings", False)))
    embedded = any("embed_tokens" in name for name in shapes.tensors)
    for name, (_, shape) in shapes.tensors.items():
        if tied and embedded and name.endswith("lm_head.weight"):
            continue
        count, part = math.prod(shape), part_of(name) or "language"
        parameters[part] += count
        quantised = precision in ("8bit", "4bit") and part == "language" and len(shape) == 2 and ".layers." in name
        total += count * (_BYTES[precision] if quantised else computed)
        if quantised and precision == "8bit":
            total += 4 * shape[0]
    return round(total), parameters


def _picture(shapes: Shapes, text: Mapping[str, Any], vision: Mapping[str, Any]) -> tuple[int, int, int]:
    """(crops, patches a crop has, tokens the language model reads) of one picture of `PICTURE` pixels a side."""
    config, told = shapes.config, shapes.processor
    kind = str(config.get("model_type", ""))
    patch = _side(vision.get("patch_size") or 14)
    if kind.startswith("qwen"):
        merge = int(vision.get("spatial_merge_size", 2))
        size = _block(told, "size")
        most = int(told.get("max_pixels") or size.get("longest_edge") or PICTURE**2)
        patches = min(PICTURE**2, most) // patch**2
        return 1, patches, patches // merge**2
    side = _side(vision.get("image_size") or 224)
    patches = (side // patch) ** 2
    if kind in ("idefics3", "smolvlm"):
        tokens = patches // int(config.get("scale_factor", 2)) ** 2
        size = _block(told, "size")
        split = told.get("do_image_splitting", True)
        across = math.ceil(int(size.get("longest_edge") or side) / side) if split else 1
        crops = across**2 + (across > 1)
        return crops, patches, crops * tokens
    if kind in ("internvl", "internvl_chat"):
        tokens = int(patches * float(config.get("downsample_ratio", 0.5)) ** 2)
        most = int(told.get("max_patches") or config.get("max_dynamic_patch") or 1)
        crops = min(most, math.ceil(PICTURE / side) ** 2)
        crops = crops + 1 if crops > 1 and told.get("crop_to_patches", True) else 1
        return crops, patches, crops * tokens
    if kind == "phi3_v":
        crops = min(int(told.get("num_crops") or 1), math.ceil(PICTURE / side) ** 2) + 1
        return crops, patches, crops * patches // 4
    return 1, patches, patches


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a configuration; older Qwen files have it at the top."""
    found = config.get("text_config") or config.get("llm_config")
    return found if isinstance(found, Mapping) and "hidden_size" in found else config


def _block(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list) else value)


def _processor(folder: Path, model: LabModel) -> dict[str, Any]:
    """The image processor's settings, under the lab's own `processor` arguments."""
    told: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            read = _json(folder / name)
            told |= read.get("image_processor", read)
    return told | dict(model.processor)


def cached_folder(model: LabModel) -> Path | None:
    """Return the folder of a hub model whose weights are on this machine already; None where they are not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model.name_or_path or "", revision=model.revision, local_files_only=True))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def _from_hub(model: LabModel) -> Shapes:
    """The same from the hub, which gives the headers of its files without the weights."""
    import httpx
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

    name = model.name_or_path or ""
    expected = (OSError, ValueError, httpx.HTTPError, HfHubHTTPError, NotASafetensorsRepoError)
    try:
        metadata = get_safetensors_metadata(name, revision=model.revision)
        tensors = {
            tensor: (about.dtype, tuple(about.shape))
            for file in metadata.files_metadata.values()
            for tensor, about in file.tensors.items()
        }
        folder = Path(hf_hub_download(name, "config.json", revision=model.revision)).parent
    except expected as error:
        told = refusal(name, error) or f"its shapes are not to be had from the hub: {_first_line(error)}"
        raise UserError(f"{name}: {told}") from error
    for file_name in ("preprocessor_config.json", "processor_config.json"):
        try:
            hf_hub_download(name, file_name, revision=model.revision)
        except expected:
            # Most models have one of the two.
            continue
    return Shapes(tensors, _json(folder / "config.json"), _processor(folder, model))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(read, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return read
