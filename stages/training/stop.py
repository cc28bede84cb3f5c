"""Ctrl-C inside a training worker: all ranks end together after a step whose checkpoint resumes exactly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.processes.work import Work
from stages.processes.workers import LOGS, STOP
from stages.training.metrics_log import NothingLeft, end_where_exact


class Stop(TrainerCallback):
    """Looks for the request after every step; rank 0 looks, all agree.

    Args:
        accelerator: the trainer's.
        work: the stage.
    """

    def __init__(self, accelerator: Any, work: Work) -> None:
        folder = os.environ.get(LOGS)
        self.request = Path(folder) / STOP if folder else None
        self.accelerator = accelerator
        self.work = work
        self.asked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agreed():
            self.asked = True
            raise NothingLeft

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.asked = self.asked or self._agreed()
        if self.asked:
            end_where_exact(self.work, state, control)
            # The last step is saved as well.
            control.should_save |= control.should_training_stop
            # The alarms see what is saved.
            control.should_log |= control.should_save

    def _agreed(self) -> bool:
        if self.accelerator.is_main_process and self.request is not None and self.request.exists():
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())
