"""The first batch of a process, which is also computed by TRL: when its difference is the device's noise, and when a fault."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.shared_prefix.logprobs import ScoredRows
from stages.training import grpo_trainer
from stages.training.grpo_trainer import PolicyTrainer


@pytest.mark.parametrize(
    ("bf16", "ours", "noise", "sharing"),
    [
        (False, 1e-5, 0.0, True),
        (False, 1e-3, 1e-6, False),
        (True, 1e-2, 0.0, True),
        (True, 3e-2, 1e-3, False),
        # Kernels alone make as much there.
        (True, 3e-2, 2e-2, True),
        (True, 9e-2, 2e-2, False),
        (True, float("nan"), 2e-2, False),
    ],
)
def test_sharing_is_held_against_the_noise_of_trls_own_batch_sizes(
    bf16: bool, ours: float, noise: float, sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(grpo_trainer.log, "info", said.append)
    trainer = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        args=SimpleNamespace(bf16=bf16, fp16=False, gradient_checkpointing_kwargs=None),
        accelerator=SimpleNamespace(reduce=lambda figures, reduction: figures),
        _metrics={"train": defaultdict(list)},
        sharing=True,
    )
    monkeypatch.setattr(grpo_trainer, "disable_gradient_checkpointing", lambda *_: torch.no_grad())
    right = torch.full((4, 5), -1.0)

    def by_trl(model: Any, batch: Any, at_once: int, options: Any) -> Any:
        return right + (noise if at_once == 2 else 0.0), None, None

    trainer._trl_logps = by_trl
    monkeypatch.setattr(grpo_trainer, "shared_logps", lambda *_: (right + ours, None, None))
    batch = ScoredRows(torch.ones(4, 9), torch.ones(4, 9), 5, [{}] * 4, None, None, None)
    PolicyTrainer._compare(trainer, None, batch, {"compute_entropy": False})
    assert trainer.sharing == sharing
    assert bool(said) != sharing
    figures = trainer._metrics["train"]
    assert figures["shared_prefix/difference"] == [pytest.approx(ours, rel=1e-2, nan_ok=True)]
    assert figures["shared_prefix/difference_of_trl"] == [pytest.approx(noise, rel=5e-2)]
