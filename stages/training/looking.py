"""Whether the student in training looks at its pictures, before its first step from the base model and after its last.

A stage that starts from another begins with the weights that were asked at the end of that one. The figures join the rows of
metrics.jsonl, where the alarm `images_unseen` judges them; nothing of it moves training.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from pipeline.data.task import Task
from pipeline.run_dir import BASE
from pipeline.runs.phases import parent_of
from stages.models.seeing import look
from stages.processes.work import Work
from stages.training.metrics_log import MetricsCallback
from stages.training.validation import restored_afterwards


class Looking(TrainerCallback):
    """Asks the model in training a few rows with other pictures than theirs, on all ranks, for ZeRO-3 gathers each layer.

    Args:
        trainer: the stage's trainer.
        work: the stage.
        task: whose rows of the evaluation split are asked.
        journal: writes the figures into the row of the step.
    """

    def __init__(self, trainer: Any, work: Work, task: Task, journal: MetricsCallback) -> None:
        self.trainer, self.work, self.task, self.journal = trainer, work, task, journal

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and parent_of(self.work.config, self.work.name) == BASE:
            self._look()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step of a trial is timed.
        if state.global_step >= state.max_steps and self.work.look is None:
            self._look()
            control.should_log = True

    def _look(self) -> None:
        model, config = self.trainer.accelerator.unwrap_model(self.trainer.model), self.work.config
        with restored_afterwards(self.trainer.model):
            found = look(
                model, self.trainer.processing_class, self.task, config.evaluation.split, self.work.stage.prompt
            )
        self.journal.figures |= found.figures


def add(trainer: Any, work: Work, task: Task, journal: MetricsCallback) -> None:
    """Watch whether a stage's student looks, unless the alarm is off; after `journal`, which logs what is found."""
    if work.config.alarms.images_unseen is not None:
        trainer.add_callback(Looking(trainer, work, task, journal))
