"""What TRL does not count: images that reach the model, repeated and unscored completions, rows without supervision.

Called once per rollout, or per batch of supervised training; the figures join the trainer's own under keys like TRL's, over all
ranks. `pipeline.metrics.alarms` judges them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rewards import completion_text

Batch = Mapping[str, Any]


def count_rollout(trainer: Any, rollout: Batch, pictures: Sequence[int]) -> None:
    """Count one rollout, after TRL has scored it.

    Args:
        trainer: a trl.GRPOTrainer.
        rollout: what `_generate_and_score_completions` gave: this rank's share.
        pictures: of each of its rows.
    """
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)
    counts = torch.tensor(pictures, device=ids.device)
    figures = [*_image_figures(trainer, ids, rollout, counts), *_left_out(rollout)]
    *images, left_out, weighed = _sums(trainer, figures, ids)
    _tell_images(trainer, images)
    metrics = _metrics(trainer)
    if weighed:
        metrics["sampling/left_out_ratio"].append(left_out / weighed)
    rows = len(rollout["prompt_ids"]) * trainer.accelerator.num_processes
    # Of all ranks.
    texts = [completion_text(completion) for completion in list(trainer._logs["completion"])[-rows:]]
    metrics["completions/duplicate_ratio"].append(duplicate_ratio(texts, trainer.num_generations))
    scores = [list(scores)[-rows:] for scores in trainer._logs["rewards"].values()]
    unscored = sum(all(map(math.isnan, row)) for row in zip(*scores, strict=True))
    metrics["rewards/unscored_ratio"].append(unscored / rows)


def count_supervised(trainer: Any, batch: Batch, pictures: torch.Tensor) -> None:
    """Count one batch of supervised training.

    Args:
        trainer: a trl.SFTTrainer.
        batch: this rank's `input_ids` and `labels`, both (rows, tokens), and what the processor gave for the images.
        pictures: (rows,) of each row.
    """
    ids = batch["input_ids"]
    supervised = (batch["labels"] != -100).sum(dim=1)
    figures = [supervised.sum(), (supervised == 0).sum(), *_image_figures(trainer, ids, batch, pictures)]
    tokens, empty, *images = _sums(trainer, figures, ids)
    _tell_images(trainer, images)
    _metrics(trainer)["labels/tokens"].append(tokens)
    _metrics(trainer)["labels/empty_ratio"].append(empty / images[0])


def count_distilled(trainer: Any, sums: torch.Tensor) -> None:
    """Log the two parts of a distilled loss as means over the tokens of all ranks, in nats per token.

    Args:
        trainer: a trl.SFTTrainer.
        sums: of this rank: cross entropy, KL(teacher, student), tokens.
    """
    cross_entropy, kl, tokens = trainer.accelerator.reduce(sums, reduction="sum").tolist()
    _metrics(trainer)["distill/cross_entropy"].append(cross_entropy / max(1, tokens))
    _metrics(trainer)["distill/kl"].append(kl / max(1, tokens))


def duplicate_ratio(texts: Sequence[str], group: int) -> float:
    """Return how alike the texts of a group are: 0 when all differ, 1 when all are the same; a group is `group`
    texts in a row.
    """
    groups = [texts[start : start + group] for start in range(0, len(texts), group)]
    return sum(len(one) - len(set(one)) for one in groups) / max(1, len(texts) - len(groups))


def image_features(batch: Batch, config: Any) -> torch.Tensor | int | None:
    """Return how many features the images of a batch have, which is how many image tokens its rows must hold.

    The number stays on the batch's device where it is counted there.

    Args:
        batch: what the processor gave.
        config: of the model; its sizes say how patches become features.

    Returns:
        None for a family whose tensors are not known here: Qwen-VL, Idefics3 and SmolVLM, InternVL and LLaVA are.
    """
    pixels = batch.get("pixel_values")
    if pixels is None:
        return 0
    if "image_grid_thw" in batch:
        patches: torch.Tensor = batch["image_grid_thw"].prod(dim=-1).sum()
        return patches // config.vision_config.spatial_merge_size**2
    # (rows, tiles, channels, height, width); Idefics3 takes a tile of zeros for padding.
    if pixels.dim() == 5:
        tiles: torch.Tensor = (pixels != 0).flatten(2).any(dim=2).sum()
        height, width = (side // config.vision_config.patch_size for side in pixels.shape[-2:])
        return tiles * height * width // config.scale_factor**2
    if pixels.dim() == 4 and hasattr(config, "image_seq_length"):
        return int(len(pixels) * config.image_seq_length)
    return None


def _left_out(rollout: Batch) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """Of this rank: what the loss leaves out since server and trainer disagree on it, and of how much: completions, or tokens
    where TRL weighs each; nothing of nothing where no server sampled.
    """
    ratio = rollout.get("importance_sampling_ratio")
    if ratio is None:
        return 0.0, 0.0
    counted = rollout["completion_mask"] > 0
    if ratio.shape[1] == 1:
        counted = counted.any(dim=1, keepdim=True)
    return ((ratio == 0) & counted).sum(), counted.sum()


def _image_figures(trainer: Any, ids: torch.Tensor, batch: Batch, pictures: torch.Tensor) -> list[torch.Tensor | float]:
    """Of this rank: rows, rows whose image does not reach the model, image tokens, by how many they miss the features."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    tokens = (ids == config.image_token_id).sum(dim=1)
    features = image_features(batch, config)
    shown = pictures > 0
    dropped = (shown & (tokens == 0) if batch.get("pixel_values") is not None else shown).sum()
    return [len(ids), dropped, tokens.sum(), math.nan if features is None else abs(tokens.sum() - features)]


def _tell_images(trainer: Any, figures: Sequence[float]) -> None:
    rows, dropped, held, astray = figures
    _metrics(trainer)["images/dropped_ratio"].append(dropped / rows)
    if not math.isnan(astray):
        _metrics(trainer)["images/token_mismatch_ratio"].append(astray / max(1, held))


def _sums(trainer: Any, figures: Sequence[torch.Tensor | float], like: torch.Tensor) -> list[float]:
    """Figures summed over all ranks. One transfer for all of them: each waits for whatever a GPU has yet to compute."""
    vector = torch.stack(
        [
            one.double() if isinstance(one, torch.Tensor) else like.new_full((), one, dtype=torch.float64)
            for one in figures
        ]
    )
    sums: list[float] = trainer.accelerator.reduce(vector, reduction="sum").tolist()
    return sums


def _metrics(trainer: Any) -> Any:
    return trainer._metrics["train" if trainer.model.training else "eval"]
