"""What a stage costs beside a bare TRL script that does the same work: seconds a step, as a ratio in one run.

    python -m benchmarks.stage_overhead [--rounds 3] [--steps 40] [--config demo]

Both train the same model on the same rows with the same trainer options, in turns, in one process. "Bare" is trl's trainer
with a Dataset of opened images, no callback of ours, and transformers' progress bar off; "stage" is what `python -m stages.sft`
and `python -m stages.grpo` run in their worker: the journal, counters and alarms included, saving and the hand-over not, in
neither. A step's seconds are the differences of the times at which the trainer logs it; the median over all but the first
five of every round counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.config.loader import load
from pipeline.data.conversations import grpo_columns, label_columns
from pipeline.data.images import open_rgb
from pipeline.data.load import load_task
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.handover import parent_checkpoint
from rewards import load_rewards
from stages import grpo, sft
from stages.checkpoints import base_model
from stages.processes.work import Work

SKIPPED = 5
"""First steps of a round that do not count."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both stages and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage_overhead", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--config", default="demo", help="a run whose baseline and stage 3 are measured (default: demo)"
    )
    arguments = parser.parse_args(argv)
    # As the stages' launcher has it on the CPU.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        steps = f"trainer.max_steps={arguments.steps}"
        settings = [
            f"output_dir={folder}",
            "name=overhead",
            f"baselines.sft_labels.{steps}",
            f"stages.stage3.{steps}",
            "stages.stage3.init_from=base",
        ]
        config = load(
            arguments.config,
            [*settings, "baselines.sft_labels.trainer.save_steps=100000", "stages.stage3.trainer.save_steps=100000"],
        )
        run = RunDir(config.output_dir, config.name)
        base_model.make_base_model(Work(config, BASE, run))
        print("| stage | bare TRL, s a step | stage, s a step | ratio | rounds |\n|---|---|---|---|---|")
        for name, train in (("sft_labels", sft.train), ("stage3", grpo.train)):
            work = Work(config, config.stage_name(name), run)
            times: dict[str, list[list[float]]] = {"bare": [], "stage": []}
            for number in range(arguments.rounds):
                times["bare"].append(seconds_of(functools.partial(bare, work, Path(folder) / f"bare{number}")))
                again = dataclasses.replace(work, run=RunDir(folder, config.name))
                times["stage"].append(seconds_of(functools.partial(train, again)))
                forget(work)
            medians = {kind: [statistics.median(one) for one in rounds] for kind, rounds in times.items()}
            ratios = sorted(b / a for a, b in zip(medians["bare"], medians["stage"], strict=True))
            both = [f"{statistics.median(medians[kind]):.4f}" for kind in ("bare", "stage")]
            spread = f"{statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]"
            print(
                f"| {work.stage.algorithm} ({work.name}) | {both[0]} | {both[1]} | {spread} | {arguments.rounds} |",
                flush=True,
            )
    return 0


def seconds_of(train: Any) -> list[float]:
    """Seconds between the steps of a training, by the clock at which its trainer logs them."""
    from transformers import Trainer

    moments: list[float] = []
    log = Trainer.log

    def logged(self: Any, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        moments.append(time.perf_counter())
        log(self, logs, *rest, **more)

    with mock.patch.object(Trainer, "log", logged), mock.patch("stages.checkpoints.handover.hand_over"):
        train()
    return [after - before for before, after in itertools.pairwise(moments)][SKIPPED:-1]


def bare(work: Work, folder: Path) -> None:
    """The same training as a script that uses TRL alone."""
    from datasets import Dataset
    from transformers import AutoProcessor
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    _, parent = parent_checkpoint(work.config, work.run, work.name)
    processor = AutoProcessor.from_pretrained(parent)
    task = load_task(work.config.task, work.run.cache)
    examples = task.select(work.stage.split).rows
    options: dict[str, Any] = {
        **work.stage.trainer,
        "output_dir": str(folder),
        "seed": work.config.seed,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "model_init_kwargs": {"dtype": "float32"},
    }
    options.pop("save_steps")

    def dataset(columns: dict[str, list[Any]]) -> Dataset:
        opened = lambda batch: {**batch, "images": [[open_rgb(Path(path)) for path in one] for one in batch["images"]]}  # noqa: E731
        return Dataset.from_dict(columns).with_transform(opened)

    if work.stage.algorithm == "sft":
        columns = label_columns(task, examples)
        columns.pop("id")
        trainer: Any = SFTTrainer(
            model=str(parent),
            args=SFTConfig(**options, max_length=None),
            train_dataset=dataset(columns),
            processing_class=processor,
        )
    else:
        trainer = GRPOTrainer(
            model=str(parent),
            reward_funcs=load_rewards(work.stage.reward_funcs, task),
            args=GRPOConfig(**options),
            train_dataset=dataset(grpo_columns(task, examples, work.stage.prompt)),
            processing_class=processor,
        )
    if work.stage.freeze:
        from stages.models.loading import freeze

        freeze(trainer.model, work.stage.freeze)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def forget(work: Work) -> None:
    """Take away what a stage wrote, so that the next round starts anew."""
    import shutil

    shutil.rmtree(work.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
