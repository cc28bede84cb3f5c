"""trl.GRPOTrainer as the stages use it: counted, each prompt computed once, rollouts of a server, dynamic sampling."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

from stages.processes.work import Work
from stages.rollouts.dynamic_sampling import DynamicSampling
from stages.rollouts.vllm_rollouts import ServedRollouts
from stages.shared_prefix.logprobs import SharedPrefix
from stages.training import batch_checks


class Trainer(DynamicSampling, ServedRollouts, SharedPrefix, GRPOTrainer):
    """trl.GRPOTrainer for one stage; with the defaults it trains as trl's own does, in less time.

    Its log rows also hold the figures of `batch_checks.count_rollout`.

    Args:
        work: the stage.
        how: the arguments of trl.GRPOTrainer.
    """

    def __init__(self, work: Work, **how: Any) -> None:
        super().__init__(**how)
        self.work = work
        self.max_resamples = work.stage.dynamic_sampling
        if work.stage.shared_prefix:
            self.share_prefixes()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rollout: dict[str, Any] = super()._generate_and_score_completions(inputs)
        batch_checks.count_rollout(self, rollout)
        return rollout
