"""A reward whose import makes the second loss of a worker's first process NaN, and with it its gradient."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import trl
from rewards_for_tests import parity_of_some_reward

nan_once_reward = parity_of_some_reward
_compute_loss = trl.GRPOTrainer.compute_loss
_calls = itertools.count(1)


def _nan_once(self: Any, *words: Any, **named: Any) -> Any:
    loss = _compute_loss(self, *words, **named)
    return loss * math.nan if next(_calls) == 2 and os.environ.get("RANK", "0") == "0" else loss


trl.GRPOTrainer.compute_loss = _nan_once
