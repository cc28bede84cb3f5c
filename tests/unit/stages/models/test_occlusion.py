"""An occlusion map finds the cell that an answer hangs on, in the right picture, and is what plain forward passes say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from occlusion_fakes import BLUE, WATCHED, Speller, Watcher, picture
from PIL import Image
from transformers import AutoModelForImageTextToText

from pipeline.config.schema import ModelConfig, RunConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.reports.occlusion import cells, peak
from stages.models import loading
from stages.models.chat import prompt_text
from stages.models.occlusion import BATCH, GREY, Occluded, occlude
from stages.models.tiny import build_tiny


def written(red: float) -> float:
    """The log-probability with which the hand-made model writes one "a"."""
    return 5 * red - math.log(math.exp(5 * red) + 127)


def occluded(prompt: str, completion: str, *colours: Any) -> Occluded:
    found = occlude(Watcher(), Speller(), prompt, [picture(*colour) for colour in colours or [()]], completion)
    assert found is not None
    return found


def others(found: Occluded, number: int = 0) -> set[float]:
    """The falls of all cells but the watched one."""
    return {
        fall
        for line, falls in enumerate(found.falls[number])
        for column, fall in enumerate(falls)
        if (line, column) != WATCHED
    }


@pytest.mark.parametrize("completion", ["a", "aaa"])
def test_the_peak_is_the_cell_that_the_answer_depends_on_and_no_other_cell_counts(completion: str) -> None:
    found = occluded("What?", completion)
    (falls,) = found.falls
    assert (found.tokens, len(falls), len(falls[0])) == (len(completion), 8, 8)
    assert found.logprob == pytest.approx(len(completion) * written(1.0), rel=1e-5)
    assert peak(falls) == WATCHED
    line, column = WATCHED
    assert falls[line][column] == pytest.approx(len(completion) * (written(1.0) - written(GREY[0] / 255)), rel=1e-5)
    assert others(found) == {0.0}


def test_a_patch_that_makes_the_answer_likelier_is_below_zero_and_no_peak() -> None:
    found = occluded("What?", "a", (BLUE,))
    line, column = WATCHED
    assert found.falls[0][line][column] == pytest.approx(written(0.0) - written(GREY[0] / 255), rel=1e-5)
    assert (others(found), peak(found.falls[0])) == ({0.0}, None)


@pytest.mark.parametrize(("prompt", "seen"), [("What?", 0), ("<image 2> and <image 1>?", 1)])
def test_each_of_several_pictures_has_its_own_map_in_the_order_of_the_row(prompt: str, seen: int) -> None:
    found = occluded(prompt, "a", (), ())
    assert len(found.falls) == 2
    assert peak(found.falls[seen]) == WATCHED
    assert peak(found.falls[1 - seen]) is None


def test_an_answer_of_no_token_has_no_map() -> None:
    assert occlude(Watcher(), Speller(), "What?", [picture()], "") is None


def test_forward_passes_are_few_and_never_of_more_rows_than_fit() -> None:
    model = Watcher()
    occlude(model, Speller(), "What?", [picture()], "a")
    assert (sum(model.rows), max(model.rows)) == (1 + 64, BATCH)


TEXTS = ["Which emotion? <think>The picture shows it.</think> <answer>joy</answer>"]
SIZES = {"hidden_size": 64, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 64, "vision_layers": 1}
LAST = {"idefics3": "model.connector.modality_projection.proj", "qwen2_vl": "model.visual.merger.mlp.2"}
"""The layer of each family that features of pictures come from; the second reads pictures at their own size."""


@pytest.mark.parametrize("family", LAST)
def test_the_map_of_a_real_family_is_what_one_forward_pass_after_the_other_says(family: str, tmp_path: Path) -> None:
    build_tiny(tmp_path / family, TinyConfig(family=family, vocab_size=330, **SIZES), TEXTS, seed=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / family).eval()
    processor = loading.load_processor(tmp_path / family, RunConfig(name="run", model=ModelConfig()))
    shown = Image.effect_noise((64, 64), 90).convert("RGB")
    completion = " <think>The picture shows it.</think> <answer>joy</answer>"
    found = occlude(model, processor, "Which emotion?", [shown], completion)
    assert found is not None

    def plainly(image: Image.Image) -> float:
        text = prompt_text(processor, user_turn("Which emotion?", 1)) + completion
        inputs = processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logprobs = model(**inputs).logits[0].log_softmax(-1)
        tokens = inputs["input_ids"][0]
        return sum(
            float(logprobs[place - 1, tokens[place]]) for place in range(len(tokens) - found.tokens, len(tokens))
        )

    assert found.logprob == pytest.approx(plainly(shown), abs=1e-3)
    covered = shown.copy()
    covered.paste(GREY, cells(shown.size)[3][6])
    assert found.falls[0][3][6] == pytest.approx(plainly(shown) - plainly(covered), abs=1e-3)
    assert max(abs(fall) for line in found.falls[0] for fall in line) > 0.01
    assert processor.tokenizer.decode(processor(text=[completion])["input_ids"][0][-found.tokens :]).endswith(
        "joy</answer>"
    )
    # What does not look has no peak.
    last = model.get_submodule(LAST[family])
    torch.nn.init.zeros_(last.weight)
    if last.bias is not None:
        torch.nn.init.zeros_(last.bias)
    blind = occlude(model, processor, "Which emotion?", [shown], completion)
    assert blind is not None
    assert peak(blind.falls[0]) is None
