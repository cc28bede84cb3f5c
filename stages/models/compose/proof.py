"""Whether a composed folder is its parts: loaded again by plain transformers, it is compared with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.config.schema import LEAST_SEEN
from pipeline.errors import UserError
from stages.models.compose.language import Language
from stages.models.compose.vision import Reading, Tower, features
from stages.models.row_logits import last_logits, share_moved

TOLERANCE = 1e-4
"""Largest difference from a part, as a share of its largest figure; both are float32."""
TEXTS = ("What is the capital of France?", "Name three colours.", "1, 2, 3, 4, and then?")
NEW_TOKENS = 16


@dataclass(frozen=True)
class Proof:
    """What was measured; nothing stands against the folder."""

    parameters: int
    projector: int
    """Parameters that are random."""
    text_difference: float
    """Largest difference of a logit from the language model's, as a share of the largest."""
    feature_difference: float
    """Largest difference of the tower's features from its source's, as a share of the largest."""
    picture_difference: float
    """Change of the logits when one picture is swapped for another, as a share of the largest."""

    @property
    def told(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f}M parameters, of which {self.projector / 1e6:.1f}M are random; text within "
            f"{self.text_difference:.0e} of the language model, features within {self.feature_difference:.0e} of the tower, "
            f"logits move by {self.picture_difference:.0e} with the picture"
        )


def prove(folder: Path, tower: Tower, reading: Reading, language: Language) -> Proof:
    """Load a composed folder as anybody would and compare it with its parts.

    Raises:
        UserError: naming every proof that failed.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    model.eval()
    found: dict[str, float] = {}
    with torch.inference_mode():
        problems = [
            *(
                f"{kind.replace('_', ' ')}: {', '.join(sorted(map(str, keys))[:3])}"
                for kind, keys in info.items()
                if keys
            ),
            *_text_problems(model, processor, language, found),
            *_picture_problems(model, processor, tower, reading, language, found),
        ]
    if problems:
        raise UserError([f"the composed model is not its parts: {problem}" for problem in problems])
    projector = sum(one.numel() for one in model.model.multi_modal_projector.parameters())
    return Proof(model.num_parameters(), projector, **found)


def _text_problems(model: Any, processor: Any, language: Language, found: dict[str, float]) -> Iterator[str]:
    """Text without a picture: logits and greedy tokens are the language model's."""
    known = language.model.get_input_embeddings().weight.shape[0]
    ids = language.special_ids
    how = {
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "eos_token_id": ids["eos_token_id"],
        "pad_token_id": ids["pad_token_id"],
    }
    found["text_difference"] = 0.0
    for text in TEXTS:
        turns = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        own = language.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        if prompt != own:
            yield f"its chat template writes {prompt!r} where the language model's writes {own!r}"
        inputs = processor(text=[prompt], return_tensors="pt", add_special_tokens=False)
        asked = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        logits, expected = model(**asked).logits[..., :known], language.model(**asked).logits
        difference = share_moved(logits, expected)
        found["text_difference"] = max(found["text_difference"], difference)
        if not difference <= TOLERANCE:
            yield (
                f"the logits of {text!r} differ from the language model's by {difference:.1e} of the largest: "
                f"{language.model.config.model_type} does more than a base model and a plain head"
            )
            return
        said, wanted = (one.generate(**asked, **how)[0].tolist() for one in (model, language.model))
        if said != wanted:
            yield f"it answers {text!r} with {processor.decode(said)!r}, the language model with {processor.decode(wanted)!r}"


def _picture_problems(
    model: Any, processor: Any, tower: Tower, reading: Reading, language: Language, found: dict[str, float]
) -> Iterator[str]:
    """Pictures: as many tokens as features, the tower's own features, and logits that change with what is shown."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    if prompt.count(processor.image_token) != 1:
        yield f"its chat template writes {prompt.count(processor.image_token)} places for one picture: {prompt!r}"
        return
    shown = pictures(reading.image_size)
    inputs = [processor(text=[prompt], images=[[one]], return_tensors="pt", add_special_tokens=False) for one in shown]
    tokens = int((inputs[0]["input_ids"] == language.image_token_id).sum())
    if tokens != reading.tokens:
        yield f"its processor makes {tokens} tokens of a picture, the tower {reading.tokens}"
        return
    pixels = inputs[0]["pixel_values"]
    expected = features(tower.model, reading, pixels)
    got = features(model.model.vision_tower, reading, pixels)
    found["feature_difference"] = share_moved(got, expected)
    if got.shape[1] != reading.tokens or not found["feature_difference"] <= TOLERANCE:
        yield f"its tower's features differ from the source's by {found['feature_difference']:.1e} of the largest"
    wanted = (np.asarray(shown[0], dtype=np.float64) * tower.rescale_factor - tower.image_mean) / tower.image_std
    if np.abs(pixels[0].permute(1, 2, 0).numpy() - wanted).max() > 1e-3:
        yield "its processor normalises a picture otherwise than the tower's does"
    first, second = (last_logits(model, one) for one in inputs)
    found["picture_difference"] = share_moved(second, first)
    if not found["picture_difference"] > LEAST_SEEN:
        yield (
            f"its logits move by {found['picture_difference']:.1e} of the largest when another picture is shown: the tower shows "
            "the language model nothing (random weights, or features of another scale)"
        )


def pictures(side: int) -> list[Image.Image]:
    """Return two pictures that differ everywhere: coarse squares of colours."""
    rng = np.random.default_rng(0)
    coarse = (Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(2))
    return [one.resize((side, side), Image.Resampling.NEAREST) for one in coarse]
