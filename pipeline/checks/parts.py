"""What is wrong with the parts a VLM is composed of, before either is loaded or fetched."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.schema import ComposeConfig, RunConfig
from pipeline.files import is_path, read_json
from pipeline.run_dir import BASE

CARD, COMPOSED_OF = "README.md", "composed_of"
"""The file of a composed folder that says what it is made of, and the key."""
SAFETENSORS, GGUF, ONNX = "safetensors", "gguf", "onnx"
"""How the weights of a language model lie on disk; the last two are also the package that reads them."""
KEYS = {key: f"model.compose.{key}" for key in ("vision", "language", "image_size", "layer")}
"""What the settings are called in a run's configuration."""


def composition_problems(parts: ComposeConfig, names: Mapping[str, str] = KEYS) -> Iterator[str]:
    """Yield every broken rule of a composition: the key, its value, the rule and the cure.

    Args:
        parts: what is composed.
        names: what the user calls each field, such as ``--vision``.
    """
    if parts.image_size is not None and parts.image_size < 1:
        yield f"{names['image_size']}: {parts.image_size} must be at least 1 pixel"
    for key in ("vision", "language"):
        source = str(getattr(parts, key))
        path = Path(source).expanduser()
        if is_path(source) and not path.exists():
            yield f"{names[key]}: {source!r} does not exist"
        elif path.exists():
            told = _vision_problems(path) if key == "vision" else _language_problems(path)
            yield from (f"{names[key]}: {source!r} {problem}" for problem in told)


def unaligned(config: RunConfig) -> list[str]:
    """Return the stages and baselines that start from a random projector and train more than it alone."""
    folder = config.model.name_or_path
    if config.model.compose is None and not (folder and composed_of(Path(folder).expanduser())):
        return []
    fresh = {name: stage for name, stage in config.all_stages.items() if stage.init_from == BASE}
    return [name for name, stage in fresh.items() if not {"vision", "language"} <= set(stage.freeze)]


def composed_of(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's card says it is composed of; None where it says nothing, as of a model that a stage has trained."""
    try:
        front = (folder / CARD).read_text(encoding="utf-8").split("---\n")[1]
        found = yaml.safe_load(front)[COMPOSED_OF]
    except (OSError, UnicodeDecodeError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return None
    return dict(found)


def missing_package(name: str) -> str | None:
    """Return what to install where a package that not every install has is missing."""
    found = importlib.util.find_spec(name) is not None
    return None if found else f"needs the package {name}; pip install -c requirements.lock {name}"


def needs_timm(config: Mapping[str, object]) -> bool:
    """Check whether a config.json is that of a tower, or of a model with a tower, of the package timm."""
    vision = config.get("vision_config")
    wraps = isinstance(vision, Mapping) and vision.get("model_type") == "timm_wrapper"
    return wraps or config.get("model_type") == "timm_wrapper" or {"architecture", "pretrained_cfg"} <= config.keys()


def language_format(path: Path) -> str | None:
    """Return how a language model's weights lie in a folder or file: `SAFETENSORS`, `GGUF`, `ONNX`; None for none of them."""
    if path.is_file():
        return GGUF if path.suffix == ".gguf" else None
    if any(path.glob("*.safetensors")):
        return SAFETENSORS
    return GGUF if any(path.glob("*.gguf")) else ONNX if onnx_file(path) else None


def onnx_file(folder: Path) -> Path | None:
    """Return the quantised ONNX file of a folder, or its only one; None where it is not clear which."""
    found = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    named = [path for path in found if path.name == "model_quantized.onnx"] or found
    return named[0] if len(named) == 1 else None


def _vision_problems(path: Path) -> Iterator[str]:
    config = read_json(path / "config.json")
    if not path.is_dir() or not config:
        yield "is no folder of a vision model: it has no config.json that can be read"
        return
    if needs_timm(config) and (problem := missing_package("timm")):
        yield problem
    if not any(path.glob("*.safetensors")):
        yield "has no *.safetensors; save_pretrained() of the model writes such"
    if not ((path / "preprocessor_config.json").is_file() or "pretrained_cfg" in config):
        yield (
            "has no preprocessor_config.json, which says how its pictures are normalised; copy it from where the tower "
            "comes from"
        )


def _language_problems(path: Path) -> Iterator[str]:
    kind = language_format(path)
    if kind is None:
        yield "holds no language model: neither *.safetensors, nor one *.gguf, nor one *.onnx"
        return
    if kind != SAFETENSORS and (problem := missing_package(kind)):
        yield problem
    if kind == GGUF and path.is_dir() and len(files := sorted(path.glob("*.gguf"))) > 1:
        yield f"holds {len(files)} GGUF files; name one of them, for example {files[0]}"
    if kind != GGUF and not (path / "config.json").is_file():
        yield "has no config.json; copy it from where the model comes from"
