"""What is wrong with a model's folder before it is loaded: files are read as text, every problem is told with its cure."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.checks.parts import missing_package, needs_timm
from pipeline.config.families import REFUSED
from pipeline.config.trainer_options import package

_SAVE = "AutoModelForImageTextToText.from_pretrained(FOLDER).save_pretrained(NEW) writes such"
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")
_INDEX = "model.safetensors.index.json"


def folder_problems(folder: Path) -> list[str]:
    """Return why no stage can start from a folder: configuration, weights, processor, tokenizer and chat template."""
    config, wrong = _read(folder / "config.json")
    if (family := config.get("model_type")) in REFUSED:
        return [f"is a {family}, which is refused: {REFUSED[family]}"]
    if (folder / "adapter_config.json").is_file():
        return [
            "holds an adapter; merge it into its model first (merge_and_unload() and save_pretrained() of peft; final/ of a run "
            "is merged)"
        ]
    if wrong and (folder / "config.yaml").is_file():
        return ["is a run; name the model in it, for example its stage4_clgrpo/final"]
    told = [wrong] if wrong else list(_architecture(config))
    if needs_timm(config) and (missing := missing_package("timm")):
        told.append(missing)
    return [*told, *weight_problems(folder), *_processor(folder)]


def _read(file: Path) -> tuple[dict[str, Any], str | None]:
    """A JSON file and what is wrong with it."""
    if not file.is_file():
        return {}, f"has no {file.name}; copy it from where the model comes from"
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        return {}, f"{file.name} is not JSON ({error}){_pointer(file)}; fetch it again"
    return (value, None) if isinstance(value, dict) else ({}, f"{file.name} holds no mapping; fetch it again")


def _pointer(file: Path) -> str:
    """Say that a file is what git leaves in the place of a large one."""
    with file.open("rb") as opened:
        return ": a Git LFS pointer, for which git lfs pull fetches the file" * opened.read(40).startswith(
            b"version https"
        )


def _architecture(config: dict[str, Any]) -> Iterator[str]:
    family = config.get("model_type")
    if not isinstance(family, str):
        yield "config.json names no model_type, so it is no model of transformers; take the folder of a vision-language model"
    elif family not in _vision_language_models() and "AutoModelForImageTextToText" not in (
        config.get("auto_map") or {}
    ):
        yield (
            f"is a {family}, which transformers does not load as a model of pictures and text; take a vision-language model "
            "(docs/families.md lists those that are tested)"
        )


@functools.cache
def _vision_language_models() -> frozenset[str]:
    """What AutoModelForImageTextToText knows, read from the installed source, since importing it would load torch."""
    for node in ast.parse((package("transformers") / "models/auto/modeling_auto.py").read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
        ):
            pairs = [pair for pair in ast.walk(node.value) if isinstance(pair, ast.Tuple)]
            return frozenset(str(ast.literal_eval(pair.elts[0])) for pair in pairs)
    raise LookupError("transformers/models/auto/modeling_auto.py has no MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")


def weight_problems(folder: Path) -> Iterator[str]:
    """Yield why a folder's weights cannot be read."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for path in folder.glob("*") if path.suffix in _OTHER_WEIGHTS)
        if others:
            yield f"has its weights as {others[0]}, and only safetensors are read; {_SAVE}"
        else:
            yield "has no *.safetensors, so there are no weights; fetch them, or name the folder that holds them"
        return
    if not (folder / _INDEX).is_file() and not (folder / "model.safetensors").is_file():
        yield f"has {files[0].name}, and neither model.safetensors nor {_INDEX}, which says where each weight lies; fetch it"
    if (folder / _INDEX).is_file():
        index, wrong = _read(folder / _INDEX)
        if wrong:
            yield wrong
        named = {str(name) for name in (index.get("weight_map") or {}).values()}
        if missing := sorted(named - {file.name for file in files}):
            more = f" and {len(missing) - 1} more" * (len(missing) > 1)
            yield f"lacks {missing[0]}{more}, which {_INDEX} names; fetch what is missing"
    for file in files:
        if problem := safetensors_problem(file):
            yield f"{file.name} {problem}; fetch it again"


def safetensors_problem(file: Path) -> str | None:
    """Return why a file of weights is not whole, by its header and its length; None for one that is."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            pointer = _pointer(file)
            return f"is no whole safetensors file: it has {size:,} bytes, and its header would need more{pointer}"
        try:
            header = json.loads(opened.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            wanted = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            return f"has a damaged header ({error}){_pointer(file)}"
    if size != wanted:
        return f"is cut off or damaged: it has {size:,} bytes and its header speaks of {wanted:,}"
    return None


def _processor(folder: Path) -> Iterator[str]:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield "has no tokenizer (tokenizer.json); copy the tokenizer's files from where the model comes from"
    processor, wrong = _read(folder / "processor_config.json")
    if wrong and (folder / "processor_config.json").is_file():
        yield wrong
    preprocessor = folder / "preprocessor_config.json"
    if not preprocessor.is_file() and "image_processor" not in processor:
        yield (
            "has no image processor (preprocessor_config.json, or image_processor in processor_config.json); copy it from the "
            "model it was trained from: AutoProcessor.from_pretrained(ORIGINAL).save_pretrained(FOLDER)"
        )
    elif preprocessor.is_file() and (damaged := _read(preprocessor)[1]):
        yield damaged
    if chat_template(folder) is None:
        yield (
            "has no chat template (chat_template.jinja), which places the picture and begins the answer; copy the one of the "
            "model it was trained from"
        )


def chat_template(folder: Path) -> str | None:
    """Return the default chat template of a folder, from where transformers looks for it; None where there is none."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = _read(folder / name)[0].get("chat_template")
        if isinstance(found, list):
            found = next((one.get("template") for one in found if one.get("name") == "default"), None)
        elif isinstance(found, dict):
            found = found.get("default")
        if isinstance(found, str):
            return found
    return None
