"""Processes whose weights part are found, and those that round apart are not taken for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from pipeline.config.schema import RunConfig, StageConfig
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from pipeline.runs.checkpoint_folders import last_checkpoint
from stages.processes.work import Work
from stages.training import metrics_log, setup
from stages.training.together import OF_A_TENSOR, Together, some_of

STATE = SimpleNamespace(global_step=1)


class Processes:
    """An accelerator's `gather`, as where process 1 holds other weights than this one."""

    def __init__(self, apart: float) -> None:
        self.apart = apart
        self.asked = 0

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return torch.cat([mine, mine + self.apart])


def model_of(*sizes: int) -> torch.nn.Module:
    return torch.nn.ParameterList([torch.nn.Parameter(torch.ones(size)) for size in sizes])


def moved(model: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for one in model.parameters():
            one += by


@pytest.mark.parametrize(
    ("move", "apart", "told"),
    [
        # Each on its own rows: as far from each other as from the beginning.
        (1e-3, 1e-3, True),
        (1e-3, -2e-4, True),
        # GPUs of two kinds.
        (1e-3, 1e-6, False),
        (1e-3, 0.0, False),
        # Nothing has moved, as with a learning rate of 0.
        (0.0, 0.0, False),
    ],
)
def test_a_stage_whose_processes_train_apart_ends_after_its_first_step(move: float, apart: float, told: bool) -> None:
    model, together = model_of(8, 3000), Together(Processes(apart))
    together.on_train_begin(None, STATE, None, model)
    moved(model, move)
    if told:
        with pytest.raises(UserError, match="processes 0 and 1 train apart: after step 1"):
            together.on_step_end(None, STATE, None)
    else:
        together.on_step_end(None, STATE, None)


def test_it_asks_after_the_first_step_that_moves_and_at_saves_alone() -> None:
    processes = Processes(0.0)
    model, together = model_of(8), Together(processes)
    together.on_train_begin(None, STATE, None, model)
    # Warm-up, then training.
    for step in (0.0, 0.0, 1.0, 1.0, 1.0):
        moved(model, step)
        together.on_step_end(None, STATE, None)
    assert processes.asked == 3
    together.on_save(None, STATE, None)
    assert processes.asked == 4


def test_a_part_that_trains_apart_at_a_low_rate_of_its_own_is_found() -> None:
    class OnePart(Processes):
        """Process 1 has other weights in the last tensor alone."""

        def gather(self, mine: torch.Tensor) -> torch.Tensor:
            other = mine.clone()
            other[:, 8:] += self.apart
            return torch.cat([mine, other])

    model, together = model_of(8, 8), Together(OnePart(2e-6))
    together.on_train_begin(None, STATE, None, model)
    moved(model[:1], 1e-3)
    moved(model[1:], 1e-6)
    with pytest.raises(UserError, match="processes 0 and 1 train apart"):
        together.on_step_end(None, STATE, None)


def test_no_checkpoint_of_processes_apart_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written when they are compared, and not marked whole; nor is anything handed over of one step that was not saved."""
    config = RunConfig(name="r", output_dir=str(tmp_path), stages={"stage1_sft": StageConfig("sft")})
    work = Work(config, "stage1_sft", RunDir(tmp_path, "r"))
    (work.folder / "checkpoint-9").mkdir(parents=True)
    model, processes = model_of(8), Processes(0.0)
    processes.num_processes, processes.is_main_process = 2, True
    processes.wait_for_everyone = processes.check_trigger = lambda: None
    at = SimpleNamespace(global_step=9, max_steps=10, is_world_process_zero=True, is_local_process_zero=True)

    class Trainer:
        accelerator, is_deepspeed_enabled = processes, False
        args = SimpleNamespace(save_total_limit=None)
        callback_handler = SimpleNamespace(callbacks=[metrics_log.MetricsCallback(work)])

        def __init__(self, event: str) -> None:
            self.model, self.event = model, event

        def add_callback(self, callback: object) -> None:
            self.callback_handler.callbacks.append(callback)

        def train(self, resume_from_checkpoint: str | None) -> None:
            for event in ("on_train_begin", "on_step_end", self.event):
                for callback in self.callback_handler.callbacks:
                    getattr(callback, event)(None, at, TrainerControl(), model=model)
                moved(model, 1e-3)
                processes.apart = 1e-3 * (event == "on_step_end")

    monkeypatch.setattr(setup, "broadcast_object_list", lambda found: found)
    for event in ("on_save", "on_train_end"):
        processes.apart = 0.0
        with pytest.raises(UserError, match="train apart: after step 9"):
            setup.train(Trainer(event), work, tmp_path)
        assert last_checkpoint(work.folder) is None


def test_a_first_step_without_movement_hides_nothing() -> None:
    model, together = model_of(8), Together(processes := Processes(0.0))
    together.on_train_begin(None, STATE, None, model)
    together.on_step_end(None, STATE, None)
    moved(model, 1e-3)
    processes.apart = 1e-3
    with pytest.raises(UserError, match="train apart"):
        together.on_step_end(None, STATE, None)


def test_what_asks_for_gradients_later_is_not_compared() -> None:
    """peft gives all adapters their gradient back once a reference has been asked."""
    model, together = model_of(8, 8), Together(Processes(0.0))
    model[1].requires_grad_(False)
    together.on_train_begin(None, STATE, None, model)
    model[1].requires_grad_(True)
    moved(model, 1.0)
    together.on_step_end(None, STATE, None)
    assert together.moved


def test_numbers_are_taken_from_all_of_a_tensor_and_none_of_what_is_elsewhere() -> None:
    one, taken = some_of([torch.arange(1.0), torch.empty(0), torch.arange(10.0 * OF_A_TENSOR + 1)])
    assert OF_A_TENSOR // 2 < len(taken) <= OF_A_TENSOR
    assert (len(one), float(taken.max()) > 9 * OF_A_TENSOR) == (1, True)
    together = Together(Processes(1.0))
    # A process of ZeRO-3 holds parts of its own, and whole small tensors for a while.
    model = model_of(8)
    next(model.parameters()).ds_id = 0
    together.on_train_begin(None, STATE, None, model)
    together.on_step_end(None, STATE, None)
    assert together.accelerator.asked == 0
