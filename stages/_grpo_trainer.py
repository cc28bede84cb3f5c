"""The GRPO trainer of CLGRPO: trl's, with rollouts of a vLLM server and with dynamic sampling where a stage asks for them."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

from stages._launch import Work
from stages._rollouts import ServedRollouts
from stages._sampling import DynamicSampling


class Trainer(DynamicSampling, ServedRollouts, GRPOTrainer):
    """trl.GRPOTrainer for one stage; with the defaults of `rollouts` and `dynamic_sampling` it is trl's own, unchanged.

    Args:
        work: the stage.
        how: the arguments of trl.GRPOTrainer.
    """

    def __init__(self, work: Work, **how: Any) -> None:
        super().__init__(**how)
        self.work = work
        self.max_resamples = work.stage.dynamic_sampling
