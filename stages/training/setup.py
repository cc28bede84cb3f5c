"""What sft.py and grpo.py share inside a worker: how it starts, the trainer's arguments and rows, resuming, leaving."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list

from pipeline.config.derived import checkpoint_cycle, deepspeed_file
from pipeline.data.images import open_rgb
from pipeline.data.student import load_run_task
from pipeline.data.task import Task
from pipeline.runs.checkpoint_folders import last_checkpoint, remove_torn
from pipeline.runs.handover import parent_checkpoint
from stages.checkpoints.soft_prompt import starting_point
from stages.models.loading import attention, compute_dtype, emulates_bfloat16, load_processor, use_cpu
from stages.models.memory_usage import count_parameters
from stages.processes.deepspeed_locks import clear_stale_locks
from stages.processes.work import Work
from stages.training.masters import FullMasters
from stages.training.metrics_log import NothingLeft
from stages.training.stop import Stop
from stages.training.together import Together

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
ROOM_FOR_BATCHES = 4 * 2**30


def start(work: Work) -> tuple[Path, Any, Task]:
    """Return what a training worker begins with: (the checkpoint that training starts from, its processor, task)."""
    # Several processes would be given cpu:0, to which torch.load restores nothing: no resume.
    if use_cpu():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if emulates_bfloat16() and os.environ.get("RANK", "0") == "0":
        asked = work.config.model.dtype
        told = "so it trains in float32" if asked == "auto" else f"only a slow emulation, and model.dtype is {asked}"
        log.warning(f"  {work.name}: this GPU has no bfloat16 of its own, {told}")
    if work.config.launch.deepspeed:
        clear_stale_locks()
    if work.config.launch.deepspeed and use_cpu():
        import deepspeed

        # Before the trainer's config: ZeRO-3 partitions weights while loading them.
        deepspeed.init_distributed("gloo")
    _, parent = parent_checkpoint(work.config, work.run, work.name, verify=False)
    parent = starting_point(work, parent)
    processor = load_processor(parent, work.config)
    return parent, processor, load_run_task(work.config, work.run)


def image_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """Return columns with image paths as a dataset that opens each image when its row is read; bytes stay on disk.

    Images are decoded by `open_rgb`, as the teachers' and the evaluation's are, so that all see the same picture.
    """
    from datasets import Dataset

    # TRL's GRPO trainer reads a rollout's rows once for each of its micro-batches.
    last: dict[str, Any] = {}

    def opened(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        nonlocal last
        if "images" not in batch:
            return batch
        # A group's rows have the same ones.
        paths = dict.fromkeys(path for images in batch["images"] for path in images)
        last = {path: last[path] if path in last else open_rgb(Path(path)) for path in paths}
        return {**batch, "images": [[last[path] for path in images] for images in batch["images"]]}

    return Dataset.from_dict(columns).with_transform(opened)


def trainer_arguments(work: Work, parent: Path | None = None) -> dict[str, Any]:
    """Return the stage's `trainer:` block with what CLGRPO decides: folders, seed, device, precision, DeepSpeed, logging.

    Args:
        work: the stage.
        parent: the checkpoint that the trainer loads by them; None where none is loaded.
    """
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
        # It would log a NaN loss as the mean of those before.
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": data_workers(),
    }
    if work.stage.algorithm == "sft":
        # Truncation would cut image tokens.
        defaults["max_length"] = None
    owned = {
        "output_dir": str(work.folder),
        "seed": config.seed,
        "use_cpu": use_cpu(),
        "bf16": compute_dtype(config) == "bfloat16",
        "disable_tqdm": True,
        "deepspeed": str(deepspeed) if deepspeed else None,
        "model_init_kwargs": {
            "dtype": "float32",
            "attn_implementation": attention(parent, config) if parent else config.model.attn_implementation,
            "trust_remote_code": config.model.trust_remote_code,
        },
    }
    if use_cpu() and "WORLD_SIZE" in os.environ:
        owned["ddp_backend"] = "gloo"
    return {**defaults, **work.stage.trainer, **owned}


def data_workers() -> int:
    """Return how many processes open and process the pictures of the next batches while a GPU trains.

    None on a CPU, whose cores train. Batches come through /dev/shm, which is small in a container unless one asks for more:
    there a batch of many tiles would kill its worker.
    """
    if use_cpu() or not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free < ROOM_FOR_BATCHES:
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(4, cores // 2)


def train(trainer: Any, work: Work, parent: Path) -> bool:
    """Train from the last whole checkpoint, or from the parent when there is none; return whether to the end, not to a stop.

    A stage killed while it handed over resumes from the checkpoint of its last step, after which transformers would take one
    step more; `Journal` ends it before that.
    """
    if trainer.accelerator.is_main_process and (torn := remove_torn(work.folder)):
        log.info(f"  {work.name}: deleted {', '.join(torn)}, which a crash left unfinished")
    trainer.accelerator.wait_for_everyone()
    # As rank 0 sees it: another node may see a shared folder as it was.
    (checkpoint,) = broadcast_object_list([last_checkpoint(work.folder)])
    if checkpoint and work.stage.algorithm == "grpo":
        go_on_in_order(trainer, epochs_done(checkpoint))
    warn_of_a_small_disk(trainer, work)
    stop = Stop(trainer.accelerator, work)
    trainer.add_callback(stop)
    if trainer.is_deepspeed_enabled and trainer.args.bf16:
        trainer.add_callback(FullMasters(trainer.accelerator, work, parent))
    if trainer.accelerator.num_processes > 1:
        # Before the journal, which then marks no checkpoint of processes apart as whole.
        trainer.callback_handler.callbacks.insert(0, Together(trainer.accelerator))
    if work.look is not None:
        work.look(trainer)
    with contextlib.suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=checkpoint)
    return not stop.asked


def warn_of_a_small_disk(trainer: Any, work: Work) -> None:
    """Say so when the checkpoints and final/ of a stage will hardly fit: weights and AdamW's two moments in float32."""
    parameters, trained = count_parameters(trainer.model)
    weights = 4 * parameters
    # The oldest goes when the newest is there.
    kept = (trainer.args.save_total_limit or 2) + 1
    need = kept * (weights + 8 * trained) + weights
    free = shutil.disk_usage(work.folder).free
    if free < need:
        log.info(
            f"  warning: {kept} checkpoints and final/ of {work.name} take about {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB "
            f"are free in {work.folder}; make room, or it fails at a save"
        )


def epochs_done(checkpoint: str) -> int:
    """Return whole passes over the rows that a checkpoint has behind it."""
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text())["epoch"])


def go_on_in_order(trainer: Any, epochs: int) -> None:
    """Let the order of the prompts go on where it was: the sampler of TRL's GRPO trainer draws it anew in every epoch, and a
    new sampler begins with that of the first (transformers sets the epoch only of samplers that have a `set_epoch`).
    """
    new_sampler = trainer._get_train_sampler

    def sampler_after(*rows: Any) -> Any:
        sampler = new_sampler(*rows)
        for _ in range(epochs if sampler.shuffle else 0):
            # As its __iter__ does.
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

    trainer._get_train_sampler = sampler_after


def exit_worker() -> None:
    """End a worker of several at once, after every rank has come here and output is flushed.

    Two-process ZeRO-3 runs abort in the interpreter's teardown now and then ("terminate called without an active
    exception"), after all work is saved; leaving without that teardown is the cure.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
