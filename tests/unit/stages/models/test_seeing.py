"""A model whose features of pictures are zero does not look, any other does: in two precisions, with any number of pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from pipeline.config.schema import LEAST_SEEN, ModelConfig, RunConfig, TinyConfig
from pipeline.types import Question, Split
from stages.models import loading
from stages.models.seeing import largest, look
from stages.models.tiny import build_tiny

CONFIG = RunConfig(name="run", model=ModelConfig())
TEXTS = ["Which emotion? <think>The picture shows it.</think> <answer>joy</answer>"]
SIZES = {"hidden_size": 64, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 64, "vision_layers": 1}
LAST = {"idefics3": "model.connector.modality_projection.proj", "qwen2_vl": "model.visual.merger.mlp.2"}
"""The layer of each family that features of pictures come from; the second reads pictures at their own size."""


@pytest.fixture(scope="module", params=LAST)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("seeing") / request.param
    build_tiny(made, TinyConfig(family=request.param, vocab_size=330, **SIZES), TEXTS, seed=0)
    return made


def task(folder: Path, *shown: str) -> Any:
    """A task with a row per text, which names the colours of its pictures; a capital makes one wide."""
    rows = []
    for number, colours in enumerate(shown):
        paths = [folder / f"{colour}.png" for colour in colours.split()]
        for path in paths:
            Image.new("RGB", (128 if path.stem.istitle() else 64, 64), path.stem.lower()).save(path)
        rows.append(Question(str(number), tuple(paths), "Which emotion?", answer="joy"))
    return SimpleNamespace(labels=None, select=lambda split: Split(tuple(rows)), prompt=lambda row, style: row.text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_whose_features_are_zero_does_not_look(folder: Path, dtype: torch.dtype) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    processor = loading.load_processor(folder, CONFIG)
    rows = task(folder, "red", "", "red Blue", "green red Blue", "red")
    seen = look(model, processor, rows, "test", "think")
    # One shows no picture, one all there are; that of the last is known.
    assert (seen.rows, seen.left_out) == (2, 2)
    assert seen.change is not None
    assert seen.change > 2 * max(LEAST_SEEN, seen.rounding)
    last = model.get_submodule(LAST[folder.name])
    torch.nn.init.zeros_(last.weight)
    if last.bias is not None:
        torch.nn.init.zeros_(last.bias)
    found = look(model, processor, rows, "test", "think")
    assert (found.rows, found.change, found.rounding) == (2, 0.0, torch.finfo(dtype).eps / 2)
    assert set(found.figures) == {f"images/swap_{key}" for key in ("change", "rounding", "rows", "left_out")}


def test_what_is_not_finite_is_told_wherever_it_stands() -> None:
    assert (largest([]), largest([0.0, 0.5])) == (None, 0.5)
    assert [str(largest(changes)) for changes in ([float("nan"), 0.0], [0.0, float("nan")])] == ["nan", "nan"]


def test_where_nothing_can_be_swapped_nothing_is_said(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = loading.load_processor(folder, CONFIG)
    for shown, left_out in ((("", ""), 2), (("red", "", "red"), 2), (("red", "RED"), 2)):
        found = look(model, processor, task(folder, *shown), "test", "direct")
        assert (found.rows, found.left_out, found.figures) == (0, left_out, {})
