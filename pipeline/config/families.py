"""The families of small VLMs that the tests train, and those that are refused by name, with the reason; docs/families.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.validation import is_count, is_number
from pipeline.files import ROOT, read_json

REFUSED = {
    "paligemma": (
        "TRL 1.16 cannot train PaliGemma: it tokenizes completions without an image, which the processor refuses; it renders "
        "prompts with a chat template, which PaliGemma lacks; and it marks completions as part of the prefix, so that every "
        "token would see the ones after it"
    ),
    "internvl_chat": "InternVL's own format is not read by transformers; take the checkpoint whose name ends in -hf",
}
"""model_type of a checkpoint: why no stage can start from it."""


@dataclass(frozen=True)
class OwnCode:
    """A family of the hub whose models are Python code beside the weights.

    Args:
        names: what their names on the hub are like, where no file is on this machine to tell the family.
        served: whether the vLLM that is installed knows the architecture; it loads configuration and tokenizer by their code.
        cure: how such a model is asked.
    """

    names: re.Pattern[str]
    served: bool
    cure: str


OWN_CODE = {
    "internvl_chat": OwnCode(
        re.compile(r"(^|/)internvl[\d_.]*-\d+b(?!.*-hf$)", re.IGNORECASE),
        served=True,
        cure="take backend: vllm with trust_remote_code: true, or of InternVL3 the checkpoint whose name ends in -hf",
    ),
    "phi3_v": OwnCode(
        re.compile(r"(^|/)phi-3(\.5)?-vision", re.IGNORECASE),
        served=True,
        cure="take backend: vllm with trust_remote_code: true",
    ),
    "moondream1": OwnCode(
        re.compile(r"(^|/)moondream2$", re.IGNORECASE),
        served=False,
        cure="serve it, for example with llama.cpp from its GGUF files, and take backend: openai",
    ),
}
"""model_type of models that the lab can ask, by other ways than transformers; docs/evaluation.md."""


def own_code(kind: str | None, name: str) -> OwnCode | None:
    """Return the family with code of its own that a model is of; None for all others.

    Args:
        kind: its model_type; None where no file tells it.
        name: what it was named by.
    """
    if kind is not None:
        return OWN_CODE.get(kind)
    return next((one for one in OWN_CODE.values() if one.names.search(name)), None)


PART_PREFIXES = {
    "vision": ("vision_model", "vision_tower", "visual"),
    "connector": (
        "connector",
        "multi_modal_projector",
        "image_newline",
        "visual.merger",
        "visual.deepstack_merger_list",
    ),
    "language": ("text_model", "language_model", "lm_head"),
}
"""Module names of the parts of a VLM across the model families of transformers."""


_MAX_ASPECT = {"qwen2_vl": 200, "qwen2_5_vl": 200, "qwen3_vl": 200}
"""model_type: the longer side of a picture over its shorter one, above which the processor refuses it."""


def unfit_size(family: str, width: int, height: int) -> str | None:
    """Return why a family's processor refuses a picture of this size in pixels, or None when it takes it."""
    most, aspect = _MAX_ASPECT.get(family), max(width, height) / max(1, min(width, height))
    if most is None or aspect <= most:
        return None
    return f"{width} x {height} pixels: {family} takes pictures up to {most} times as long as wide"


IN_TEXT, FIRST = "at its mark in the text", "before the text"
PLACES = {
    "idefics3": IN_TEXT,
    "smolvlm": IN_TEXT,
    "qwen2_vl": IN_TEXT,
    "qwen2_5_vl": IN_TEXT,
    "qwen3_vl": IN_TEXT,
    "internvl": IN_TEXT,
    "llava": FIRST,
    "fast_vlm": FIRST,
}
"""model_type of those that are tested on rows of no, one and several pictures in one batch: where the chat template writes a
picture."""


def tiny_families() -> list[str]:
    """Return the families that `model.tiny.family` can name: the files of stages/models/tiny."""
    folder = ROOT / "stages" / "models" / "tiny"
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def model_type(folder: Path) -> str | None:
    """Return what a checkpoint's config.json calls its family; None without one."""
    file = folder / "config.json"
    return json.loads(file.read_text()).get("model_type") if file.is_file() else None


def part_of(name: str) -> str | None:
    """Return the part of a VLM a parameter belongs to, by its name; the longest prefix decides, so visual.merger is
    a connector.
    """
    found = {prefix: part for part, names in PART_PREFIXES.items() for prefix in names if f".{prefix}." in f".{name}."}
    return found[max(found, key=len)] if found else None


