"""trl.GRPOTrainer as the stages use it: counted, with rollouts of a vLLM server and dynamic sampling where asked for."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

from stages import _monitor
from stages._launch import Work
from stages._rollouts import ServedRollouts
from stages._sampling import DynamicSampling


class Trainer(DynamicSampling, ServedRollouts, GRPOTrainer):
    """trl.GRPOTrainer for one stage; with the defaults of `rollouts` and `dynamic_sampling` it trains as trl's own does.

    Its log rows also hold the figures of `_monitor.count_rollout`.

    Args:
        work: the stage.
        how: the arguments of trl.GRPOTrainer.
    """

    def __init__(self, work: Work, **how: Any) -> None:
        super().__init__(**how)
        self.work = work
        self.max_resamples = work.stage.dynamic_sampling

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rollout: dict[str, Any] = super()._generate_and_score_completions(inputs)
        _monitor.count_rollout(self, rollout)
        return rollout
