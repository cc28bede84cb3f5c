"""What vLLM is told of a checkpoint's family, read from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.families import flag_problems, vllm_flags, vllm_options
from pipeline.files import write_json

SQUARE, LARGER = {"height": 64, "width": 64}, {"height": 96, "width": 96}


def checkpoint(folder: Path, family: str, file: str, settings: dict[str, Any]) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": family})
    write_json(folder / file, settings)
    return folder


@pytest.mark.parametrize("family", ["llava", "fast_vlm"])
@pytest.mark.parametrize(
    ("file", "settings", "told", "expected"),
    [
        # As a composed checkpoint has it, and CLIP's of the hub.
        ("processor_config.json", {"image_processor": {"size": SQUARE, "crop_size": SQUARE}}, {}, {}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 64}, "crop_size": SQUARE}, {}, {}),
        # As SigLIP's of the hub, and as transformers 5 writes it.
        ("preprocessor_config.json", {"size": SQUARE}, {}, {"crop_size": SQUARE}),
        ("processor_config.json", {"image_processor": {"size": SQUARE, "crop_size": None}}, {}, {"crop_size": SQUARE}),
        ("preprocessor_config.json", {"size": SQUARE}, {"size": LARGER}, {"size": LARGER, "crop_size": LARGER}),
        ("preprocessor_config.json", {"image_processor": None, "size": SQUARE}, {}, {"crop_size": SQUARE}),
        # Nothing says how large its pictures are.
        ("preprocessor_config.json", {"size": {"longest_edge": 64}}, {}, {}),
    ],
)
def test_llava_and_fast_vlm_are_computed_by_transformers_own_model_which_knows_their_pictures_size(
    family: str, file: str, settings: dict[str, Any], told: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "model", family, file, settings)
    more = {"mm_processor_kwargs": expected} if expected else {}
    assert vllm_options(folder, {"mm_processor_kwargs": told}) == {"model_impl": "transformers", **more}


def test_others_are_computed_by_vllms_own_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "qwen3_vl", "preprocessor_config.json", {"size": SQUARE})
    assert vllm_options(folder, {}) == {}
    told = {"mm_processor_kwargs": {"max_pixels": 9}}
    assert vllm_options(folder, told) == told
    # A teacher is often named by a hub id.
    assert vllm_flags(Path("org/model"), {"port": 8000}) == {"port": 8000}


def test_a_server_has_the_same_as_flags(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "llava", "preprocessor_config.json", {"size": SQUARE})
    own = {"model-impl": "transformers", "mm-processor-kwargs": {"crop_size": SQUARE}}
    assert vllm_flags(folder, {}) == own
    assert vllm_flags(folder, {"port": 8000, "model-impl": "vllm"}) == {**own, "port": 8000, "model-impl": "vllm"}


def test_what_the_user_tells_the_processor_comes_beside_what_it_has_to_be_told(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "llava", "preprocessor_config.json", {"size": SQUARE})
    flags = vllm_flags(folder, {"mm-processor-kwargs": {"do_resize": False}})
    assert flags["mm-processor-kwargs"] == {"do_resize": False, "crop_size": SQUARE}


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("mm_processor_kwargs", {}, "is written mm-processor-kwargs, without leading dashes and with no _"),
        ("--max-model-len", 512, "is written max-model-len, without"),
        ("--speculative_config.rope_type", 1, "is written speculative-config.rope_type"),
        # vLLM would take it for --dp-sync-interval.
        ("dp", 2, "is an abbreviation; name the flag in full"),
        ("-dp", 2, "is an abbreviation"),
        ("-dpn", 2, "is an abbreviation"),
        ("-O3", True, "is an abbreviation"),
        # It would take the place of the mapping that is added here.
        ("mm-processor-kwargs.max_pixels", 9, "is written as a mapping, mm-processor-kwargs: {max_pixels: 9}"),
        ("mm_processor_kwargs.size.height", 9, "is written as a mapping, mm-processor-kwargs: {size: {height: 9}}"),
        ("hf-overrides.rope_type", "x", "is written as a mapping, hf-overrides: {rope_type: x}"),
        ("mm-processor-kwargs", "{do_resize", "'{do_resize' must be a mapping"),
        ("mm-processor-kwargs", "5", "'5' must be a mapping"),
        ("limit-mm-per-prompt", '{"image": 1}', "must be a mapping, such as {image: 1}"),
    ],
)
def test_a_flag_is_known_by_one_spelling(flag: str, value: Any, told: str) -> None:
    """A teacher's `mm_processor_kwargs` would reach its server and not the key of its answers."""
    (problem,) = flag_problems({flag: value})
    assert problem.startswith(f"{flag}: {told}") or told in problem


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("mm-processor-kwargs", {"max_pixels": 9}),
        ("mm-processor-kwargs", None),
        ("compilation-config.cudagraph_mode", "NONE"),
        ("uds", "/tmp/socket"),
        ("seed", 1),
    ],
)
def test_a_flag_in_full_is_taken(flag: str, value: Any) -> None:
    assert not list(flag_problems({flag: value}))
