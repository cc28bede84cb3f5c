"""Groups without signal are replaced by groups of further prompts, as often as is allowed; what is logged is the step's own."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.rollouts.dynamic_sampling import replace_empty_groups, reward_metrics
from stages.rollouts.pending import PendingRollout, prompts_of

GROUP = 2


class _Sampler(SimpleNamespace):
    """A trainer whose completions earn what the row says: a different reward for each, or the same."""

    def __init__(self, dataset: list[str]) -> None:
        super().__init__(
            accelerator=SimpleNamespace(process_index=0, num_processes=1, device="cpu", gather=lambda tensor: tensor),
            num_generations=GROUP,
            reward_weights=torch.ones(1),
            reward_func_names=["reward"],
            train_dataset=dataset,
            state=SimpleNamespace(global_step=3, num_input_tokens_seen=0),
            args=SimpleNamespace(seed=0, gradient_accumulation_steps=1),
            _step=0,
            _metrics={"train": defaultdict(list, {"completions/mean_length": [4.0]})},
            _pending_metrics={"words": [1.0]},
        )
        self.attempts: list[tuple[int, int]] = []

    def sample(self, rows: list[str], attempt: int = 0) -> list[PendingRollout]:
        self.attempts.append((attempt, len(rows)))
        self.state.num_input_tokens_seen += len(rows)
        self._metrics["train"]["completions/mean_length"].append(99.0)
        self._metrics["train"]["further"].append(1.0)
        self._pending_metrics["words"].append(99.0)
        return self.pending(rows)

    def pending(self, rows: list[str]) -> list[PendingRollout]:
        earned = [float(number % GROUP) if row == "full" else 1.0 for number, row in enumerate(rows)]
        rewards = [torch.tensor([reward]) for reward in earned]
        return [
            PendingRollout({"is": row}, None, [], [], None, None, None, own)
            for row, own in zip(rows, rewards, strict=True)
        ]


def _rows(*names: str) -> list[str]:
    return [name for name in names for _ in range(GROUP)]


def _kept(rollouts: list[PendingRollout]) -> list[str]:
    return [rollout.row["is"] for rollout in rollouts[::GROUP]]


def test_places_without_signal_are_filled_in_order_and_full_ones_stay():
    trainer = _Sampler(["full"] * 5)
    rollouts, counts = replace_empty_groups(trainer, trainer.pending(_rows("empty", "full", "empty")), 3)
    assert _kept(rollouts) == ["full"] * 3
    assert trainer.attempts == [(1, 2 * GROUP)]
    assert counts == {"sampling/rounds": 1, "sampling/resampled_groups": 2, "sampling/zero_std_left": 0}


@pytest.mark.parametrize(("rounds", "asked"), [(0, 0), (1, 1), (3, 3)])
def test_after_the_last_round_the_rest_is_trained_on_as_it_is(rounds: int, asked: int):
    trainer = _Sampler(["empty"] * 5)
    rollouts, counts = replace_empty_groups(trainer, trainer.pending(_rows("empty", "full")), rounds)
    assert _kept(rollouts) == ["empty", "full"]
    assert [attempt for attempt, _ in trainer.attempts] == list(range(1, asked + 1))
    assert counts == {"sampling/rounds": asked, "sampling/resampled_groups": 0, "sampling/zero_std_left": 1}


def test_nothing_is_asked_when_all_groups_teach():
    trainer = _Sampler(["full"])
    rollouts, counts = replace_empty_groups(trainer, trainer.pending(_rows("full", "full")), 3)
    assert _kept(rollouts) == ["full", "full"]
    assert not trainer.attempts
    assert counts["sampling/rounds"] == 0


def test_what_is_logged_of_further_prompts_is_forgotten_but_their_tokens_count():
    trainer = _Sampler(["full"] * 5)
    replace_empty_groups(trainer, trainer.pending(_rows("empty")), 1)
    assert trainer._metrics["train"] == {"completions/mean_length": [4.0], "num_tokens": [GROUP]}
    assert trainer._pending_metrics == {"words": [1.0]}


def test_the_figures_of_rewards_are_of_all_groups():
    trainer = _Sampler([])
    figures = reward_metrics(trainer, trainer.pending(_rows("empty", "full")))
    assert figures["reward"] == 0.75
    assert figures["frac_reward_zero_std"] == 0.5
    assert figures["rewards/reward/mean"] == 0.75


def test_a_prompt_holds_the_pictures_of_its_row():
    turn: list[Any] = [{"role": "user", "content": "What?"}]
    text = {"type": "text", "text": "What?"}
    ((message,),) = prompts_of([{"prompt": turn, "images": ["a"]}])
    assert message["content"] == [{"type": "image", "image": "a"}, text]
    assert prompts_of([{"prompt": turn, "images": []}, {"prompt": turn}]) == [turn, turn]
