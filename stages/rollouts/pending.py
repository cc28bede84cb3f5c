"""A rollout on its way to a batch: its rows' prompts, its place in the run, and each completion that is yet to be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.data_utils import prepare_multimodal_messages

from stages.shared_prefix.row_groups import Row


@dataclass(frozen=True)
class PendingRollout:
    """One completion, sampled and scored, of which a batch is yet to be made."""

    row: dict[str, Any]
    """Of the dataset."""
    prompt: Any
    """Its messages, with the pictures in them."""
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    """Its messages."""
    logprobs: list[float] | None
    """At which a server sampled each token."""
    fields: Row | None
    """What the processor made of the prompt beside its tokens; None where TRL is to make it."""
    rewards: torch.Tensor
    """One per reward function; nan where it gave None."""


def images_of(row: dict[str, Any]) -> list[Any]:
    """Return a row's pictures."""
    return list(row.get("images") or [])


def most_pictures(dataset: Any) -> int:
    """Return how many pictures the row of a dataset with most has; none is opened."""
    plain = dataset.with_format(None)
    return max((len(images) for images in plain["images"]), default=0) if "images" in plain.column_names else 0


def prompts_of(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the prompts that TRL makes of rows: messages with the pictures in them, as they are where no row has any."""
    images = [images_of(row) for row in rows]
    if not any(images):
        return [row["prompt"] for row in rows]
    return [prepare_multimodal_messages(row["prompt"], images=own) for row, own in zip(rows, images, strict=True)]


def rollout_place(trainer: Any) -> str:
    """Return which rollout of the run this is, as seeds are made from it: a stage that goes on from a checkpoint draws alike."""
    # One optimizer step may take several rollouts.
    of_its_step = trainer._step % trainer.args.gradient_accumulation_steps
    return f"{trainer.args.seed}/{trainer.state.global_step}/{of_its_step}"
