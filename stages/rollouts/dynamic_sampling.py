"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose rewards are all equal teach nothing and are replaced.

Such a group has advantages of zero. Its place is taken by the group of a further prompt whose rewards differ; after
`dynamic_sampling` rounds of asking, what is left is trained on as it is. The logged rewards are those of the step's own prompts,
as without dynamic sampling; `kept/…` holds the same of the batch that is trained on, which the selection flatters or hurts.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import gather
from trl.trainer.utils import nanstd

from stages.rollouts.pending import PendingRollout, rollout_place


def replace_empty_groups(
    trainer: Any, rollouts: list[PendingRollout], max_rounds: int
) -> tuple[list[PendingRollout], dict[str, float]]:
    """Replace as many as possible of the groups without signal by groups of further prompts.

    The groups of a process are whole (pipeline.checks.trainer), and each process fills its own places. Called on all ranks.

    Args:
        trainer: whose `sample` asks further prompts.
        rollouts: of this process, group after group.
        max_rounds: how often further prompts are asked.

    Returns:
        The rollouts to train on, and counts to log, over all processes.
    """
    groups, replaced, rounds = split_groups(rollouts, trainer.num_generations), 0, 0
    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes

    def sum_over_processes(*numbers: int) -> list[int]:
        counts = torch.tensor([numbers], device=trainer.accelerator.device)
        return trainer.accelerator.gather(counts).sum(dim=0).tolist()

    for number in range(1, max_rounds + 1):
        empty = [place for place, group in enumerate(groups) if not has_signal(trainer, group)]
        missing = int(trainer.accelerator.gather(torch.tensor(len(empty), device=trainer.accelerator.device)).max())
        if not missing:
            break
        rounds = number
        drawn = further_rows(f"{rollout_place(trainer)}/{number}", missing * processes, len(trainer.train_dataset))
        rows = [trainer.train_dataset[row] for row in drawn[rank * missing : (rank + 1) * missing]]
        with _unlogged(trainer):
            asked = trainer.sample([row for row in rows for _ in range(trainer.num_generations)], attempt=number)
        full = [group for group in split_groups(asked, trainer.num_generations) if has_signal(trainer, group)]
        for place, group in zip(empty, full, strict=False):
            groups[place] = group
            replaced += 1
    left = sum(not has_signal(trainer, group) for group in groups)
    resampled, zero_std = sum_over_processes(replaced, left)
    return [rollout for group in groups for rollout in group], {
        "sampling/rounds": float(rounds),
        "sampling/resampled_groups": float(resampled),
        "sampling/zero_std_left": float(zero_std),
    }


def reward_metrics(trainer: Any, rollouts: Sequence[PendingRollout]) -> dict[str, float]:
    """Return what TRL logs of rewards, by its formulas, of all processes' rollouts. Called on all ranks."""
    rewards = gather(torch.stack([rollout.rewards for rollout in rollouts]))
    weighted = _weighted(trainer, rewards)
    std = nanstd(weighted.view(-1, trainer.num_generations), dim=1)
    values = {
        "reward": torch.nanmean(weighted),
        "reward_std": nanstd(weighted),
        "frac_reward_zero_std": torch.isclose(std, torch.zeros_like(std)).float().mean(),
    }
    for column, name in zip(rewards.T, trainer.reward_func_names, strict=True):
        values |= {f"rewards/{name}/mean": torch.nanmean(column), f"rewards/{name}/std": nanstd(column)}
    return {name: value.item() for name, value in values.items()}


def split_groups(rollouts: Sequence[PendingRollout], size: int) -> list[Sequence[PendingRollout]]:
    """Split rollouts into groups of one prompt each."""
    return [rollouts[start : start + size] for start in range(0, len(rollouts), size)]


def has_signal(trainer: Any, group: Sequence[PendingRollout]) -> bool:
    """Check whether a group's rewards differ, so that its advantages are not all zero."""
    std = nanstd(_weighted(trainer, torch.stack([rollout.rewards for rollout in group])))
    return bool(std > 1e-8)


def further_rows(place: str, count: int, rows: int) -> list[int]:
    """Draw indices of `count` rows to ask beside a step's own, anew for each place; no row twice while there are enough."""
    chance = random.Random(place)
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += chance.sample(range(rows), min(rows, count - len(drawn)))
    return drawn


def _weighted(trainer: Any, rewards: torch.Tensor) -> torch.Tensor:
    """(samples, functions) -> (samples,): TRL's weighted sum, nan where no function gave a reward."""
    weighted = (rewards * trainer.reward_weights.to(rewards.device)).nansum(dim=1)
    weighted[torch.isnan(rewards).all(dim=1)] = torch.nan
    return weighted


@contextlib.contextmanager
def _unlogged(trainer: Any) -> Iterator[None]:
    """Leave a step's figures as they are, whatever is logged of further prompts within the block; but count their tokens."""
    logs = (trainer._metrics["train"], trainer._pending_metrics)
    before = [{name: list(values) for name, values in log.items()} for log in logs]
    yield
    for log, values in zip(logs, before, strict=True):
        log.clear()
        log.update(values)
    trainer._metrics["train"]["num_tokens"] = [trainer.state.num_input_tokens_seen]
