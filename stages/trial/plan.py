"""The scratch run a preflight tries every stage in: its settings, its rows, and what its files say afterwards."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.conductor.forecast import Trial
from pipeline.config.derived import checkpoint_cycle, cot_slice, prompts_per_rollout, world_size
from pipeline.config.schema import RunConfig, StageConfig
from pipeline.config.trainer_options import trainer_fields
from pipeline.data.task import Task
from pipeline.data.training_rows import rows_within, training_columns
from pipeline.data.training_rows import write_rows as keep_rows
from pipeline.files import folder_bytes, read_json, read_jsonl, write_json
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.cot_source import find_source
from pipeline.scoring.response import render
from stages.checkpoints.accept import START

EVALUATION = "evaluation"
"""The trial that is no stage: one batch of answers."""
VERIFIED = "verified.json"
"""What a fresh process found of a trial's final/, in its folder."""
CYCLES = 3
"""Rollout cycles (SFT: steps) of a trial: one at the largest size, to warm up and for the peak of memory, then timed ones."""
TOO_LARGE = "too_large.json"
"""What a trial leaves that ran out of memory."""
SAMPLED = 5000
"""CoT rows whose tokens are counted."""


def scratch_of(run: RunDir) -> RunDir:
    """Return the folder a preflight of a run works in; it reads the run's own cache of images."""
    scratch = RunDir(run.root / "preflight", "scratch")
    scratch.cache = run.cache
    return scratch


def completion_length(stage: StageConfig) -> int:
    """Return most tokens a GRPO stage generates per completion."""
    return int(stage.trainer.get("max_completion_length") or trainer_fields("grpo")["max_completion_length"] or 256)


def trial_config(config: RunConfig) -> RunConfig:
    """Return the run with every stage cut to a few steps from the base weights; sizes, devices and data stay what they are."""
    return dataclasses.replace(
        config,
        baselines={name: _shortened(stage) for name, stage in config.baselines.items()},
        stages={name: _shortened(stage) for name, stage in config.stages.items()},
    )


def _shortened(stage: StageConfig) -> StageConfig:
    steps = CYCLES * checkpoint_cycle(stage)
    trainer = {**stage.trainer, "max_steps": steps, "save_steps": steps, "logging_steps": 1, "report_to": "none"}
    if stage.algorithm == "grpo":
        # The rows with most pictures come first.
        trainer["shuffle_dataset"] = False
        # A server takes no such word; what it samples is as short as it is.
        if stage.rollouts == "transformers":
            least = {"min_new_tokens": completion_length(stage)}
            trainer["generation_kwargs"] = {**(trainer.get("generation_kwargs") or {}), **least}
    else:
        # The longest rows come first.
        trainer["train_sampling_strategy"] = "sequential"
    return dataclasses.replace(stage, init_from=BASE, trainer=trainer, validation=None)


def write_rows(config: RunConfig, run: RunDir, scratch: RunDir, task: Task) -> bool:
    """Copy the run's CoT rows for the trial, a batch of the longest of each stage first, then the others in random order.

    The longest are those with most pictures, and of these those with the longest completions.

    Returns:
        Whether there were any: a complete build of this run, or of the one whose rows it takes over.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = run.cot / "train.parquet"
    if (run.record(COT) or {}).get("status") != "complete" or not file.exists():
        if config.cot is None or config.cot.from_ is None:
            return False
        # They are taken over when the run begins.
        file = find_source(config, run).file
    table = pq.ParquetFile(file).read()
    order = list(range(table.num_rows))
    assert config.cot is not None
    pictures = {row.id: len(row.images) for row in task.select_for_training(config.cot.split).rows}
    # A picture is many tokens.
    lengths = [
        (pictures.get(row_id, 0), len(text))
        for row_id, text in zip(table["id"].to_pylist(), table["completion"].to_pylist(), strict=True)
    ]
    ids, batch = table["id"].to_pylist(), _largest_batch(config)
    first: set[int] = set()
    for spec in {cot_slice(stage) for stage in config.all_stages.values() if stage.data == COT} or {None}:
        held = rows_within(COT, spec, task, ids) if spec else order
        first |= set(sorted(held, key=lengths.__getitem__, reverse=True)[:batch])
    # Of these, too, a stage finds its own longest before its others.
    longest = sorted(sorted(first), key=lengths.__getitem__, reverse=True)
    rest = sorted(set(order) - set(longest))
    random.Random(0).shuffle(rest)
    scratch.cot.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.take(pa.array([*longest, *rest])), scratch.cot / "train.parquet")
    return True


def write_stage_rows(config: RunConfig, scratch: RunDir, name: str, task: Task) -> None:
    """Write the rows a stage is tried on; of rows that ask the task itself, those of a first cycle with most pictures first.

    All processes write the same file.
    """
    columns, split = training_columns(config, scratch, name, task)
    stage = config.stage(name)
    if stage.data != COT:
        counts = [len(images) for images in columns["images"]]
        first = prompts_per_rollout(config, stage) if stage.algorithm == "grpo" else _largest_batch(config)
        most = dict.fromkeys(sorted(range(len(counts)), key=counts.__getitem__, reverse=True)[:first])
        order = [*most, *(row for row in range(len(counts)) if row not in most)]
        columns = {key: [values[row] for row in order] for key, values in columns.items()}
    scratch.phase(name).mkdir(parents=True, exist_ok=True)
    keep_rows(scratch.phase(name), columns, split.problem_counts)


def _largest_batch(config: RunConfig) -> int:
    """Rows of the largest optimizer step of an SFT stage."""
    fields, largest = trainer_fields("sft"), 1
    for stage in config.all_stages.values():
        size = 1
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            size *= int(stage.trainer.get(key, fields[key]))
        largest = max(largest, size * world_size(config)) if stage.algorithm == "sft" else largest
    return largest


def write_stand_ins(config: RunConfig, scratch: RunDir, task: Task, tokenizer: Any) -> None:
    """Write rows in place of CoT rows that are not built yet: one per selected row, as long as a GRPO completion may be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert config.cot is not None
    limits = [completion_length(stage) for stage in config.all_stages.values() if stage.algorithm == "grpo"]
    most = max(limits, default=config.evaluation.max_new_tokens)
    rows = task.select_for_training(config.cot.split).rows
    words = task.prompt(rows[0], "think").replace("<", " ").replace(">", " ").split() * most
    answers = task.labels.names if task.labels is not None else [max((row.gold for row in rows), key=len)]
    texts = {}
    for label in answers:
        few, many = 1, len(words)
        # The longest that is not longer.
        while many - few > 1:
            middle = (few + many) // 2
            fits = len(tokenizer(render(" ".join(words[:middle]), label))["input_ids"]) <= most
            few, many = (middle, many) if fits else (few, middle)
        texts[label] = " ".join(words[:few])
    longest = min(texts.values(), key=len)
    columns = {
        "id": [row.id for row in rows],
        "label": [row.gold for row in rows],
        "completion": [render(texts.get(row.gold, longest), row.gold) for row in rows],
    }
    scratch.cot.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), scratch.cot / "train.parquet")


