"""The vision tower of a composed model, and what a picture becomes in it, measured by showing it pictures."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.files import read_json
from stages.models.compose.source import refusing

WHAT = "vision tower"
LLAVA, FAST_VLM = "llava", "fast_vlm"
LAST_BUT_ONE = -2
"""The layer LLaVA reads (arXiv 2304.08485, 2310.03744): what follows serves the loss the tower was trained with."""


@dataclass(frozen=True)
class Tower:
    """A vision model as its source has it, in float32 and evaluation mode."""

    source: str
    model: Any
    unset: tuple[str, ...]
    """Weights for which the source has no value: heads and poolers of another use."""
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    resample: int
    rescale_factor: float
    sides: tuple[int, ...]
    """Sides in pixels its files name, the likeliest first."""

    @property
    def family(self) -> str:
        return str(self.model.config.model_type)


@dataclass(frozen=True)
class Reading:
    """How a model reads a tower."""

    model_type: str
    """`LLAVA` or `FAST_VLM`."""
    image_size: int
    """Side of a picture in pixels."""
    patch_size: int
    """Side of what one token shows, in pixels."""
    layer: int
    leading: int
    """Tokens before those of the patches: a class token, then registers."""
    strategy: str
    """`default` leaves the class token out, `full` takes all tokens."""
    tokens: int
    """Tokens of a picture, as the language model reads them."""
    width: int
    """Channels of a token."""

    @property
    def registers(self) -> int:
        return max(0, self.leading - 1)


def load_tower(source: str, path: Path) -> Tower:
    """Return the vision tower of a folder; of a model of pictures and texts (CLIP, SigLIP) its vision part.

    Args:
        source: as the user names it.
        path: where that lies.

    Raises:
        UserError: when it is no such model, or does not say how its pictures are normalised.
    """
    from transformers import AutoConfig, AutoModel

    with refusing(source, WHAT):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        vision = getattr(config, "vision_config", None) or config
        if vision.model_type == "timm_wrapper":
            # Nobody reads the pooled map.
            vision.do_pooling = False
        cls = AutoModel._model_mapping[type(vision)]
        model, info = cls.from_pretrained(
            path,
            config=vision,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        if info["mismatched_keys"]:
            raise ValueError(f"weights of another shape: {sorted(map(str, info['mismatched_keys']))[:3]}")
        images = _images(path)
    model.eval().requires_grad_(False)
    sides = [_side(getattr(vision, "image_size", None)), *images.pop("sides")]
    return Tower(
        source,
        model,
        tuple(sorted(map(str, info["missing_keys"]))),
        sides=tuple(side for side in sides if side),
        **images,
    )


def _images(path: Path) -> dict[str, Any]:
    """How a tower's pictures are normalised and resized, as its own files say."""
    timm = (read_json(path / "config.json").get("pretrained_cfg") or {}) if path.is_dir() else {}
    if timm:
        return {
            "image_mean": tuple(timm["mean"]),
            "image_std": tuple(timm["std"]),
            "resample": _RESAMPLE[timm.get("interpolation") or "bicubic"],
            "rescale_factor": 1 / 255,
            "sides": [_side(timm.get("input_size"))],
        }
    from transformers import AutoImageProcessor

    own = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    normalises = getattr(own, "do_normalize", True)
    return {
        "image_mean": tuple(own.image_mean) if normalises else (0.0, 0.0, 0.0),
        "image_std": tuple(own.image_std) if normalises else (1.0, 1.0, 1.0),
        "resample": int(own.resample),
        "rescale_factor": float(own.rescale_factor) if getattr(own, "do_rescale", True) else 1.0,
        "sides": [_side(getattr(own, "crop_size", None)), _side(getattr(own, "size", None))],
    }


_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""timm's names for what PIL numbers."""


def _side(size: Any) -> int | None:
    """A side in pixels from the ways in which files name one."""
    if isinstance(size, int):
        return size
    if isinstance(size, (list, tuple)):
        return int(size[-1]) if size else None
    found = [size[key] for key in ("height", "shortest_edge", "longest_edge") if size.get(key)] if size else []
    return int(found[0]) if found else None


def measure(tower: Tower, image_size: int | None = None, layer: int | None = None) -> Reading:
    """Show a tower pictures and return how a model has to read it.

    Args:
        tower: of `load_tower`.
        image_size: side in pixels; None for what its files name.
        layer: hidden state to read; None for the last but one of patches, the last of maps.

    Raises:
        UserError: when the tower gives neither patches nor maps, the size does not divide, the layer is none of its layers, or a
            weight that the features depend on has no value.
    """
    side = image_size or (tower.sides[0] if tower.sides else 224)
    parameters = inspect.signature(tower.model.forward).parameters
    with torch.inference_mode():
        try:
            last = tower.model(_pictures(side)[:1], return_dict=True).last_hidden_state
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise UserError(_not_taken(tower, side, error, parameters)) from error
    if last.dim() == 4:
        reading = _maps(tower, side, layer, last)
    elif last.dim() == 3 and tower.family != "timm_wrapper":
        reading = _patches(tower, side, layer)
    else:
        raise UserError(
            f"{WHAT}: {tower.source!r} ({tower.family}) gives neither maps of (channels, height, width) nor, as a model of "
            "transformers, patches: of timm only convolutional towers can be read, of others take the version for transformers"
        )
    if lost := _lost(tower, reading):
        raise UserError(
            f"{WHAT}: {tower.source!r} has no value for {', '.join(lost[:3])}{f' and {len(lost) - 3} more' * (len(lost) > 3)}, "
            "on which its features depend; take a folder with the tower's own weights"
        )
    return reading


