"""How a trained stage is handed over: final/ as a plain Hugging Face folder, what it must say, then the record of both."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.config.derived import clip_range
from pipeline.config.schema import BEST
from pipeline.data.task import Task
from pipeline.files import folder_bytes, read_jsonl, weights_digest, write_atomic, write_json
from pipeline.metrics import alarms
from pipeline.runs.checkpoint_folders import make_durable
from pipeline.runs.handover import TRAINED, file_digests, weights_of
from pipeline.scoring.response import GRAMMAR_VERSION
from stages.checkpoints.accept import FIGURES, REFERENCE, VERIFICATION
from stages.checkpoints.export import export
from stages.checkpoints.reference_logits import Reference, measure
from stages.models.memory_usage import usage
from stages.processes.work import Work


def hand_over(trainer: Any, work: Work, parent: Path, task: Task, **facts: Any) -> None:
    """Write final/ as a plain Hugging Face folder and reference.safetensors beside it, then stage.json with status `trained`.

    The reference comes from the live model, adapters and shards and all, so that it proves the merging and gathering too.

    Args:
        trainer: after training.
        work: the stage.
        parent: the checkpoint it started from, whose processor, configuration and generation settings are handed on unchanged.
        task: whose first rows of the evaluation split make the reference.
        facts: more entries of the record.
    """
    final = work.run.final(work.name)
    asked = work.config.evaluation.split, work.stage.prompt
    model = trainer.accelerator.unwrap_model(trainer.model)
    quantised = work.config.model.quantization is not None
    said = None if quantised else measure(model, trainer.processing_class, task, *asked)
    # Of the training, before the hand-over loads a model more.
    used = usage(trainer, work.folder)
    plain = export(trainer, work, parent, final)
    if trainer.accelerator.is_main_process:
        # What a quantised base says is another thing by design; final/ is its adapter on the unquantised weights.
        said = said or _measure_beside(plain, trainer, task, *asked)
        (work.folder / VERIFICATION).unlink(missing_ok=True)
        said.write(work.folder / REFERENCE)
        # TRL's card of its own; ours lies in final/.
        (work.folder / "README.md").unlink(missing_ok=True)
        # A pickle; stage.json holds the same, readable.
        (final / "training_args.bin").unlink(missing_ok=True)
        rows = list(read_jsonl(work.folder / "metrics.jsonl"))
        # The record may survive a power cut that what it names would not.
        make_durable(final)
        record = {
            **(work.run.record(work.name) or {}),
            "status": TRAINED,
            "checkpoint": "final",
            "weights": weights_digest(final),
            "grammar_version": GRAMMAR_VERSION,
            "steps": trainer.state.global_step,
            "seconds": rows[-1]["seconds"] if rows else 0.0,
            "metrics": _last_values(rows),
            "clip": clip_report(work, rows),
            "alarms": alarms.summary(
                rows, work.config.alarms, work.stage.algorithm, clip_range(work.stage) is not None
            ),
            "best": settle_best(work) if work.stage.validation else None,
            "usage": {**used, "final_bytes": folder_bytes(final)},
            "trainer": {key: value for key, value in trainer.args.to_dict().items() if _is_plain(value)},
            **facts,
        }
        write_atomic(final / "README.md", model_card(record))
        write_json(work.run.record_path(work.name), record)
    trainer.accelerator.wait_for_everyone()


def _measure_beside(plain: Any, trainer: Any, task: Task, split: str, style: str) -> Reference:
    """The reference of a model on the device it will be verified on, or on the CPU where that has no room for it."""
    try:
        return measure(plain.to(trainer.accelerator.device), trainer.processing_class, task, split, style)
    except torch.OutOfMemoryError:
        return measure(plain.to("cpu"), trainer.processing_class, task, split, style)


def settle_best(work: Work) -> dict[str, Any]:
    """Give the best of the best-<step>/ that are left its name, best/, and tell its figures and files.

    A stage killed before it deleted the second best has both; one killed after it named the best finds best/ as it is.
    """
    best = work.folder / BEST
    if (chosen := best_of(work.folder)) is not None:
        left = work.folder / f"best-{chosen['step']}"
        for folder in set(work.folder.glob("best-*")) - {left}:
            shutil.rmtree(folder)
        shutil.rmtree(best, ignore_errors=True)
        left.rename(best)
    files = file_digests(best)
    return {**json.loads((best / FIGURES).read_text()), "weights": weights_of(files), "files": files}


def deciding(figures: dict[str, Any]) -> float:
    """Return what the best weights are chosen by: macro-F1, or accuracy where answers are no classes."""
    return float(figures.get("eval_macro_f1", figures["eval_accuracy"]))


def best_of(folder: Path) -> dict[str, Any] | None:
    """Return the figures of the best validation whose weights are in a stage's folder, the first of equals; None without one."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"best-*/{FIGURES}")]
    return max(found, key=lambda one: (deciding(one), -one["step"]), default=None)


def _last_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last number logged under each key (reuse steps log no rewards, so the last row alone is not enough)."""
    values: dict[str, float] = {}
    for row in rows:
        values |= {key: value for key, value in row.items() if isinstance(value, float) and math.isfinite(value)}
    return values


def clip_report(work: Work, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return mean clip fractions over the stage, and whether it is void: asked to clip, but nothing was ever clipped."""
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
    """Return a short model card for final/."""
    rewards = ", ".join(record["reward_funcs"]) or "none"
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [clgrpo, {record['algorithm']}]\n---\n\n"
        f"# {record['phase']}\n\nTrained by CLGRPO with {record['algorithm']} from {record['init_from']} "
        f"({record['steps']} steps, rewards: {rewards}, seed {record['seed']}). The evaluation is in ../report/ and the full\n"
        "record in ../stage.json. Answers follow `<think>…</think>` `<answer>…</answer>`.\n"
    )
