"""What sft.py and grpo.py share inside a worker: how it starts, the trainer's arguments and rows, resuming, leaving."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.checks import deepspeed_file
from pipeline.checks_trainer import checkpoint_cycle
from pipeline.handoff import parent_checkpoint
from pipeline.images import open_rgb
from pipeline.tasks import Task, load_task
from stages._journal import COMPLETE, NothingLeft
from stages._launch import Work
from stages._loading import compute_dtype, load_processor, use_cpu

if TYPE_CHECKING:
    from datasets import Dataset


def start(work: Work) -> tuple[Path, Any, Task]:
    """What a training worker begins with: (parent checkpoint, processor, task)."""
    if work.config.launch.deepspeed and use_cpu():
        import deepspeed

        deepspeed.init_distributed("gloo")  # Before the trainer's config: ZeRO-3 partitions weights while loading them.
    # Trackers keep what they write in the stage's folder, unless the user's environment says otherwise.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(work.folder / "tensorboard"))
    os.environ.setdefault("WANDB_DIR", str(work.folder))
    os.environ.setdefault("WANDB_PROJECT", "clgrpo")
    _, parent = parent_checkpoint(work.config, work.run, work.name, verify=False)
    processor = load_processor(parent, work.config)
    return parent, processor, load_task(work.config.task, work.run.cache)


def image_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """Columns with image paths as a dataset that opens each image when its row is read; bytes stay on disk.

    Images are decoded by `open_rgb`, as the teachers' and the evaluation's are, so that all see the same picture.
    """
    from datasets import Dataset

    def opened(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**batch, "image": [open_rgb(Path(path)) for path in batch["image"]]} if "image" in batch else batch

    return Dataset.from_dict(columns).with_transform(opened)


def trainer_arguments(work: Work) -> dict[str, Any]:
    """The stage's `trainer:` block with what CLGRPO decides: folders, seed, device, precision, DeepSpeed, logging."""
    config = work.config
    deepspeed = deepspeed_file(config)
    cycle = checkpoint_cycle(work.stage)
    defaults: dict[str, Any] = {
        "report_to": "none",
        "run_name": f"{config.name}/{work.name}",
        "project": "clgrpo",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": cycle * max(1, 100 // cycle),
        "save_total_limit": 2,
    }
    if work.stage.algorithm == "sft":
        defaults["max_length"] = None  # Truncation would cut image tokens.
    owned = {
        "output_dir": str(work.folder),
        "seed": config.seed,
        "use_cpu": use_cpu(),
        "bf16": compute_dtype(config) == "bfloat16",
        "disable_tqdm": True,
        "deepspeed": str(deepspeed) if deepspeed else None,
        "model_init_kwargs": {
            "dtype": "float32",
            "attn_implementation": config.model.attn_implementation,
            "trust_remote_code": config.model.trust_remote_code,
        },
    }
    if use_cpu() and "WORLD_SIZE" in os.environ:
        owned["ddp_backend"] = "gloo"
    return {**defaults, **work.stage.trainer, **owned}


def train(trainer: Any, work: Work) -> None:
    """Train from the last whole checkpoint, or from the parent when there is none.

    A stage killed while it handed over resumes from the checkpoint of its last step, after which transformers would take one
    step more; `Journal` ends it before that.
    """
    if work.look is not None:
        work.look(trainer)
    with contextlib.suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=last_checkpoint(work.folder))


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a stage, or None. Torn ones are left aside."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def leave() -> None:
    """End a worker of several at once, after every rank has come here and output is flushed.

    Two-process ZeRO-3 runs abort in the interpreter's teardown now and then ("terminate called without an active
    exception"), after all work is saved; leaving without that teardown is the cure.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