def features(model: Any, reading: Reading, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the projector reads of a tower, (batch, tokens, width), as `reading` says it."""
    if reading.model_type == FAST_VLM:
        return model(pixels, return_dict=True).last_hidden_state.flatten(2).permute(0, 2, 1)
    hidden = model(pixels, output_hidden_states=True, return_dict=True).hidden_states[reading.layer]
    return hidden[:, 1:] if reading.strategy == "default" else hidden


def _pictures(side: int) -> torch.Tensor:
    """A grey picture, and the same with one pixel changed: first and last of the first row, last of the last row."""
    pictures = torch.zeros(4, 3, side, side)
    for number, (row, column) in enumerate(((0, 0), (0, side - 1), (side - 1, side - 1)), 1):
        pictures[number, :, row, column] = torch.tensor([5.0, -3.0, 4.0])
    return pictures


def _not_taken(tower: Tower, side: int, error: Exception, parameters: Any) -> str:
    told = (str(error).strip().splitlines() or [type(error).__name__])[0]
    asked = [
        name
        for name, one in parameters.items()
        if one.default is inspect.Parameter.empty and one.kind is one.POSITIONAL_OR_KEYWORD and name != "pixel_values"
    ]
    if asked:
        return (
            f"{WHAT}: {tower.source!r} ({tower.family}) is not shown pixels alone but {', '.join(asked)} too, which no class for "
            "composed models gives it; take another tower"
        )
    cure = f"; its files name {', '.join(map(str, tower.sides))}" if tower.sides and side not in tower.sides else ""
    return (
        f"image size: {tower.source!r} ({tower.family}) does not take pictures of {side} x {side} pixels ({told}){cure}"
    )


def _patches(tower: Tower, side: int, layer: int | None) -> Reading:
    layer = LAST_BUT_ONE if layer is None else layer
    with torch.inference_mode():
        hidden = tower.model(_pictures(side), output_hidden_states=True, return_dict=True).hidden_states
    if not hidden or not -len(hidden) <= layer < len(hidden):
        raise UserError(
            f"layer: {layer} is none of the {len(hidden or ())} hidden states of {tower.source!r}; name one from "
            f"{-len(hidden or ())} to {len(hidden or ()) - 1}"
        )
    # Before the first layer a patch shows in its own token alone.
    moved = [(hidden[0][number] != hidden[0][0]).any(-1).nonzero().flatten().tolist() for number in (1, 2, 3)]
    count, width = hidden[layer].shape[1:]
    if not all(len(places) == 1 for places in moved):
        seen = "a pixel at the edge shows in no token" if any(not places for places in moved) else "its patches overlap"
        raise UserError(
            f"image size: at {side} x {side} pixels {seen} of {tower.source!r} ({tower.family}); a side must be a multiple of "
            f"the tower's patches{_patch_hint(tower)}"
        )
    first, end_of_row, last = (places[0] for places in moved)
    grid = end_of_row - first + 1
    if side % grid or last - first + 1 != grid * grid or last != count - 1 or count != hidden[0].shape[1]:
        raise UserError(
            f"{WHAT}: {tower.source!r} ({tower.family}) does not give one row of tokens with the patches last: {count} tokens, "
            f"the patches from {first} to {last} in rows of {grid}; LLaVA cannot read it"
        )
    if width != getattr(tower.model.config, "hidden_size", None):
        raise UserError(f"{WHAT}: {tower.source!r} has {width} channels where its configuration says another number")
    strategy = "default" if first else "full"
    return Reading(LLAVA, side, side // grid, layer, first, strategy, count - bool(first), width)


def _patch_hint(tower: Tower) -> str:
    patch = getattr(tower.model.config, "patch_size", None)
    return f", {patch} pixels" if patch else ""


def _maps(tower: Tower, side: int, layer: int | None, shown: torch.Tensor) -> Reading:
    if layer not in (None, -1):
        raise UserError(
            f"layer: {layer} of {tower.source!r}: of towers that give maps only the last one, -1, can be read"
        )
    width, cells, across = shown.shape[1:]
    double, before, after = (_cells(tower, one) for one in (2 * side, side - 1, side + 1))
    stride = side // cells if cells and side % cells == 0 else None
    # A picture that does not divide gives as many cells as one a pixel smaller and one a pixel larger.
    is_edge = None in (before, after) or not before == cells == after
    if stride is None or cells != across or double not in (None, 2 * cells) or not is_edge:
        known = 2 ** round(math.log2(max(1, side / max(1, cells))))
        raise UserError(
            f"image size: {side} x {side} pixels do not divide by the stride of {tower.source!r} ({tower.family}), which makes "
            f"{cells} x {across} cells of them; take a multiple of it, likely {known}"
        )
    return Reading(FAST_VLM, side, stride, -1, 0, "full", cells * cells, width)


def _cells(tower: Tower, side: int) -> int | None:
    """Rows of a tower's map; None where it does not take that size."""
    try:
        with torch.inference_mode():
            return int(tower.model(torch.zeros(1, 3, side, side), return_dict=True).last_hidden_state.shape[2])
    except (RuntimeError, ValueError, AssertionError):
        return None


def _lost(tower: Tower, reading: Reading) -> list[str]:
    """Weights without a value that the features depend on; buffers count among them."""
    if not tower.unset:
        return []
    parameters = dict(tower.model.named_parameters())
    named = {name: parameters[name] for name in tower.unset if name in parameters}
    others = [name for name in tower.unset if name not in named]
    if not named:
        return others
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        features(tower.model, reading, _pictures(reading.image_size)[1:2]).square().sum().backward()
        used = [name for name, parameter in named.items() if parameter.grad is not None]
    except RuntimeError:
        # Nothing to differentiate: the features depend on none of them.
        used = []
    finally:
        for parameter in named.values():
            parameter.grad = None
            parameter.requires_grad_(False)
    return [*used, *others]
