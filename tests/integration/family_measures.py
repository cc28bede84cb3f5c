"""What is measured of a tiny model that went through the stages: family_runs.py writes it down, the tests and docs read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from pipeline.config.families import part_of
from pipeline.config.schema import RunConfig
from pipeline.data.conversations import grpo_columns
from pipeline.data.images import open_rgb
from pipeline.data.task import Task
from pipeline.run_dir import BASE, RunDir
from pipeline.types import Question
from stages.models.finished_rows import LiveRows
from stages.models.generate import Answerer

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Names of a batch norm's buffers; the last one counts."""


def parts_moved(old: Path, new: Path) -> dict[str, list[int]]:
    """Part: [tensors that changed, tensors it has], from two checkpoints."""
    kinds = {
        value.dtype for name, value in load_file(new / "model.safetensors").items() if not name.endswith(STATISTICS)
    }
    assert kinds == {torch.float32}
    before, after = (
        dict(AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").named_parameters())
        for folder in (old, new)
    )
    counts: dict[str, list[int]] = {}
    for key in before:
        count = counts.setdefault(str(part_of(key)), [0, 0])
        count[0] += not before[key].equal(after[key])
        count[1] += 1
    return counts


def sft_prompt(trainer: Any, row: Question) -> list[int]:
    """The prompt's tokens of one picture as SFT sees them: those without a label."""
    wanted = next(one for one in trainer.train_dataset if one["images"][0].size == open_rgb(row.images[0]).size)
    batch = trainer.data_collator([wanted])
    tokens, labels = batch["input_ids"][0], batch["labels"][0]
    return tokens[: int((labels != -100).int().argmax())].tolist()


def rollout(trainer: Any, rows: list[Question], task: Task) -> tuple[float, list[int]]:
    """One rollout of mixed pictures through TRL's own path: generate, shuffle, split, score again in halves.

    Returns:
        The largest difference between a sampled token's log-probability in generation and in the trainer's forward pass, and
        the tokens of the first row's prompt.
    """
    model, generated = trainer.accelerator.unwrap_model(trainer.model), []
    generate = model.generate

    logits: list[torch.Tensor] = []

    def recorded(**kwargs: Any) -> torch.Tensor:
        if "repeats" in kwargs:
            sequences = generate(**kwargs)
        else:
            # Where prompts cannot be shared, transformers decodes.
            found = generate(**kwargs, return_dict_in_generate=True, output_logits=True)
            sequences = found.sequences
            logits.extend(found.logits)
        generated.append((kwargs, sequences))
        return sequences

    def spread(self: LiveRows, of_live: torch.Tensor) -> torch.Tensor:
        logits.append(of_all(self, of_live))
        return logits[-1].clone()

    of_all = LiveRows.spread

    model.generate = recorded
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.model.train()
    columns = grpo_columns(task, rows, "think")
    columns["images"] = [[open_rgb(image) for image in row.images] for row in rows]
    inputs = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    halves = []
    with torch.no_grad(), mock.patch.object(LiveRows, "spread", spread):
        for step in range(trainer.args.steps_per_generation):
            trainer._step = step
            halves.append(trainer._prepare_inputs(inputs))
    del model.generate
    kwargs, sequences = generated[0]
    # Where prompts cannot be shared, each is there as often as it is asked.
    every = kwargs.get("repeats", slice(None))
    prompts, masks = (kwargs[name][every] for name in ("input_ids", "attention_mask"))
    completions = sequences[:, prompts.shape[1] :]
    logps = torch.stack(logits, dim=1).log_softmax(-1).gather(2, completions.unsqueeze(2)).squeeze(2)
    known = {
        (tuple(one[mask.bool()].tolist()), tuple(tokens.tolist())): values
        for one, mask, tokens, values in zip(prompts, masks, completions, logps, strict=True)
    }
    assert len(known) == len(rows), "two completions are the same; take another seed"
    worst, seen = 0.0, 0
    fields = ("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "num_tiles", "mm_token_type_ids")
    for half in halves:
        tokens = torch.cat([half["prompt_ids"], half["completion_ids"]], dim=1)
        mask = torch.cat([half["prompt_mask"], half["completion_mask"]], dim=1)
        with torch.no_grad():
            scored, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model,
                tokens,
                mask,
                half["completion_ids"].shape[1],
                batch_size=2,
                **{key: half[key] for key in fields if key in half},
            )
        for index in range(len(tokens)):
            length = int(half["completion_mask"][index].sum())
            begin = tuple(half["prompt_ids"][index][half["prompt_mask"][index].bool()].tolist())
            end = tuple(half["completion_ids"][index][:length].tolist())
            values = next(value for (one, two), value in known.items() if one == begin and two[:length] == end)
            worst = max(worst, float((scored[index][:length] - values[:length]).abs().max()))
            seen += length
    assert seen == sum(int(half["completion_mask"].sum()) for half in halves) > 0
    return worst, prompts[0][masks[0].bool()].tolist()


def answers(config: RunConfig, final: Path, prompt: str, rows: list[Question], trained: Any) -> dict[str, Any]:
    """What the evaluation writes from the handed-over files, beside what the trained model in memory writes.

    Leaves what the fresh process compares with in compare.safetensors.
    """
    answerer = Answerer(final, config, local_rank=0)
    seen: list[dict[str, Any]] = []
    generate = answerer.model.generate

    def recorded(**kwargs: Any) -> torch.Tensor:
        tokens = generate(**kwargs)
        loop = ("custom_generate", "in_step")  # Ours; what it writes is held against transformers' own.
        seen.append({**{name: value for name, value in kwargs.items() if name not in loop}, "tokens": tokens})
        return tokens

    answerer.model.generate = recorded
    greedy = answerer([prompt] * len(rows), rows, 8, sample=False, seed=0)
    sampled = answerer([prompt] * len(rows), rows, 8, sample=True, seed=0)
    asked = {key: value for key, value in seen[0].items() if isinstance(value, torch.Tensor) and key != "tokens"}
    ways = [{key: value for key, value in one.items() if key not in (*asked, "tokens")} for one in seen]
    trained.eval()
    expected, logits = written(trained, asked, ways)
    greedy_tokens = seen[0]["tokens"]
    save_file(
        {**expected, "logits": logits, **{f"input.{key}": value for key, value in asked.items()}},
        final.parent / "compare.safetensors",
    )
    settings = [{**one, "generation_config": one["generation_config"].to_dict()} for one in ways]
    (final.parent / "compare.json").write_text(json.dumps(settings))
    return {
        "evaluation_equal": all(one["tokens"].equal(expected[str(n)]) for n, one in enumerate(seen)),
        "greedy_is_argmax": argmax_share(trained, asked, greedy_tokens),
        "answers": [text for text, _ in sampled],
        "lengths": [[length for _, length in one] for one in (greedy, sampled)],
        "prompt": asked["input_ids"][0][asked["attention_mask"][0].bool()].tolist(),
        "prompt_lengths": asked["attention_mask"].sum(1).tolist(),
    }


def written(model: Any, asked: dict[str, Any], ways: list[dict[str, Any]]) -> tuple[dict[str, Any], torch.Tensor]:
    """({way: tokens}, logits of the prompts) of a model for the same inputs, each way of generating from the same seed."""
    tokens = {}
    with torch.inference_mode():
        for number, how in enumerate(ways):
            torch.manual_seed(0)
            tokens[str(number)] = model.generate(**asked, **how)
        return tokens, model(**asked).logits.contiguous()


def argmax_share(model: Any, asked: dict[str, Any], tokens: torch.Tensor) -> float:
    """Share of greedily generated tokens that are the argmax of a forward pass over prompts and answers."""
    length = asked["input_ids"].shape[1]
    new = tokens[:, length:]
    inputs = {**asked, "input_ids": tokens, "attention_mask": torch.cat([asked["attention_mask"], new * 0 + 1], dim=1)}
    if "mm_token_type_ids" in asked:
        inputs["mm_token_type_ids"] = torch.cat([asked["mm_token_type_ids"], new * 0], dim=1)
    with torch.no_grad():
        logits = model(**inputs).logits[:, length - 1 : -1]
    logits[..., model.config.image_token_id] = -torch.inf
    counted = new != model.generation_config.pad_token_id
    return float((logits.argmax(-1) == new)[counted].float().mean()) if counted.any() else 1.0


def files(directory: RunDir, last: str) -> dict[str, Any]:
    """What is handed over beside the weights, compared with the base's."""
    old, new = directory.final(BASE), directory.final(last)
    changed = {}
    for name in ("generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"):
        before, after = (json.loads((folder / name).read_text()) for folder in (old, new))
        changed[name] = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return {"changed": changed}


def reloaded(final: Path) -> dict[str, Any]:
    """What plain transformers makes of a last checkpoint: run in a fresh process."""
    expected = load_file(final.parent / "compare.safetensors")
    asked = {key.removeprefix("input."): value for key, value in expected.items() if key.startswith("input.")}
    model, info = AutoModelForImageTextToText.from_pretrained(final, dtype="float32", output_loading_info=True)
    processor = AutoProcessor.from_pretrained(final)
    settings = json.loads((final.parent / "compare.json").read_text())
    ways = [{**one, "generation_config": GenerationConfig.from_dict(one["generation_config"])} for one in settings]
    tokens, logits = written(model.eval(), asked, ways)
    return {
        "complaints": {key: sorted(map(str, value)) for key, value in info.items() if value},
        "logit_difference": float((logits - expected["logits"]).abs().max()),
        "generation_equal": all(value.equal(expected[key]) for key, value in tokens.items()),
        "processor": type(processor).__name__,
        "image_processor": type(processor.image_processor).__name__,
        "model": type(model).__name__,
        "tokenizer": type(processor.tokenizer).__name__,
    }
