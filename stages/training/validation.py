"""The model answers a fixed slice while it trains; the weights of the best macro-F1 are kept as best-<step>/, or of the best
accuracy where answers are no classes.

Nothing of it moves training: the answers are greedy, and every random state is put back. A best-<step>/ holds its own figures in
validation.json. It is deleted only once a checkpoint at or after a better one is whole, so that a resumed stage, whose later
steps are taken anew, still has the best of the steps before its checkpoint. The hand-over renames the one that is left.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback
from trl.models import unwrap_model_for_generation

from pipeline.data.task import Task
from pipeline.files import write_json
from pipeline.metrics import classification
from stages.checkpoints.accept import FIGURES
from stages.checkpoints.export import export
from stages.checkpoints.handover import best_of, deciding
from stages.models.generate import generate
from stages.models.loading import load_processor
from stages.processes.work import Work
from stages.training.metrics_log import MetricsCallback


class Validation(TrainerCallback):
    """Validates a stage while it trains, on all ranks.

    Args:
        trainer: the stage's trainer.
        work: the stage, which has a `validation` block.
        parent: the checkpoint it starts from, whose processor the model is asked with.
        task: asks and judges.
        journal: writes the figures into the row of the step.
    """

    def __init__(self, trainer: Any, work: Work, parent: Path, task: Task, journal: MetricsCallback) -> None:
        assert work.stage.validation is not None
        self.trainer, self.work, self.parent, self.task, self.journal = trainer, work, parent, task, journal
        self.examples = task.select(work.stage.validation.split).rows
        self.steps = work.stage.validation.steps
        self.processor = load_processor(parent, work.config)
        self.best: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            for folder in self.work.folder.glob("best-*"):
                if not folder.name[5:].isdigit() or int(folder.name[5:]) > state.global_step:
                    # Torn, or of a step that is taken anew.
                    shutil.rmtree(folder)
        self.trainer.accelerator.wait_for_everyone()
        # As rank 0 sees it: another node may see a shared folder as it was.
        (self.best,) = broadcast_object_list([best_of(self.work.folder)])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = control.should_save if self.steps is None else state.global_step % self.steps == 0
        if not due and state.global_step < state.max_steps:
            return
        began = time.monotonic()
        with restored_afterwards(self.trainer.model):
            figures = self.figures()
            if self.best is None or deciding(figures) > deciding(self.best):
                self.best = {"step": state.global_step, **figures}
                self._keep(self.best)
        self.journal.figures |= {**figures, "eval_runtime": round(time.monotonic() - began, 3)}
        control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.best is not None:
            for folder in self.work.folder.glob("best-*"):
                if folder.name != f"best-{self.best['step']}":
                    shutil.rmtree(folder)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Return accuracy, macro-F1 and format rate of greedy answers to the slice, each rank answering its share; no macro-F1
        where answers are no classes.
        """
        config, style = self.work.config, self.work.stage.prompt
        accelerator, size = self.trainer.accelerator, config.evaluation.batch_size
        batches = [self.examples[start : start + size] for start in range(0, len(self.examples), size)]
        rows: list[dict[str, Any]] = []
        with unwrap_model_for_generation(
            self.trainer.model_wrapped,
            accelerator,
            gradient_checkpointing_kwargs=self.trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            for examples in batches[accelerator.process_index :: accelerator.num_processes]:
                prompts = [self.task.prompt(row, style) for row in examples]
                answers = generate(model, self.processor, prompts, examples, config.evaluation.max_new_tokens)
                for example, (text, _) in zip(examples, answers, strict=True):
                    verdict = self.task.judge(example, text, style)
                    row = {"id": example.id, "style": style, "decoding": "greedy", "gold": example.answer}
                    told = {"label": verdict.answer, "reason": verdict.reason, "think": verdict.think}
                    rows.append({**row, **told, "correct": verdict.correct})
        scores = classification.score(gather_object(rows), self.task.labels)
        return {
            "eval_accuracy": scores.accuracy.share,
            **({"eval_macro_f1": scores.classes.macro.f1} if scores.classes is not None else {}),
            "eval_format": scores.format.share,
        }

    def _keep(self, best: dict[str, Any]) -> None:
        """Write best-<step>/, which exists only whole."""
        folder = self.work.folder / f"best-{best['step']}"
        torn = folder.with_name(f"{folder.name}.torn")
        export(self.trainer, self.work, self.parent, torn)
        if self.trainer.accelerator.is_main_process:
            write_json(torn / FIGURES, best)
            torn.rename(folder)
        self.trainer.accelerator.wait_for_everyone()


def add(trainer: Any, work: Work, parent: Path, task: Task, journal: MetricsCallback) -> None:
    """Validate a stage that asks for it; after `journal`, which logs what is found."""
    if work.stage.validation is not None:
        trainer.add_callback(Validation(trainer, work, parent, task, journal))


@contextlib.contextmanager
def restored_afterwards(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, after which the model's mode and all random states are as they were."""
    training, python, numpy = model.training, random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(training)
        random.setstate(python)
        np.random.set_state(numpy)
