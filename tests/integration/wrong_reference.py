"""A reward whose import makes a worker hand over a reference that its weights do not give."""

from __future__ import annotations

import dataclasses
from typing import Any

from rewards_for_tests import parity_reward

from stages.checkpoints import handover
from stages.checkpoints.reference_logits import Reference

wrong_reward = parity_reward
_measure = handover.measure


def _as_in_less_precision(*words: Any) -> Reference:
    right = _measure(*words)
    return dataclasses.replace(right, logits=[1.01 * one for one in right.logits])


handover.measure = _as_in_less_precision
