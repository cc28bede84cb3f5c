"""The model card of a composed model: what of it is real, what is random, and what was proven; README.md of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.checks.parts import CARD, COMPOSED_OF, GGUF, ONNX
from pipeline.config.schema import ComposeConfig
from pipeline.files import write_atomic
from stages.models.compose.language import Language
from stages.models.compose.proof import Proof
from stages.models.compose.vision import FAST_VLM, Reading, Tower

_LOST = {
    GGUF: "The weights were read from a GGUF file, whose numbers are rounded.",
    ONNX: "The weights were read from an ONNX file; where that was quantised, their numbers are rounded.",
}


def composition(parts: ComposeConfig, vision: str, language: str, seed: int) -> dict[str, Any]:
    """Return what a composition is made of, as its card records it.

    Args:
        parts: as they were asked for.
        vision: digest of the tower's weights.
        language: digest of the language model's.
        seed: of the projector.
    """
    return {
        "vision": {"source": parts.vision, "sha256": vision},
        "language": {"source": parts.language, "sha256": language},
        "image_size": parts.image_size,
        "layer": parts.layer,
        "seed": seed,
    }


def write_card(
    folder: Path, made_of: dict[str, Any], tower: Tower, reading: Reading, language: Language, proof: Proof
) -> None:
    """Write the card of a proven composition."""
    front = {
        # The Hub knows no folders.
        "base_model": [one for one in (tower.source, language.source) if not Path(one).expanduser().exists()],
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        COMPOSED_OF: made_of,
    }
    named = getattr(tower.model.config, "architecture", tower.family)
    text_type = language.model.config.model_type
    before = f", behind {reading.leading} others, of which the class token is left out" if reading.leading else ""
    registers = f" (registers: {reading.registers}, which stay)" if reading.registers else ""
    end = language.tokenizer.eos_token
    told_end = f" Its files name {language.own_end!r}." if language.own_end != end else ""
    added = language.rows - language.model.get_input_embeddings().weight.shape[0]
    unset = f" No value had, and none reads: {', '.join(tower.unset)}." if tower.unset else ""
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {folder.name.removeprefix('.').removesuffix('.composing')}\n",
        "Composed, not trained: **the projector between the parts is random**, so whatever it says of a picture is noise until a "
        "stage has aligned it. It loads with plain `AutoModelForImageTextToText` and `AutoProcessor`"
        + (", which need the package timm for it" if tower.family == "timm_wrapper" else "")
        + ".\n",
        "| part | from | weights |",
        "|---|---|---|",
        f"| vision tower, {named} | `{tower.source}` | as there, frozen or not as a stage says |",
        f"| projector, two layers | new, seed {made_of['seed']} | **random**, {proof.projector:,} of {proof.parameters:,} |",
        f"| language model, {text_type} | `{language.source}` | as there |\n",
        f"- A picture becomes a square of {reading.image_size} pixels, whatever its shape, and {reading.tokens} tokens of "
        f"{reading.patch_size} x {reading.patch_size} pixels{before}{registers}.",
        "- The projector reads "
        + ("the tower's last map" if reading.model_type == FAST_VLM else f"hidden state {reading.layer} of the tower")
        + f".{unset}",
        f"- A turn ends with `{end}`.{told_end}",
        "- The chat template is "
        + ("the language model's own" if language.has_template else "a plain one, for the language model has none")
        + ", behind a preamble that makes strings of contents given as lists.",
        f"- Rows added to the embeddings: {added}, each the mean of the others.",
        *([f"- {_LOST[language.kind]}"] if language.kind in _LOST else []),
        "\n## Proven when it was written\n",
        "| what | measured |",
        "|---|---|",
        "| loaded again by the Auto classes | no weight missing, unexpected or of another shape |",
        f"| text without a picture | logits within {proof.text_difference:.0e} of the language model's, greedy tokens equal |",
        f"| features of a picture | within {proof.feature_difference:.0e} of the tower's |",
        f"| another picture | logits move by {proof.picture_difference:.0e} of the largest |\n",
        "## Licence\n",
        "That of the parts; see theirs. Add `license:` above before you publish.\n",
    ]
    write_atomic(folder / CARD, "\n".join(lines))