def token_lengths(scratch: RunDir, answers: Sequence[str], tokenizer: Any, stand_in: bool) -> dict[str, Any]:
    """Return tokens of the completions stages learn from: p50, p95, p99, max, and ``label``, the longest bare answer."""
    import numpy as np

    def counted(texts: list[str]) -> list[int]:
        # and the end of the turn
        return [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]

    found: dict[str, Any] = {"label": max(counted(list(dict.fromkeys(answers)))), "stand_in": stand_in, "rows": 0}
    file = scratch.cot / "train.parquet"
    if file.exists():
        import pyarrow.parquet as pq

        texts = pq.ParquetFile(file).read(columns=["completion"])["completion"].to_pylist()
        counts = counted(texts[:: max(1, len(texts) // SAMPLED)])
        p50, p95, p99 = (int(value) for value in np.percentile(counts, [50, 95, 99]))
        found |= {"rows": len(texts), "p50": p50, "p95": p95, "p99": p99, "max": max(counts)}
    return found


def keep_timing(folder: Path) -> None:
    """Keep what the files of a trial say of its time (`timing.json`), and delete its checkpoints, which may fill the disk.

    Its final/ stays until it is verified, as those of the run's stages stay.
    """
    record, metrics = folder / "stage.json", folder / "metrics.jsonl"
    if not record.exists() or not metrics.exists():
        return
    # The last step's row; then comes the checkpoint, then the hand-over.
    logged = metrics.stat().st_mtime
    saved = max((path.stat().st_mtime for path in folder.glob("checkpoint-*/complete")), default=logged)
    write_json(
        folder / "timing.json",
        {"save": max(0.0, saved - logged), "handover": max(0.0, record.stat().st_mtime - max(saved, logged))},
    )
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def hand_over_problems(scratch: RunDir, names: Iterable[str]) -> list[str]:
    """Return why what a tried stage handed over is not what was trained, of all stages that were verified."""
    return [
        f"{name}: its final/ would be refused, for it is not what was trained: {problem}"
        for name in names
        for problem in read_json(scratch.phase(name) / VERIFIED).get("problems", [])
    ]


def read_trial(stage: StageConfig, folder: Path, launched: float) -> Trial:
    """Return what a trial measured.

    Args:
        stage: as the run has it.
        folder: the trial's.
        launched: clock at which its workers were started.
    """
    cycle = checkpoint_cycle(stage)
    large = folder / TOO_LARGE
    if large.exists():
        return Trial(0, cycle, (), 0, 0, 0, (), 0, 0, 0, 0, too_large=json.loads(large.read_text())["error"])
    seen, timing = (json.loads((folder / name).read_text()) for name in ("look.json", "timing.json"))
    used = json.loads((folder / "stage.json").read_text())["usage"]
    return Trial(
        steps=seen["steps"],
        cycle=cycle,
        seconds=[row["seconds"] for row in read_jsonl(folder / "metrics.jsonl")],
        startup=max(0.0, seen["created"] - launched) + seen["imports"] + seen["load"],
        save=timing["save"],
        handover=timing["handover"],
        peak_memory=used["peak_memory_bytes"],
        checkpoint=used["checkpoint_bytes"],
        final=used["final_bytes"],
        save_steps=seen["save_steps"],
        save_total_limit=seen["save_total_limit"],
        start=folder_bytes(folder / START),
    )
