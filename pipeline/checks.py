"""The rules a configuration must meet before anything is imported, loaded or started. All broken rules are told at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.checks_cot import cot_problems, split_problem
from pipeline.checks_trainer import trainer_problems
from pipeline.config import CONFIGS, to_plain
from pipeline.errors import UserError
from pipeline.hardware import visible_gpus
from pipeline.nearest import nearest
from pipeline.run import BASE
from pipeline.schema import BASELINE, RunConfig, StageConfig
from pipeline.tasks import PROMPT_STYLES, task_names
from pipeline.trainer_fields import CONFIG_CLASSES, lora_fields

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("vision", "connector", "language")
"""The parts of a VLM that a stage can freeze."""


def check(config: RunConfig) -> None:
    """Test every rule.

    Raises:
        UserError: holding one message per broken rule: the key, its value, the rule and the cure.
    """
    problems = list(_problems(config))
    if problems:
        raise UserError(problems)


def _problems(config: RunConfig) -> Iterator[str]:
    if not re.fullmatch(r"[\w.-]+", config.name) or config.name.startswith("."):
        yield f"name: {config.name!r} must be one folder name of letters, digits, '_', '-', '.'; for example demo"
    if not 0 <= config.seed < 2**32:
        yield f"seed: {config.seed} must be from 0 to {2**32 - 1}, the range of numpy's seeds"
    yield from _task(config)
    yield from _model(config)
    yield from cot_problems(config)
    for name, stage in config.stages.items():
        if not re.fullmatch(r"stage\d+_\w+", name):
            yield f"stages.{name}: a stage's name must read stage<number>_<word>; for example stage2_grpo_format"
        yield from _stage(config, name, stage)
    numbers = [name.split("_")[0] for name in config.stages]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"stages: {number} is the number of two stages; give each its own"
    if config.baseline is not None:
        yield from _stage(config, BASELINE, config.baseline)
    yield from split_problem("evaluation.split", config.evaluation.split)
    for key in ("batch_size", "max_new_tokens"):
        if getattr(config.evaluation, key) < 1:
            yield f"evaluation.{key}: {getattr(config.evaluation, key)} must be at least 1"
    if config.evaluation.samples < 0:
        yield f"evaluation.samples: {config.evaluation.samples} must be 0 or more"
    yield from _launch(config)


def _task(config: RunConfig) -> Iterator[str]:
    if config.task.name not in task_names():
        yield f"task.name: {config.task.name!r} is not a file of pipeline/tasks; {nearest(config.task.name, task_names())}"
    if config.task.path is not None and not Path(config.task.path).expanduser().exists():
        yield f"task.path: {config.task.path!r} does not exist; set it to the root of the {config.task.name} data"


def _model(config: RunConfig) -> Iterator[str]:
    model = config.model
    if model.dtype not in ("auto", "bfloat16", "float32"):
        yield f"model.dtype: {model.dtype!r} must be auto, bfloat16 or float32"
    if model.name_or_path is None:
        tiny = model.tiny
        for key, size in to_plain(tiny).items():
            if size < 1:
                yield f"model.tiny.{key}: {size} must be at least 1"
        if min(tiny.patch_size, tiny.scale_factor) > 0 and tiny.image_size % (tiny.patch_size * tiny.scale_factor):
            yield (
                f"model.tiny.image_size: {tiny.image_size} must be a multiple of patch_size * scale_factor = "
                f"{tiny.patch_size * tiny.scale_factor}"
            )
        for key in ("hidden_size", "vision_hidden_size"):
            if getattr(tiny, key) % 32:
                yield f"model.tiny.{key}: {getattr(tiny, key)} must be a multiple of 32, the width of a head"
    elif (
        "/" in model.name_or_path
        and model.name_or_path[0] in "./~"
        and not Path(model.name_or_path).expanduser().is_dir()
    ):
        yield f"model.name_or_path: the folder {model.name_or_path!r} does not exist"
    for key in sorted(set(model.peft or {}) - set(lora_fields())):
        yield f"model.peft.{key} is not a field of peft.LoraConfig; {nearest(key, lora_fields())}"


def _stage(config: RunConfig, name: str, stage: StageConfig) -> Iterator[str]:
    where = name if name == BASELINE else f"stages.{name}"
    if stage.algorithm not in CONFIG_CLASSES:
        near = nearest(stage.algorithm, CONFIG_CLASSES)
        yield f"{where}.algorithm: {stage.algorithm!r} is not a training file of stages/; {near}"
        return
    yield from _parent(config, name, stage, where)
    yield from split_problem(f"{where}.split", stage.split)
    allowed = ("cot", "labels") if stage.algorithm == "sft" else ("task",)
    if stage.data not in allowed:
        yield f"{where}.data: {stage.data!r} must be {' or '.join(allowed)} for {stage.algorithm}"
    if stage.data == "cot" and config.cot is None:
        yield f"{where}.data: cot needs a cot: block, which this run does not have"
    if stage.prompt not in PROMPT_STYLES:
        yield f"{where}.prompt: {stage.prompt!r} must be one of {', '.join(PROMPT_STYLES)}"
    if stage.data == "cot" and stage.prompt != "think":
        yield f"{where}.prompt: {stage.prompt!r} does not fit data: cot, whose completions reason; use think"
    if stage.data == "labels" and stage.prompt != "direct":
        yield f"{where}.prompt: {stage.prompt!r} does not fit data: labels, which hold no reasoning; use direct"
    for part in stage.freeze:
        if part not in PARTS:
            yield f"{where}.freeze: {part!r} is not a part of a VLM; {nearest(part, PARTS)}"
    if set(stage.freeze) >= set(PARTS):
        yield f"{where}.freeze: freezes all of {', '.join(PARTS)}; leave one to train"
    yield from trainer_problems(config, where, stage)


def _parent(config: RunConfig, name: str, stage: StageConfig, where: str) -> Iterator[str]:
    if stage.init_from == BASE:
        return
    try:
        parent = config.stage_name(stage.init_from)
    except UserError as error:
        yield f"{where}.init_from: {error}; or base"
        return
    order = [BASELINE, *config.stages]
    if order.index(parent) >= order.index(name):
        yield f"{where}.init_from: {parent} does not come before it; name an earlier stage or base"


def _launch(config: RunConfig) -> Iterator[str]:
    processes = config.launch.num_processes
    gpus, kept = visible_gpus(), config.launch.rollout_gpus
    if kept and not 0 <= kept < gpus:
        yield f"launch.rollout_gpus: {kept} must leave one of the {gpus} visible GPUs to the trainer; 0 shares them all"
    if processes is not None and processes < 1:
        yield f"launch.num_processes: {processes} must be at least 1"
    elif processes is not None and gpus and processes > gpus - kept:
        yield f"launch.num_processes: {processes} is more than the {gpus - kept} visible GPUs; lower it or make more visible"
    if config.launch.deepspeed is not None:
        path = deepspeed_file(config)
        if path is None:
            names = {file.stem for file in (CONFIGS / "deepspeed").glob("*.json")}
            yield (
                f"launch.deepspeed: {config.launch.deepspeed!r} is neither a file nor one of configs/deepspeed; "
                f"{nearest(config.launch.deepspeed, names)}"
            )
        else:
            yield from _deepspeed(path, lora=config.model.peft is not None)


def deepspeed_file(config: RunConfig) -> Path | None:
    """The JSON that launch.deepspeed names, or None when there is none."""
    name: Any = config.launch.deepspeed
    if name is None:
        return None
    for candidate in (CONFIGS / "deepspeed" / f"{name}.json", Path(name)):
        if candidate.is_file():
            return candidate
    return None


def _deepspeed(path: Path, lora: bool) -> Iterator[str]:
    try:
        settings = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        yield f"launch.deepspeed: {path} is not JSON: {error}"
        return
    zero = settings.get("zero_optimization", {}) if isinstance(settings, dict) else None
    if not isinstance(zero, dict):
        yield f"launch.deepspeed: {path} must be a JSON object, and zero_optimization in it another"
        return
    if zero.get("stage") == 3 and lora:
        yield f"model.peft with launch.deepspeed: {path.stem} (ZeRO stage 3) cannot be merged into final/ here; use zero2"
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        yield (
            f"launch.deepspeed: {path} has ZeRO stage 3 without stage3_gather_16bit_weights_on_model_save: true, so no "
            "safetensors would be handed over; add it"
        )
