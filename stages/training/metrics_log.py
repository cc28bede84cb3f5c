"""The record a training worker keeps while it trains: metrics.jsonl, alarms, whole checkpoints, one line at the terminal."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pipeline.config.derived import checkpoint_cycle, clip_range
from pipeline.errors import UserError
from pipeline.files import json_lines, read_jsonl, write_atomic, write_json
from pipeline.logs import show_step
from pipeline.metrics.alarms import Watch
from pipeline.runs.checkpoint_folders import COMPLETE, make_durable
from stages.processes.work import Work

log = logging.getLogger(__name__)


class NothingLeft(Exception):
    """Ends trainer.train() when the weights are loaded and before its first step: all had been taken, or none is wanted."""


class MetricsCallback(TrainerCallback):
    """Keeps metrics.jsonl and alarms.jsonl, marks whole checkpoints, and shows one line a logging step.

    On resume the rows after the checkpoint are dropped, and the alarms follow from those that are left, so a step is never in a
    file twice. An alarm that is to stop the stage saves a checkpoint where resume is exact and ends training with a UserError on
    all ranks; after `nan` nothing is saved, because the same command would go on from it.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.path = work.folder / "metrics.jsonl"
        self.watch = self._watch()
        self.figures: dict[str, float] = {}
        """Of a validation, or of other pictures, at this step; they join its row."""
        self.stopping = 0
        """Whether an alarm ends the stage: 0 none, `STOP`, or `POISONED` when the weights may not be finite."""
        self.cause: dict[str, Any] = {}
        """The event of that alarm."""
        self.before = 0.0
        self.started = time.monotonic()
        self.shown = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            rows = [row for row in read_jsonl(self.path) if row["step"] <= state.global_step]
            self.before = rows[-1]["seconds"] if rows else 0.0
            write_atomic(self.path, json_lines(rows))
            self.watch = self._watch()
            events = [event for row in rows for event in self.watch.see(row)]
            write_atomic(self.alarms_path, json_lines(events))
            write_json(self.work.folder / "progress.json", {"max_steps": state.max_steps})
        self.started = time.monotonic()
        if state.global_step >= state.max_steps:
            raise NothingLeft

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopping:
            end_where_exact(self.work, state, control)
        if control.should_save:
            # So that no weights are saved whose step the alarms have not seen.
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        if state.is_world_process_zero:
            self._record(state, logs)
        self.figures = {}
        if self.work.config.alarms.stop:
            self.stopping = max(self.stopping, _of_rank_zero(self._verdict(), args))
        if self.stopping == POISONED:
            control.should_save = False
            control.should_training_stop = True
        elif self.stopping:
            self.on_step_end(args, state, control)

    def _record(self, state: Any, logs: dict[str, Any]) -> None:
        """Write the row of a step and the alarms that begin or end with it, and show both."""
        seconds = self.before + time.monotonic() - self.started
        row = {
            "step": state.global_step,
            "seconds": round(seconds, 3),
            **{key: _number(value) for key, value in {**logs, **self.figures}.items()},
        }
        with self.path.open("a") as file:
            file.write(json_lines([row]))
        for event in self.watch.see(row):
            with self.alarms_path.open("a") as file:
                file.write(json_lines([event]))
            said = "ALARM" if event["event"] == "begin" else "end of alarm"
            log.warning(f"  {said} {event['alarm']} in {self.work.name} at step {state.global_step}: {event['text']}")
        if time.monotonic() - self.shown > 5 or state.global_step == state.max_steps:
            self.shown = time.monotonic()
            wanted = ("loss", "reward", "rewards/format_reward/mean", "rewards/accuracy_reward/mean", "eval_macro_f1")
            shown = [
                f"{key.split('/')[-2] if '/' in key else key} {row[key]:.3f}"
                for key in wanted
                if isinstance(row.get(key), float)
            ]
            figures = f"{seconds:.0f}s  {'  '.join(shown)}"
            show_step(log, self.work.name, state.global_step, state.max_steps, figures)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = self.work.folder / f"checkpoint-{state.global_step}"
        # Every rank has written its part.
        _together()
        if state.is_local_process_zero:
            make_durable(checkpoint)
        # Every node's part is on disk.
        _together()
        if state.is_world_process_zero and self.stopping != POISONED:
            write_atomic(checkpoint / COMPLETE, f"{state.global_step}\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.stopping:
            return
        if not state.is_world_process_zero:
            raise UserError(f"{self.work.name}: an alarm ended the stage; rank 0 says which")
        name = self.cause["alarm"]
        stopped = (
            f"{self.work.name}: the alarm {name} of step {self.cause['step']} ended it: {self.cause['text']}. The same command "
            f"goes on from the last checkpoint; alarms.{name} and alarms.stop may be changed before"
        )
        record = self.work.run.record(self.work.name) or {}
        write_json(
            self.work.run.record_path(self.work.name), {**record, "alarms": self.watch.summary, "stopped": stopped}
        )
        raise UserError(stopped)

    @property
    def alarms_path(self) -> Path:
        return self.work.folder / "alarms.jsonl"

    def _watch(self) -> Watch:
        stage = self.work.stage
        return Watch(self.work.config.alarms, stage.algorithm, clip_range(stage) is not None)

    def _verdict(self) -> int:
        """Whether an alarm that is on ends the stage; called on all ranks, and only rank 0 knows."""
        stop = [self.watch.on[name] for name in self.work.config.alarms.stop if name in self.watch.on]
        self.cause = self.cause or next(iter(stop), {})
        return POISONED if "nan" in (event["alarm"] for event in stop) else STOP if stop else 0


STOP, POISONED = 1, 2


def end_where_exact(work: Work, state: Any, control: Any) -> None:
    """Save and end after this step, if a resume from it is exact; else a later step will."""
    if state.global_step % checkpoint_cycle(work.stage) == 0:
        control.should_save = control.should_training_stop = True


def _together() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _of_rank_zero(value: int, args: Any) -> int:
    """Rank 0's value on all ranks: only it sees the rows."""
    if not torch.distributed.is_initialized():
        return value
    told = torch.tensor(value, device=args.device)
    torch.distributed.broadcast(told, src=0)
    return int(told)


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def add_journal(trainer: Any, work: Work) -> MetricsCallback:
    """Replace the trainer's own console output by a `MetricsCallback`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    journal = MetricsCallback(work)
    trainer.add_callback(journal)
    return journal
