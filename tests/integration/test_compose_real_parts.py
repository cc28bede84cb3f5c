"""Pretrained parts of the package registries, composed: text and logits are those of the sources, and pictures tell apart.

Skipped, with the reason, where the parts or what reads them cannot be had (tests/real_parts.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_parts import NotToBeHad, part

pytestmark = pytest.mark.slow


def _part(name: str) -> Path:
    try:
        return part(name)
    except NotToBeHad as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(("language", "end"), [("minimind2", "<|im_end|>"), ("smollm2", "<|im_end|>")])
def test_real_parts_compose_from_the_command_line(tmp_path: Path, repo_root: Path, language: str, end: str) -> None:
    out = tmp_path / "out"
    words = ["--vision", str(_part("efficientnet_lite0")), "--language", str(_part(language)), "--image-size", "128"]
    # Wherever what reads them was found: another PYTHONPATH is set for stages.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "stages.compose", str(out), *words],
        cwd=repo_root, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["image_seq_length"]) == ("fast_vlm", 16)
    assert "quantization_config" not in config["text_config"]
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == end


def test_the_small_language_model_still_writes_text_after_it_was_read_from_whole_numbers() -> None:
    import torch

    from stages.models.compose.language import load_language

    language = load_language("minimind2", _part("minimind2"))
    turns = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris, a large city in the north of the country."},
    ]
    text = language.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = language.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        loss = float(language.model(input_ids=ids, labels=ids).loss)
    # 41 over chat text by another measurement; random weights would have the 6,400 of the vocabulary.
    assert loss < 4.6
