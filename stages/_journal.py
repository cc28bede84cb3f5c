"""The record a training worker keeps while it trains: metrics.jsonl, whole checkpoints, one line at the terminal."""

from __future__ import annotations

import json
import time
from typing import Any

from pipeline.compat import declare_torchvision_ops
from pipeline.run import read_jsonl, write_atomic, write_json
from stages._launch import Work, say

declare_torchvision_ops()

import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # noqa: E402

COMPLETE = "complete"
"""The file that marks a checkpoint folder as whole; one without it was torn by a crash."""


class NothingLeft(Exception):
    """Ends trainer.train() when the weights are loaded and before its first step: every step had been taken."""


class Journal(TrainerCallback):
    """Keeps metrics.jsonl, marks whole checkpoints, and shows one line a logging step.

    On resume the rows after the checkpoint are dropped, so a step is never in the file twice.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.path = work.folder / "metrics.jsonl"
        self.before = 0.0
        self.started = time.monotonic()
        self.shown = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            rows = [row for row in read_jsonl(self.path) if row["step"] <= state.global_step]
            self.before = rows[-1]["seconds"] if rows else 0.0
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows))
            write_json(self.work.folder / "progress.json", {"max_steps": state.max_steps})
        self.started = time.monotonic()
        if state.global_step >= state.max_steps:
            raise NothingLeft

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        seconds = self.before + time.monotonic() - self.started
        row = {
            "step": state.global_step,
            "seconds": round(seconds, 3),
            **{key: _number(value) for key, value in logs.items()},
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if time.monotonic() - self.shown > 5 or state.global_step == state.max_steps:
            self.shown = time.monotonic()
            wanted = ("loss", "reward", "rewards/format_reward/mean", "rewards/accuracy_reward/mean")
            shown = [
                f"{key.split('/')[-2] if '/' in key else key} {row[key]:.3f}"
                for key in wanted
                if isinstance(row.get(key), float)
            ]
            say(f"  {self.work.name} step {state.global_step}/{state.max_steps} {seconds:.0f}s  {'  '.join(shown)}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # Every rank has written its part.
        if state.is_world_process_zero:
            write_atomic(self.work.folder / f"checkpoint-{state.global_step}" / COMPLETE, f"{state.global_step}\n")


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def add_journal(trainer: Any, work: Work) -> None:
    """Replace the trainer's own console output by `Journal`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Journal(work))
