"""What the trainers count beside TRL's own figures, on values small enough to count by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.training import batch_checks

IMAGE = 9
# 64 pixels: 4 x 4 patches, 4 features a tile.
IDEFICS3 = SimpleNamespace(image_token_id=IMAGE, scale_factor=2, vision_config=SimpleNamespace(patch_size=16))


def trainer(config: Any = IDEFICS3, completions: tuple[str, ...] = (), rewards: tuple[list[float], ...] = ()) -> Any:
    """A trainer of one process, as far as it is looked at."""
    accelerator = SimpleNamespace(num_processes=1, unwrap_model=lambda model: model, reduce=lambda one, reduction: one)
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(config=config, training=True),
        num_generations=2,
        _metrics={"train": defaultdict(list)},
        _logs={"completion": completions, "rewards": dict(enumerate(rewards))},
    )


def counted(one: Any) -> dict[str, float]:
    return {key: values[-1] for key, values in one._metrics["train"].items()}


def ids(*images: int) -> torch.Tensor:
    """Rows of eight tokens, of which so many are image tokens."""
    return torch.tensor([[IMAGE] * count + [1] * (8 - count) for count in images])


def test_a_rollout_is_counted_over_its_groups_and_rewards():
    nan = math.nan
    one = trainer(completions=("a", "a", "b", "c"), rewards=([nan, 1.0, nan, 0.0], [nan, nan, nan, 1.0]))
    batch = {
        "prompt_ids": ids(4, 4, 4, 4),
        "completion_ids": ids(0, 0, 0, 0),
        "pixel_values": torch.ones(4, 1, 3, 64, 64),
    }
    batch_checks.count_rollout(one, batch, [1] * 4)
    assert counted(one) == {
        "images/dropped_ratio": 0.0,
        "images/token_mismatch_ratio": 0.0,
        "completions/duplicate_ratio": 0.5,
        "rewards/unscored_ratio": 0.5,
    }


@pytest.mark.parametrize(
    ("ratio", "left_out"),
    [
        # A ratio for each completion, the third of which is above what is taken.
        ([[1.1], [0.9], [0.0], [1.0]], 1 / 4),
        # One for each token; tokens behind the end of a completion do not count.
        ([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.9, 1.2, 1.0]], 2 / 10),
    ],
)
def test_what_the_loss_leaves_out_of_a_server_s_completions_is_counted(
    ratio: list[list[float]], left_out: float
) -> None:
    one = trainer(completions=("a", "b", "c", "d"), rewards=([1.0] * 4,))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]])
    batch = {"prompt_ids": ids(0, 0, 0, 0), "completion_ids": ids(0, 0, 0, 0), "completion_mask": mask}
    batch_checks.count_rollout(one, {**batch, "importance_sampling_ratio": torch.tensor(ratio)}, [0] * 4)
    assert counted(one)["sampling/left_out_ratio"] == pytest.approx(left_out)
    batch_checks.count_rollout(without := trainer(completions=("a",) * 4, rewards=([1.0] * 4,)), batch, [0] * 4)
    assert "sampling/left_out_ratio" not in counted(without)


def test_images_that_do_not_arrive_and_tokens_without_one_are_counted():
    rewards = ([1.0] * 2,)
    one = trainer(completions=("a", "b"), rewards=rewards)
    batch_checks.count_rollout(one, {"prompt_ids": ids(4, 4), "completion_ids": ids(0, 0)}, [1, 1])
    # TRL took pixel_values out of the batch.
    assert counted(one)["images/dropped_ratio"] == 1.0
    one = trainer(completions=("a", "b"), rewards=rewards)
    sampled = {"prompt_ids": ids(4, 4), "completion_ids": ids(0, 2), "pixel_values": torch.ones(2, 1, 3, 64, 64)}
    batch_checks.count_rollout(one, sampled, [1, 1])
    # The second completion writes two image tokens.
    assert counted(one)["images/token_mismatch_ratio"] == 0.2
    one = trainer(completions=("a", "b"), rewards=rewards)
    batch_checks.count_rollout(one, {**sampled, "prompt_ids": ids(0, 8), "completion_ids": ids(0, 0)}, [1, 1])
    assert counted(one)["images/dropped_ratio"] == 0.5


def test_a_row_of_text_alone_drops_no_picture():
    one = trainer(completions=("a", "b"), rewards=([1.0] * 2,))
    sampled = {"prompt_ids": ids(0, 4), "completion_ids": ids(0, 0), "pixel_values": torch.ones(1, 1, 3, 64, 64)}
    for pictures, ratio in (([0, 2], 0.0), ([1, 1], 0.5)):
        batch_checks.count_rollout(one, sampled, pictures)
        assert counted(one)["images/dropped_ratio"] == ratio
    del sampled["pixel_values"]
    for pictures, ratio in (([0, 0], 0.0), ([0, 2], 0.5)):
        batch_checks.count_rollout(one, sampled, pictures)
        assert counted(one)["images/dropped_ratio"] == ratio


def test_rows_without_a_supervised_token_are_counted():
    one = trainer()
    labels = torch.tensor([[-100] * 8, [-100] * 5 + [1, 2, 3]])
    batch_checks.count_supervised(
        one, {"input_ids": ids(4, 4), "labels": labels, "pixel_values": torch.ones(2, 1, 3, 64, 64)}, torch.ones(2)
    )
    assert counted(one) == {
        "images/dropped_ratio": 0.0,
        "images/token_mismatch_ratio": 0.0,
        "labels/tokens": 3,
        "labels/empty_ratio": 0.5,
    }


def test_a_batch_s_figures_cross_ranks_and_leave_the_device_at_once(monkeypatch):
    one = trainer()
    sums: list[torch.Tensor] = []
    one.accelerator.reduce = lambda figures, reduction: sums.append(figures) or figures
    read: list[str] = []
    for way in ("item", "tolist", "__bool__", "__int__", "__float__"):
        real = getattr(torch.Tensor, way)
        monkeypatch.setattr(torch.Tensor, way, lambda self, way=way, real=real: read.append(way) or real(self))
    batch = {"input_ids": ids(4, 4), "labels": ids(4, 4), "pixel_values": torch.ones(2, 1, 3, 64, 64)}
    batch_checks.count_supervised(one, batch, torch.ones(2))
    assert len(sums) == 1
    assert read == ["tolist"]


def test_features_are_counted_in_every_family_s_own_tensors():
    qwen = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))
    grid = {"pixel_values": torch.ones(24, 1176), "image_grid_thw": torch.tensor([[1, 4, 4], [1, 2, 4]])}
    assert batch_checks.image_features(grid, qwen) == 6
    padded = torch.cat([torch.ones(2, 1, 3, 64, 64), torch.zeros(2, 1, 3, 64, 64)], dim=1)
    # A tile of zeros is padding.
    assert batch_checks.image_features({"pixel_values": padded}, IDEFICS3) == 8
    internvl = SimpleNamespace(image_seq_length=256)
    assert batch_checks.image_features({"pixel_values": torch.ones(3, 3, 8, 8)}, internvl) == 768
    assert batch_checks.image_features({"pixel_values": torch.ones(3, 3, 8, 8)}, SimpleNamespace()) is None
    assert batch_checks.image_features({}, qwen) == 0


@pytest.mark.parametrize(
    ("texts", "group", "ratio"), [("aaaa", 4, 1.0), ("aabb", 2, 1.0), ("aabc", 2, 0.5), ("abab", 2, 0.0), ("", 4, 0.0)]
)
def test_only_texts_of_one_group_repeat_each_other(texts, group, ratio):
    assert batch_checks.duplicate_ratio(list(texts), group) == ratio
