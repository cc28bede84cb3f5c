"""trl.GRPOTrainer as the stages use it: every rollout is counted."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

from stages import _monitor


class Trainer(GRPOTrainer):
    """GRPOTrainer whose log rows also hold the figures of `_monitor.count_rollout`."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rollout: dict[str, Any] = super()._generate_and_score_completions(inputs)
        _monitor.count_rollout(self, rollout)
        return rollout
