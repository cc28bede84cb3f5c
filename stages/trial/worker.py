"""What a worker of the preflight does: the base model and the rows, then each stage for a few steps, then a batch of answers."""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.derived import checkpoint_cycle, world_size
from pipeline.config.schema import RunConfig
from pipeline.data.student import load_run_task
from pipeline.data.training_rows import asked_rows
from pipeline.files import digest, write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import start_record
from stages.processes.work import Work
from stages.trial import plan
from stages.trial.plan import EVALUATION, TOO_LARGE

log = logging.getLogger(__name__)


def work_through(config: RunConfig, run: RunDir, names: list[str]) -> None:
    """Do the work of one process: its trials, one after the other."""
    from stages.models import generate, memory_usage

    clocks = {"created": time.time() - memory_usage.process_age(), "answering_imports": memory_usage.process_age()}
    _ = generate
    import trl

    # Loaded on first use; a stage's start-up is mostly this.
    _ = trl.SFTTrainer, trl.GRPOTrainer
    clocks["imports"] = memory_usage.process_age()
    scratch = plan.scratch_of(run)
    if os.environ.get("RANK", "0") == "0":
        prepare(config, run, scratch)
    while not (scratch.root / "lengths.json").exists():
        # Rank 0 writes it last.
        time.sleep(0.1)
    for name in names:
        if name == EVALUATION:
            time_answers(config, scratch, clocks)
            gc.collect()
            if os.environ.get("RANK", "0") == "0":
                verify_trials(config, scratch)
        else:
            try_stage(config, scratch, name, clocks)
            gc.collect()
            plan.keep_timing(scratch.phase(name))


def prepare(config: RunConfig, run: RunDir, scratch: RunDir) -> None:
    """Make the base model, the rows and their lengths, in the scratch folder, unless they are there."""
    if (scratch.root / "lengths.json").exists():
        return
    from pipeline.runs.handover import checkpoint
    from stages.checkpoints.base_model import make_base_model
    from stages.models.loading import load_processor

    task = load_run_task(config, run)
    built = config.cot is not None and plan.write_rows(config, run, scratch, task)
    make_base_model(Work(config, BASE, scratch))
    tokenizer = load_processor(checkpoint(scratch, BASE), config).tokenizer
    if config.cot is not None and not built:
        plan.write_stand_ins(config, scratch, task, tokenizer)
    stand_in = config.cot is not None and not built
    answers = [row.gold for row in asked_rows(config, task)]
    write_json(scratch.root / "lengths.json", plan.token_lengths(scratch, answers, tokenizer, stand_in))


def try_stage(config: RunConfig, scratch: RunDir, name: str, clocks: dict[str, float]) -> None:
    """Train a stage for a few cycles; what is seen goes to look.json, the rest is in the files every stage writes."""
    from stages.models import loading, memory_usage
    from stages.training import setup
    from stages.trial import first_rows

    stage, trial = config.stage(name), plan.trial_config(config)
    lengths = json.loads((scratch.root / "lengths.json").read_text())
    main = os.environ.get("RANK", "0") == "0"
    real = setup.trainer_arguments(Work(config, name, scratch))
    began = time.time()

    def look(trainer: Any) -> None:
        load = time.time() - began
        # On every rank: it prepares a data loader.
        steps = planned_steps(trainer, real)
        if stage.algorithm == "grpo":
            # A server is sent it too.
            trainer.generation_config.min_new_tokens = plan.completion_length(stage)
        if stage.algorithm == "grpo" and "p99" in lengths:
            _usual_length(trainer, stage, min(lengths["p99"], plan.completion_length(stage)))
        if not main:
            return
        tokenizer = trainer.processing_class.tokenizer
        runs, batch = first_rows.first_row_tokens(trainer, stage)
        log.info(f"{name}: {stage.algorithm}, the first of {len(trainer.train_dataset)} rows; {steps} steps in all")
        shown = scratch.root / f"shown-{digest(runs)[:16]}"
        for line in (
            [f"  the same tokens as in {shown.read_text()}"]
            if shown.exists()
            else first_rows.lines(runs, tokenizer, loading.image_token_id(trainer.model))
        ):
            log.info(line)
        shown.write_text(name)
        for problem in first_rows.problems(trainer, config, stage, runs, batch, lengths):
            log.info(f"  ! {problem}")
        write_json(
            scratch.phase(name) / "look.json",
            {
                **clocks,
                "load": load,
                "steps": steps,
                "save_steps": 0 if real["save_strategy"] == "no" else real["save_steps"],
                "save_total_limit": real["save_total_limit"],
            },
        )

    plan.write_stage_rows(trial, scratch, name, load_run_task(config, scratch))
    if main:
        write_json(scratch.record_path(name), start_record(trial, scratch, name))
    memory_usage.start_peak()
    train = importlib.import_module(f"stages.{stage.algorithm}").train
    with noting_too_large(scratch.phase(name) / TOO_LARGE, several=world_size(config) > 1):
        train(Work(trial, name, scratch, look))