FAMILIES = ("idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "llava", "fast_vlm")
"""model_type of those whose log-probabilities and gradients are tested to be the same, and that a vLLM server is tested to sample
from with the trainer's log-probabilities (docs/rollouts.md)."""

_BY_TRANSFORMERS = ("llava", "fast_vlm")
"""model_type of those that vLLM is to compute with transformers' own model. vLLM 0.31 has a LLaVA of its own, but it looks for
vision_tower.vision_model.embeddings where transformers 5.17 writes vision_tower.embeddings, and knows three towers."""


def vllm_options(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments with which vllm.LLM reads and computes a checkpoint as transformers does.

    Args:
        folder: the checkpoint.
        given: further ones, which win; what they tell its processor comes beside what that has to be told, not in its place.
    """
    told = dict(given.get("mm_processor_kwargs") or {})
    options: dict[str, Any] = {}
    if model_type(folder) in _BY_TRANSFORMERS:
        options["model_impl"] = "transformers"
        picture = {**_picture_settings(folder), **told}
        size = picture.get("size")
        # Where vLLM asks how many tokens a picture takes, LlavaProcessor reads crop_size; SigLIP's resizes to size and has none.
        # Without do_center_crop nothing is cropped.
        if not picture.get("crop_size") and isinstance(size, Mapping) and {"height", "width"} <= size.keys():
            told["crop_size"] = size
    made = {**options, **given, "mm_processor_kwargs": told}
    return made if told else {name: value for name, value in made.items() if name != "mm_processor_kwargs"}


def vllm_flags(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `vllm_options` as flags of a server.

    Args:
        folder: the checkpoint.
        given: further flags, as `flag_problems` lets them be.
    """
    own = vllm_options(folder, {"mm_processor_kwargs": given.get("mm-processor-kwargs")})
    flags = {**{name.replace("_", "-"): value for name, value in own.items()}, **given}
    if told := own.get("mm_processor_kwargs"):
        flags["mm-processor-kwargs"] = told
    return flags


READ_HERE = ("mm-processor-kwargs", "hf-overrides", "limit-mm-per-prompt")
"""Flags of a server whose fields are read or added to here."""
SPREAD_OVER = ("tensor-parallel-size", "pipeline-parallel-size")
"""Flags that say over how many GPUs an engine is spread."""
_COUNTS = (*SPREAD_OVER, "data-parallel-size", "data-parallel-size-local")
"""Flags by which the GPUs of a server are counted."""
_ABBREVIATED, _SHORT_IN_FULL = 3, ("uds",)
"""Letters of the longest of vLLM's abbreviations, such as -dpn, and the flags that have no more in full."""


def flag_problems(flags: Mapping[str, Any]) -> Iterator[str]:
    """Yield which flags of a server are written otherwise than they are known here.

    vLLM reads `--a_b` as `--a-b` and `--a.b 1` as `--a '{"b": 1}'`, and would take `--dp` for the beginning of another flag.
    """
    for flag, value in flags.items():
        name, dot, field = str(flag).lstrip("-").partition(".")
        name = name.replace("_", "-")
        if len(name) <= _ABBREVIATED and name not in _SHORT_IN_FULL:
            yield f"{flag}: is an abbreviation; name the flag in full, as tensor-parallel-size"
        elif name in READ_HERE and dot:
            inside = field.replace(".", ": {") + f": {value}" + "}" * field.count(".")
            yield f"{flag}: is written as a mapping, {name}: {{{inside}}}"
        elif flag != (written := name + dot + field):
            yield f"{flag}: is written {written}, without leading dashes and with no _"
        elif name in READ_HERE and not isinstance(value, Mapping | None):
            yield f"{flag}: {value!r} must be a mapping, such as {{image: 1}}"
        elif name in _COUNTS and not is_count(value):
            yield f"{flag}: {value!r} must be a whole number of at least 1"
        elif name == "gpu-memory-utilization" and not (is_number(value) and 0 < value <= 1):
            yield f"{flag}: {value!r} must be a number above 0 and at most 1"


def _picture_settings(folder: Path) -> dict[str, Any]:
    """What a checkpoint's files say of its image processor."""
    told: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        read = read_json(folder / name)
        told |= read.get("image_processor") or read
    return told
