"""How far the logits of a final/ may be from the trainer's: as far as the arithmetic of both is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.config.schema import ModelConfig, RunConfig
from pipeline.run_dir import RunDir
from stages.checkpoints import verify
from stages.checkpoints.reference_logits import Reference
from stages.processes.work import Work

ASKED = {"split": "test", "style": "think"}


@pytest.mark.parametrize(
    ("model", "attention", "difference", "refused"),
    [
        # The same forward pass twice.
        ({}, "flash_attention_2", 1e-3, True),
        ({"peft": {"r": 4}}, "sdpa", 1e-3, True),
        # Adapters beside the layers and merged into them, each rounded to bfloat16.
        ({"peft": {"r": 4}}, "flash_attention_2", 1e-2, False),
        ({"peft": {"r": 4}}, "flash_attention_2", 3e-2, True),
        # The trainer's side is measured with sdpa.
        ({"quantization": "4bit", "peft": {"r": 4}}, "flash_attention_2", 1e-2, False),
    ],
)
def test_two_ways_to_one_value_may_differ_by_the_rounding_of_flash_attention(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, object],
    attention: str,
    difference: float,
    refused: bool,
) -> None:
    loaded = torch.nn.Linear(1, 1)
    loaded.config = SimpleNamespace(_attn_implementation=attention)
    loaded.dtype = torch.float32
    monkeypatch.setattr(verify, "load_model", lambda *_: (loaded, []))
    monkeypatch.setattr(verify, "AutoProcessor", SimpleNamespace(from_pretrained=lambda *_, **__: None))
    now = Reference([], [torch.ones(8, 4) + difference], "float32", ASKED)
    monkeypatch.setattr(verify, "measure", lambda *_: now)
    work = Work(RunConfig(name="r", model=ModelConfig(**model)), "stage1_sft", RunDir(tmp_path, "r"))
    was = Reference([], [torch.ones(8, 4)], "float32", ASKED)
    found = verify._compare_logits(tmp_path, was, work, None)
    assert bool(found["problems"]) == refused
    assert found["logits"]["dtype"] == ("bfloat16" if model and attention != "sdpa" else "float32")
