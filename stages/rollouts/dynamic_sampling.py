"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups whose rewards are all equal teach nothing and are replaced.

Such a group has advantages of zero. Its place is taken by the group of a further prompt whose rewards differ; after
`dynamic_sampling` rounds of asking, what is left is trained on as it is. The logged rewards are those of the step's own prompts,
as without dynamic sampling; `kept/…` holds the same of the batch that is trained on, which the selection flatters or hurts.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather
from trl.trainer.utils import nanstd

from stages.rollouts.vllm_rollouts import prompts_of, rollout_place


@dataclass(frozen=True)
class Sample:
    """One completion, with what TRL makes a batch of."""

    row: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    images: list[Any]
    logprobs: list[float] | None
    rewards: torch.Tensor
    """One per reward function; nan where it gave None."""


class DynamicSampling:
    """What of trl.GRPOTrainer changes with dynamic sampling; with `max_resamples` 0 nothing does.

    The groups of a process are whole (pipeline.checks.trainer), and each process fills its own places.
    """

    max_resamples = 0
    _kept: list[Sample] | None = None

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.max_resamples or not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        metrics = self._metrics["train"]
        groups = self._own_groups(inputs)
        own = _reward_metrics(self, groups)
        # What the rewards logged for the step's own prompts is kept; TRL flushes it below.
        pending = {name: list(values) for name, values in self._pending_metrics.items()}
        with _metrics_aside(self):
            groups, counts = self._fill(groups)
        metrics["num_tokens"] = [self.state.num_input_tokens_seen]
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        self._pending_metrics.update(pending)
        self._kept = [sample for group in groups for sample in group]
        try:
            with _metrics_aside(self) as trained:
                output: dict[str, Any] = super()._generate_and_score_completions([sample.row for sample in self._kept])  # type: ignore[misc]
        finally:
            self._kept = None
        for name, values in trained.items():
            metrics[f"kept/{name}" if name in own else name] += values
        for name, value in {**own, **counts}.items():
            metrics[name].append(value)
        return output

    def _fill(self: Any, groups: list[list[Sample]]) -> tuple[list[list[Sample]], dict[str, float]]:
        """The groups with as many as possible of those without signal replaced, and the counts to log, over all processes."""
        groups, replaced, rounds = list(groups), 0, 0
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        try:
            while rounds < self.max_resamples:
                empty = [place for place, group in enumerate(groups) if not self._has_signal(group)]
                missing = int(self.accelerator.gather(self._count(len(empty))).max())
                if not missing:
                    break
                rounds += 1
                self.resample_round = rounds
                drawn = further_rows(f"{rollout_place(self)}/{rounds}", missing * processes, len(self.train_dataset))
                rows = [self.train_dataset[row] for row in drawn[rank * missing : (rank + 1) * missing]]
                fresh = self._own_groups([row for row in rows for _ in range(self.num_generations)])
                for place, group in zip(empty, filter(self._has_signal, fresh), strict=False):
                    groups[place] = group
                    replaced += 1
        finally:
            self.resample_round = 0
        left = sum(not self._has_signal(group) for group in groups)
        counts = self.accelerator.gather(torch.stack([self._count(replaced), self._count(left)])).view(-1, 2).sum(dim=0)
        return groups, {
            "sampling/rounds": float(rounds),
            "sampling/resampled_groups": float(counts[0]),
            "sampling/zero_std_left": float(counts[1]),
        }

    def _own_groups(self: Any, inputs: list[dict[str, Any]]) -> list[list[Sample]]:
        """Completions and rewards of this process's rows, group by group."""
        prompts = prompts_of(inputs)
        prompt_ids, completion_ids, _, completions, logprobs, _, images, _ = self._generate(prompts)
        rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids)
        first = self.accelerator.process_index * len(inputs)
        samples = [
            Sample(*parts)
            for parts in zip(
                inputs,
                prompt_ids,
                completion_ids,
                completions,
                images,
                logprobs or [None] * len(inputs),
                rewards[first : first + len(inputs)],
                strict=True,
            )
        ]
        size = self.num_generations
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def _has_signal(self: Any, group: Sequence[Sample]) -> bool:
        std = nanstd(_weighted(self, torch.stack([sample.rewards for sample in group])))
        return bool(std > 1e-8)

    def _count(self: Any, number: int) -> torch.Tensor:
        return torch.tensor(number, device=self.accelerator.device)

    def _generate(self: Any, prompts: list[Any]) -> Any:
        """The kept completions while TRL makes a batch of them, else new ones."""
        if self._kept is None:
            return super()._generate(prompts)  # type: ignore[misc]
        kept: list[Sample] = self._kept
        logprobs = None if kept[0].logprobs is None else [sample.logprobs for sample in kept]
        return (
            [sample.prompt_ids for sample in kept],
            [sample.completion_ids for sample in kept],
            None,
            [sample.completion for sample in kept],
            logprobs,
            {},
            [sample.images for sample in kept],
            [],
        )

    def _calculate_rewards(self: Any, *columns: Any) -> torch.Tensor:
        """The kept completions' rewards while TRL makes a batch of them; none is judged twice."""
        if self._kept is None:
            return super()._calculate_rewards(*columns)  # type: ignore[misc]
        return gather(torch.stack([sample.rewards for sample in self._kept]))


def further_rows(place: str, count: int, rows: int) -> list[int]:
    """Indices of `count` rows to ask beside a step's own, drawn anew for each place; no row twice while there are enough."""
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


def _reward_metrics(trainer: Any, groups: list[list[Sample]]) -> dict[str, float]:
    """What TRL logs of rewards, by its formulas, of all processes' groups."""
    rewards = gather(torch.stack([sample.rewards for group in groups for sample in group]))
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


@contextlib.contextmanager
def _metrics_aside(trainer: Any) -> Iterator[dict[str, list[float]]]:
    """Collect what is logged within the block apart from the step's metrics."""
    before, trainer._metrics["train"] = trainer._metrics["train"], defaultdict(list)
    try:
        yield trainer._metrics["train"]
    finally:
        trainer._metrics["train"] = before
