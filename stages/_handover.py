"""How a trained stage is handed over: final/ as a plain Hugging Face folder, then the record that says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from pipeline.checks_trainer import clip_range
from pipeline.response import GRAMMAR_VERSION
from pipeline.run import read_jsonl, weights_digest, write_atomic, write_json
from stages._launch import Work
from stages._loading import load_processor
from stages._usage import usage


def hand_over(trainer: Any, work: Work, parent: Path, **facts: Any) -> None:
    """Write final/ as a plain Hugging Face folder, then stage.json, whose status `complete` is the hand-over.

    Args:
        trainer: after training.
        work: the stage.
        parent: the checkpoint it started from, whose processor is handed on unchanged.
        facts: more entries of the record.
    """
    final = work.run.final(work.name)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if work.config.model.peft is not None:
        if trainer.accelerator.is_main_process:
            model.merge_and_unload().save_pretrained(final)
    else:
        weights = master_weights(model) if work.config.launch.deepspeed else None
        if trainer.accelerator.is_main_process:
            model.save_pretrained(final, state_dict=weights)
    trainer.accelerator.wait_for_everyone()
    used = usage(trainer, work.folder)
    if trainer.accelerator.is_main_process:
        load_processor(parent, work.config).save_pretrained(final)
        (work.folder / "README.md").unlink(missing_ok=True)  # TRL's card of its own; ours lies in final/.
        (final / "training_args.bin").unlink(missing_ok=True)  # A pickle; stage.json holds the same, readable.
        rows = list(read_jsonl(work.folder / "metrics.jsonl"))
        record = {
            **(work.run.record(work.name) or {}),
            "status": "complete",
            "checkpoint": "final",
            "weights": weights_digest(final),
            "grammar_version": GRAMMAR_VERSION,
            "steps": trainer.state.global_step,
            "seconds": rows[-1]["seconds"] if rows else 0.0,
            "metrics": _last_values(rows),
            "clip": clip_report(work, rows),
            "usage": used,
            "trainer": {key: value for key, value in trainer.args.to_dict().items() if _is_plain(value)},
            **facts,
        }
        write_atomic(final / "README.md", model_card(record))
        write_json(work.run.record_path(work.name), record)
    trainer.accelerator.wait_for_everyone()


def master_weights(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """The float32 weights behind a model that DeepSpeed trains, on the CPU of rank 0; None on the other ranks.

    Called on all ranks. Under bf16 the module itself holds rounded copies, in which most of a short stage at a learning rate of
    1e-6 would be lost; under ZeRO-3 it holds parts.
    """
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    main = torch.distributed.get_rank() == 0
    weights = {}
    for name, parameter in model.named_parameters():  # Tied weights come once, as a checkpoint has them.
        full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        with zero.GatheredParameters([parameter], enabled=full is None and hasattr(parameter, "ds_id")):
            if main:
                weights[name] = (parameter if full is None else full).detach().float().cpu().clone()
    kept = model.state_dict().keys()  # A buffer that is not in it is not part of a checkpoint.
    weights |= {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in kept}
    return weights if main else None


def _last_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last number logged under each key (reuse steps log no rewards, so the last row alone is not enough)."""
    values: dict[str, float] = {}
    for row in rows:
        values |= {key: value for key, value in row.items() if isinstance(value, float) and math.isfinite(value)}
    return values


def clip_report(work: Work, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean clip fractions over the stage, and whether it is void: asked to clip, but nothing was ever clipped."""
    asked = clip_range(work.stage)
    means = {}
    for side in ("low", "high"):
        values = [row[f"clip_ratio/{side}_mean"] for row in rows if f"clip_ratio/{side}_mean" in row]
        means[side] = sum(values) / len(values) if values else 0.0
    if asked is None:
        return None
    void = means["low"] == 0 and means["high"] == 0
    return {**means, "epsilon": asked[0], "epsilon_high": asked[1], "clips": not void, "void": void}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def model_card(record: dict[str, Any]) -> str:
    """A short model card for final/."""
    rewards = ", ".join(record["reward_funcs"]) or "none"
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [clgrpo, {record['algorithm']}]\n---\n\n"
        f"# {record['phase']}\n\nTrained by CLGRPO with {record['algorithm']} from {record['init_from']} "
        f"({record['steps']} steps, rewards: {rewards}, seed {record['seed']}). The evaluation is in ../report/ and the full\n"
        "record in ../stage.json. Answers follow `<think>…</think>` `<answer>…</answer>`.\n"
    )
