"""The rows of the next rollout, read while the present one is trained on. Pure: no model, no server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

Rows = list[dict[str, Any]]


class Lookahead:
    """The micro-batches of an epoch, read one rollout further than they are given to the trainer.

    TRL's sampler gives all rows of a rollout with each of its micro-batches; here these are one and the same list.

    Args:
        per_rollout: micro-batches that are trained on each rollout (`steps_per_generation * num_iterations`).
        per_step: micro-batches of an optimizer step (`gradient_accumulation_steps`).
    """

    def __init__(self, per_rollout: int, per_step: int) -> None:
        self.per_rollout, self.per_step = per_rollout, per_step
        self._epoch: Iterator[Rows] | None = None
        self._window: list[Rows] = []
        self._given = self._read = 0

    def take(self, epoch: Iterator[Rows], count: int) -> list[Rows]:
        """Return the next `count` micro-batches of an epoch, from the first of a rollout on; fewer at its end."""
        if epoch is not self._epoch:
            self._epoch, self._window, self._given, self._read = epoch, [], 0, 0
        del self._window[: self._given]
        for rows in itertools.islice(epoch, count + self.per_rollout - len(self._window)):
            self._window.append(self._window[-1] if self._read % self.per_rollout else rows)
            self._read += 1
        given = self._window[:count]
        self._given = len(given)
        return given

    def after(self, rows: Rows, steps_left: int) -> Rows | None:
        """Return the rows that the next rollout asks; None when the epoch, or training, ends before it.

        Args:
            rows: a rollout's, as `take` gave them last.
            steps_left: optimizer steps until training ends, the one these rows were taken for among them.
        """
        first = next(place for place, taken in enumerate(self._window) if taken is rows)
        place = first + self.per_rollout
        if place >= len(self._window) or place // self.per_step >= steps_left:
            return None
        return self._window[place]
