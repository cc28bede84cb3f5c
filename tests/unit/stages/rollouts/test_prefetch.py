"""Which rows the next rollout asks, and when there is none to ask."""

from __future__ import annotations

from typing import Any

import pytest

from stages.rollouts.prefetch import Lookahead


def seen(rollouts: int, per_rollout: int, per_step: int, max_steps: int | None = None, epochs: int = 1) -> list[Any]:
    """Per rollout (its rows, those of the next), to a trainer that takes micro-batches as transformers does.

    Rows are (epoch, rollout).
    """
    lookahead = Lookahead(per_rollout, per_step)
    micro_batches = rollouts * per_rollout
    per_epoch = -(-micro_batches // per_step)
    max_steps = max_steps or epochs * per_epoch
    pairs: list[Any] = []
    for step in range(max_steps):
        epoch, of_epoch = divmod(step, per_epoch)
        if of_epoch == 0:
            batches = iter([[{"at": (epoch, number // per_rollout)}] for number in range(micro_batches)])
        begin = of_epoch * per_step
        for number, rows in enumerate(lookahead.take(batches, min(per_step, micro_batches - begin)), start=begin):
            if number % per_rollout == 0:
                rollout, after = rows, lookahead.after(rows, max_steps - step)
                pairs.append((rows[0]["at"], after and after[0]["at"]))
            # All micro-batches of a rollout are one list.
            assert rows is rollout
    return pairs


@pytest.mark.parametrize(("per_rollout", "per_step"), [(1, 1), (4, 1), (4, 2), (2, 4), (1, 3), (3, 3), (8, 4), (1, 4)])
def test_each_rollout_knows_the_next_until_the_epoch_ends(per_rollout, per_step):
    assert seen(6, per_rollout, per_step) == [((0, at), (0, at + 1) if at < 5 else None) for at in range(6)]


def test_the_first_rollout_of_an_epoch_is_not_known_before_it_begins():
    assert seen(2, per_rollout=2, per_step=2, epochs=2) == [
        *(((0, 0), (0, 1)), ((0, 1), None)),
        *(((1, 0), (1, 1)), ((1, 1), None)),
    ]


@pytest.mark.parametrize(
    ("per_rollout", "per_step", "max_steps", "rollouts"),
    [(1, 1, 3, 3), (4, 1, 8, 2), (4, 2, 5, 3), (2, 4, 2, 4), (1, 3, 1, 3)],
)
def test_nothing_is_asked_that_training_ends_before(per_rollout, per_step, max_steps, rollouts):
    pairs = seen(12, per_rollout, per_step, max_steps)
    assert pairs == [((0, at), (0, at + 1) if at < rollouts - 1 else None) for at in range(rollouts)]


def test_one_rollout_more_is_read_than_is_given():
    batches = iter([[{"at": number}] for number in range(20)])
    Lookahead(per_rollout=2, per_step=2).take(batches, 2)
    assert next(batches) == [{"at": 4}]