@contextlib.contextmanager
def noting_too_large(file: Path, several: bool) -> Iterator[None]:
    """Write a file when the block runs out of memory.

    Args:
        file: what to write.
        several: other ranks wait for this one, so the error is raised besides.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        write_json(file, {"error": str(error).splitlines()[0]})
        if several:
            raise


def verify_trials(config: RunConfig, scratch: RunDir) -> None:
    """Load what every trial handed over as the run will, and write what is found: a stage's hours end with this."""
    from stages.checkpoints import verify

    trial, task = plan.trial_config(config), load_run_task(config, scratch)
    for name in config.all_stages:
        if scratch.record_path(name).exists() and scratch.final(name).is_dir():
            found = verify.compare(Work(trial, name, scratch), task)
            write_json(scratch.phase(name) / plan.VERIFIED, {key: found[key] for key in found if key != "files"})
            if not found["problems"]:
                logits = found["logits"]
                log.info(
                    f"{name}: final/ verified, logits within {logits['difference']:.1e} of {logits['largest']:.1f}"
                )


def planned_steps(trainer: Any, real: dict[str, Any]) -> int:
    """Return optimizer steps the whole stage will take, by the trainer's own arithmetic on its own data loader."""
    args = copy.copy(trainer.args)
    args.max_steps = real.get("max_steps", -1)
    args.num_train_epochs = real.get("num_train_epochs", args.num_train_epochs)
    return int(trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1])


def _usual_length(trainer: Any, stage: Any, tokens: int) -> None:
    """From the second rollout on, generate exactly `tokens` tokens; the first went to the very end."""
    from transformers import TrainerCallback

    class Shorter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == checkpoint_cycle(stage):
                trainer.generation_config.min_new_tokens = tokens
                trainer.generation_config.max_new_tokens = tokens

    trainer.add_callback(Shorter())


def time_answers(config: RunConfig, scratch: RunDir, clocks: dict[str, float]) -> None:
    """Answer one batch of the evaluation split at two lengths, from the base weights."""
    from pipeline.runs.handover import checkpoint
    from stages.models import memory_usage
    from stages.models.generate import Answerer
    from stages.models.loading import use_cpu

    task = load_run_task(config, scratch)
    examples = task.select(config.evaluation.split).rows
    memory_usage.start_peak()
    began = time.time()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    # Whether the batch fits is what is asked here.
    answer = Answerer(checkpoint(scratch, BASE, verify=False), config, rank, halves=False)
    load = time.time() - began
    most = config.evaluation.max_new_tokens
    tokens, seconds = (max(1, most // 4), most), []
    asked = examples[: config.evaluation.batch_size]
    with noting_too_large(scratch.phase(EVALUATION) / TOO_LARGE, several=True):
        # The first warms up.
        for count in (min(4, most), *tokens):
            began = time.time()
            answer.model.generation_config.min_new_tokens = count
            answer([task.prompt(row, "think") for row in asked], asked, count, False, config.seed)
            seconds.append(time.time() - began)
    if os.environ.get("RANK", "0") == "0":
        batches = math.ceil(len(examples) / config.evaluation.batch_size / world_size(config))
        found = {"tokens": tokens, "seconds": seconds[1:], "batches": batches, "load": load, "gpu": not use_cpu()}
        found |= {"rows": len(asked), "peak": memory_usage.peak_memory()}
        write_json(
            scratch.phase(EVALUATION) / "asking.json", {**clocks, **found, "memory": memory_usage.device_memory()}
        )
