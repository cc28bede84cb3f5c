"""Rollouts by transformers of prompts that are asked several times: each is processed, and read by the model, once."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from stages.models.finished_rows import live_rows, replaced
from stages.models.loading import FIELDS, image_token_id, plain
from stages.shared_prefix.row_groups import count_token, join_rows, same_rows, split_rows


class SharedRollouts:
    """What of trl.GRPOTrainer's rollouts changes when completions share their prompt; unless `sharing` nothing does."""

    sharing = False

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> Any:
        if not self.sharing:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        processor, token = self.processing_class, image_token_id(self.accelerator.unwrap_model(self.model))
        self.processing_class = ProcessedOnce(processor, token)
        try:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        finally:
            self.processing_class = processor

    def _tokenize_prompts(self: Any, prompts: list[Any]) -> Any:
        if not self.sharing:
            return super()._tokenize_prompts(prompts)  # type: ignore[misc]
        firsts, back = distinct([_asked(prompt) for prompt in prompts])
        if len(firsts) == len(prompts):
            return super()._tokenize_prompts(prompts)  # type: ignore[misc]
        ids, images, fields = super()._tokenize_prompts([prompts[first] for first in firsts])  # type: ignore[misc]
        token = image_token_id(self.accelerator.unwrap_model(self.model))
        tokens = [list(one).count(token) for one in ids]
        fields = repeated(fields, tokens, images and [len(one or ()) for one in images], back)
        return [ids[one] for one in back], images and [images[one] for one in back], fields

    def _generate_single_turn(
        self: Any, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, **how: Any
    ) -> Any:
        """As TRL's; prompts that are asked several times are read once."""
        if not self.sharing:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **how)  # type: ignore[misc]
        counts = None if images is None else [len(one or ()) for one in images]
        model = plain(self.accelerator.unwrap_model(self.model))
        with prefilled_once(model, counts), live_rows(model):
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, **how)  # type: ignore[misc]


class ProcessedOnce:
    """A processor that is called with each text and its pictures once, and gives a row for each time they are asked."""

    def __init__(self, processor: Any, token: int | None) -> None:
        self._processor, self._token = processor, token
        self.image_processor = TilesCounted(processor.image_processor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Any], text: Sequence[str], **how: Any) -> dict[str, Any]:
        asked = [(one, tuple(map(id, own or ()))) for one, own in zip(text, images, strict=True)]
        firsts, back = distinct(asked)
        batch = self._processor(images=[images[one] for one in firsts], text=[text[one] for one in firsts], **how)
        tokens = count_token(batch["input_ids"], self._token)
        return repeated(batch, tokens, [len(images[one] or ()) for one in firsts], back)


class TilesCounted:
    """An image processor that is asked how many tiles pictures become, as TRL asks InternVL's, and so makes none of them."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Sequence[Any] | None], **how: Any) -> Any:
        count = getattr(self._processor, "get_number_of_image_patches", None)
        if count is None or "crop_to_patches" not in how:
            return self._processor(images=images, **how)
        sizes = [(picture.height, picture.width) for row in images for picture in row or ()]
        return {"num_patches": torch.tensor([count(height, width, how) for height, width in sizes])}


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """(places of the first of each key, for each place the number of its key among them)."""
    numbers: dict[Hashable, int] = {}
    back = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [back.index(number) for number in range(len(numbers))], back


def _asked(prompt: Sequence[Mapping[str, Any]]) -> Hashable:
    """What a prompt says; its pictures are the same when they are the same object, as those of a group's rows are."""

    def content(message: Mapping[str, Any]) -> Hashable:
        if isinstance(message["content"], str):
            return str(message["content"])
        return tuple(id(part["image"]) if part["type"] == "image" else str(part) for part in message["content"])

    return tuple((message["role"], content(message)) for message in prompt)


def repeated(
    fields: Mapping[str, Any], image_tokens: Sequence[int], images: Sequence[int] | None, back: Sequence[int]
) -> dict[str, Any]:
    """A processor's tensors, or lists of one list per row, with a row for each number in `back`."""
    stacked = {
        name: torch.stack(value) if isinstance(value, list) and isinstance(value[0], torch.Tensor) else value
        for name, value in fields.items()
    }
    rows = split_rows(stacked, image_tokens, images)
    chosen = [rows[one] for one in back]
    return {
        name: [row[name] for row in chosen] if isinstance(value, list) else torch.cat([row[name] for row in chosen])
        for name, value in stacked.items()
    }


@contextlib.contextmanager
def prefilled_once(model: Any, images: Sequence[int] | None) -> Iterator[None]:
    """Within the block, `generate` reads equal prompts once and repeats what it keeps of them; the rest of it is transformers'.

    Args:
        model: as transformers loads it.
        images: how many each row has; None when there are none.
    """
    prefill = model._prefill

    def once(input_ids: torch.Tensor, generation_config: Any, model_kwargs: dict[str, Any], **how: Any) -> Any:
        mask = model_kwargs.get("attention_mask")
        fields = {name: model_kwargs[name] for name in FIELDS if name in model_kwargs}
        rows = split_rows(fields, count_token(input_ids, image_token_id(model)), images)
        prompts = input_ids if mask is None else torch.where(mask.bool(), input_ids, -1)
        groups = same_rows(prompts.tolist(), rows)
        if len(groups) == len(rows) or type(model_kwargs.get("past_key_values")) is not DynamicCache:
            return prefill(input_ids, generation_config, model_kwargs, **how)
        firsts = [group[0] for group in groups]
        of_group = {row: number for number, group in enumerate(groups) for row in group}
        back = torch.tensor([of_group[row] for row in range(len(rows))], device=input_ids.device)
        fewer = {**model_kwargs, **join_rows([rows[first] for first in firsts])}
        if mask is not None:
            fewer["attention_mask"] = mask[firsts]
        if (positions := model_kwargs.get("position_ids")) is not None:
            fewer["position_ids"] = positions[..., firsts, :]  # Qwen-VL's have a dimension more.
        output = prefill(input_ids[firsts], generation_config, fewer, **how)
        output.past_key_values.batch_select_indices(back)
        output.logits = output.logits[:, -1:][back]
        return output

    with replaced(model, "_prefill", once):
        yield
