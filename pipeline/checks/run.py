"""The rules a configuration must meet before anything is imported, loaded or started. All broken rules are told at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.checks.adapters import adapter_problems, part_problems
from pipeline.checks.chat_files import chat_problems
from pipeline.checks.cot import cot_problems
from pipeline.checks.deepspeed import deepspeed_problems
from pipeline.checks.distill import distill_problems, teacher_problems
from pipeline.checks.model_folder import folder_problems
from pipeline.checks.parts import composition_problems
from pipeline.checks.rollout_flags import rollout_flag_problems
from pipeline.checks.shared import name_problems, task_problems
from pipeline.checks.trainer import missing_trackers, trainer_problems
from pipeline.config.derived import asked_like_parent, cot_slice
from pipeline.config.families import REFUSED, tiny_families
from pipeline.config.loader import to_plain
from pipeline.config.schema import (
    BASELINE,
    BEST,
    FINAL,
    GATE_ACTIONS,
    AlarmConfig,
    RunConfig,
    StageConfig,
    match_stage,
    split_parent,
    stage_key,
)
from pipeline.config.special_tokens import special_token_in, special_tokens_of
from pipeline.config.trainer_options import CONFIG_CLASSES
from pipeline.data.questions.prompting import PROMPT_STYLES
from pipeline.data.splits import parse_split, split_problem
from pipeline.errors import UserError, did_you_mean
from pipeline.files import is_path
from pipeline.run_dir import BASE, COT
from pipeline.system import multinode
from pipeline.system.hardware import compiler_problems, visible_gpus

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")


def check(config: RunConfig, trains: bool = True, starts: bool = True) -> None:
    """Test every rule.

    Args:
        config: of the run.
        trains: whether stages are to be trained, for which the trackers they report to and their teachers must be here.
        starts: whether that begins on this machine now, for which the GPUs of a rollout server must be here too.

    Raises:
        UserError: holding one message per broken rule: the key, its value, the rule and the cure.
    """
    # What has been trained can be looked at without them.
    needed = (*missing_trackers(config), *teacher_problems(config)) if trains else ()
    problems = [*_problems(config), *needed, *(_no_gpus(config) if starts else ())]
    if problems:
        raise UserError(problems)


def _problems(config: RunConfig) -> Iterator[str]:
    yield from name_problems(config.name, config.seed)
    yield from task_problems("task", config.task)
    yield from _texts(config)
    yield from _model(config)
    yield from cot_problems(config)
    for name, stage in config.stages.items():
        if not re.fullmatch(r"stage\d+_\w+", name):
            yield f"stages.{name}: a stage's name must read stage<number>_<word>; for example stage2_grpo_format"
        yield from _stage(config, name, stage)
    numbers = [name.split("_")[0] for name in config.stages]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"stages: {number} is the number of two stages; give each its own"
    for name, stage in config.baselines.items():
        yield from _baseline_name(config, name)
        yield from _stage(config, BASELINE + name, stage)
    yield from _circles(config)
    yield from split_problem("evaluation.split", config.evaluation.split)
    for key in ("batch_size", "max_new_tokens"):
        if getattr(config.evaluation, key) < 1:
            yield f"evaluation.{key}: {getattr(config.evaluation, key)} must be at least 1"
    if config.evaluation.samples < 0:
        yield f"evaluation.samples: {config.evaluation.samples} must be 0 or more"
    for name, held in config.held_out.items():
        yield from task_problems(f"held_out.{name}.task", held.task)
        yield from split_problem(f"held_out.{name}.split", held.split)
    yield from _launch(config)
    yield from _alarms(config.alarms)


def _no_gpus(config: RunConfig) -> Iterator[str]:
    """A rollout server's GPUs on a machine without any; there the run may still be planned and watched."""
    if (kept := config.launch.rollout_gpus) > 0 and not visible_gpus():
        yield f"launch.rollout_gpus: {kept} for a server, and this machine has 0 visible GPUs; start it where they are, or set 0"


def _texts(config: RunConfig) -> Iterator[str]:
    """Texts of the task that the student's tokenizer would read as control tokens."""
    folder = Path(config.model.name_or_path).expanduser() if config.model.name_or_path else None
    own = special_tokens_of(folder) if folder and folder.is_dir() else ()
    texts = {"task.question": config.task.question or "", "task.prompt": config.task.prompt or ""}
    texts |= {f"task.labels: {label!r}": label for label in config.task.labels or ()}
    texts |= {f"task.descriptions.{label}": text for label, text in config.task.descriptions.items()}
    for key, text in texts.items():
        if token := special_token_in(text, own):
            yield f"{key}: holds {token!r}, a control token of the student; the picture has its place already, so leave it out"


def _model(config: RunConfig) -> Iterator[str]:
    model = config.model
    if model.dtype not in ("auto", "bfloat16", "float32"):
        yield f"model.dtype: {model.dtype!r} must be auto, bfloat16 or float32"
    attention = model.attn_implementation
    # A kernel of the hub is named as a repository.
    if "/" not in attention and attention not in ATTENTIONS:
        near = did_you_mean(attention, ATTENTIONS)
        yield f"model.attn_implementation: {attention!r} is no attention of transformers; {near}"
    if model.compose is not None:
        if model.name_or_path is not None:
            yield f"model.compose: a composed model is made, so leave model.name_or_path ({model.name_or_path!r}) out"
        yield from composition_problems(model.compose)
    elif model.name_or_path is None:
        tiny = model.tiny
        if tiny.family in REFUSED:
            yield f"model.tiny.family: {tiny.family!r} is refused: {REFUSED[tiny.family]}"
        elif tiny.family not in tiny_families():
            near = did_you_mean(tiny.family, tiny_families())
            yield f"model.tiny.family: {tiny.family!r} is not a file of stages/models/tiny; {near}"
        for key, size in to_plain(tiny).items():
            if isinstance(size, int) and size < 1:
                yield f"model.tiny.{key}: {size} must be at least 1"
        if min(tiny.patch_size, tiny.scale_factor) > 0 and tiny.image_size % (tiny.patch_size * tiny.scale_factor):
            yield (
                f"model.tiny.image_size: {tiny.image_size} must be a multiple of patch_size * scale_factor = "
                f"{tiny.patch_size * tiny.scale_factor}"
            )
        for key in ("hidden_size", "vision_hidden_size"):
            if getattr(tiny, key) % 32:
                yield f"model.tiny.{key}: {getattr(tiny, key)} must be a multiple of 32, the width of a head"
    elif is_path(model.name_or_path) and not Path(model.name_or_path).expanduser().is_dir():
        yield (
            f"model.name_or_path: the folder {model.name_or_path!r} does not exist; name a folder or a hub id, and where it is a "
            "phase of another run, run that first"
        )
    elif (folder := Path(model.name_or_path).expanduser()).is_dir():
        for problem in folder_problems(folder) or chat_problems(folder):
            yield f"model.name_or_path: {model.name_or_path!r} {problem}"
    yield from adapter_problems(config)


def _stage(config: RunConfig, name: str, stage: StageConfig) -> Iterator[str]:
    where = stage_key(name)
    if stage.algorithm not in CONFIG_CLASSES:
        near = did_you_mean(stage.algorithm, CONFIG_CLASSES)
        yield f"{where}.algorithm: {stage.algorithm!r} is not a training file of stages/; {near}"
        return
    yield from _parent(config, name, stage, where)
    yield from _validation(where, stage)
    yield from split_problem(f"{where}.split", stage.split)
    allowed = ("cot", "labels") if stage.algorithm == "sft" else ("task",)
    if stage.data not in allowed:
        yield f"{where}.data: {stage.data!r} must be {' or '.join(allowed)} for {stage.algorithm}"
    if stage.data == "cot" and config.cot is None:
        yield f"{where}.data: cot needs a cot: block, which this run does not have"
    if config.cot is not None and (spec := cot_slice(stage)) and not any(split_problem("", spec)):
        name_of_built = config.cot.split.partition("[")[0]
        made = config.task.options.get("splits")
        # What a split that a mixture makes has in common with the built rows is seen once its rows are read.
        if parse_split(spec)[0] not in {name_of_built, *(made if isinstance(made, dict) else ())}:
            yield (
                f"{where}.split: {spec!r} holds no built row, for cot.split is {config.cot.split!r}; name a slice of "
                f"{name_of_built}, or leave it out to train on all built rows"
            )
    if stage.prompt not in PROMPT_STYLES:
        yield f"{where}.prompt: {stage.prompt!r} must be one of {', '.join(PROMPT_STYLES)}"
    if stage.data == "cot" and stage.prompt != "think":
        yield f"{where}.prompt: {stage.prompt!r} does not fit data: cot, whose completions reason; use think"
    if stage.data == "labels" and stage.prompt != "direct":
        yield f"{where}.prompt: {stage.prompt!r} does not fit data: labels, which hold no reasoning; use direct"
    yield from _gate(config, name, stage, where)
    yield from part_problems(where, stage)
    yield from distill_problems(where, stage)
    yield from trainer_problems(config, where, stage)


def _gate(config: RunConfig, name: str, stage: StageConfig, where: str) -> Iterator[str]:
    gate = stage.gate
    if not 0 <= gate.format_rate <= 1:
        yield f"{where}.gate.format_rate: {gate.format_rate} must be a share from 0 to 1"
    if gate.action not in GATE_ACTIONS:
        yield f"{where}.gate.action: {gate.action!r} is none of its actions; {did_you_mean(gate.action, GATE_ACTIONS)}"
    if gate.accuracy and not any(_parent(config, name, stage, where)) and not asked_like_parent(config, stage):
        yield (
            f"{where}.gate.accuracy: its parent {stage.init_from} is not asked in the style {stage.prompt!r}, so it has no "
            "accuracy to compare with; leave it null"
        )


def _parent(config: RunConfig, name: str, stage: StageConfig, where: str) -> Iterator[str]:
    name_of_parent, which = split_parent(stage.init_from)
    if which not in (FINAL, BEST):
        yield f"{where}.init_from: {stage.init_from!r}: {which!r} must be {BEST}, or be left out for the last weights"
    if name_of_parent == BASE:
        if which == BEST:
            yield f"{where}.init_from: {stage.init_from!r}: base is not trained, so it has no best; use base"
        return
    try:
        parent = config.stage_name(name_of_parent)
    except UserError as error:
        yield f"{where}.init_from: {error}; or base"
        return
    # Between stages and baselines any order is well that is no circle.
    for order in ([BASELINE + one for one in config.baselines], list(config.stages)):
        if parent in order and name in order and order.index(parent) >= order.index(name):
            yield f"{where}.init_from: {parent} does not come before it; name an earlier one or base"
    if which == BEST and config.stage(parent).validation is None:
        yield (
            f"{where}.init_from: {stage.init_from!r}: {parent} has no best, for it is not validated while it trains; "
            f"set {stage_key(parent)}.validation.split=val[:200], or drop :{BEST}"
        )


def _baseline_name(config: RunConfig, name: str) -> Iterator[str]:
    """Why a baseline cannot be called so: its folder, or what it is called on the command line."""
    if not re.fullmatch(r"[^\W\d_]\w*", name):
        yield f"baselines.{name}: must be one word of letters, digits and '_' that begins with a letter; for example grpo_task"
    elif name in (COT, BASE, "all") or re.match(r"(baseline|stage\d+)(_|$)", name):
        yield f"baselines.{name}: {name!r} is what --to and --stage call other phases; for example grpo_task"


def _circles(config: RunConfig) -> Iterator[str]:
    """Circles of parents through baselines and stages; one within either names a later parent and is told as that."""
    stages = config.all_stages
    told: set[str] = set()
    for name in (BASELINE + one for one in config.baselines):
        line = [name]
        while parent := match_stage(split_parent(stages[line[-1]].init_from)[0], stages):
            if parent[0] in line:
                circle = line[line.index(parent[0]) :]
                if not told & set(circle) and not all(one.startswith(BASELINE) for one in circle):
                    rest = ", which starts from ".join([*circle[1:], circle[0]])
                    yield (
                        f"{stage_key(circle[0])}.init_from: {circle[0]} starts from {rest}: a circle; let one start from base"
                    )
                told |= set(circle)
                break
            line.append(parent[0])


def _validation(where: str, stage: StageConfig) -> Iterator[str]:
    if stage.validation is not None:
        yield from split_problem(f"{where}.validation.split", stage.validation.split)
        if stage.validation.steps is not None and stage.validation.steps < 1:
            yield f"{where}.validation.steps: {stage.validation.steps} must be at least 1, or null for every save"


def _alarms(alarms: AlarmConfig) -> Iterator[str]:
    plain = to_plain(alarms)
    if plain.pop("window") < 1:
        yield f"alarms.window: {alarms.window} must be at least 1"
    for name in plain.pop("stop"):
        if name not in plain:
            yield f"alarms.stop: {name!r} is not an alarm; {did_you_mean(name, plain)}"
        elif plain[name] is None:
            yield f"alarms.stop: {name!r} is turned off (alarms.{name} is null); give it a threshold"
    for name, threshold in plain.items():
        # NaN is neither below nor above anything, so that its alarm would never be on.
        if threshold is not None and not threshold >= 0:
            yield f"alarms.{name}: {threshold} must be 0 or more, or null to turn it off"


def _launch(config: RunConfig) -> Iterator[str]:
    yield from multinode.problems()
    if (asked := config.launch.parallel_phases) is not None and asked < 1:
        yield f"launch.parallel_phases: {asked} must be at least 1"
    processes = config.launch.num_processes
    gpus, kept = visible_gpus(), config.launch.rollout_gpus
    if kept < 0 or (gpus and kept >= gpus):
        yield f"launch.rollout_gpus: {kept} must leave one of the {gpus} visible GPUs to the trainer; 0 shares them all"
    if processes is not None and processes < 1:
        yield f"launch.num_processes: {processes} must be at least 1"
    elif processes is not None and gpus and processes > gpus - kept:
        yield f"launch.num_processes: {processes} is more than the {gpus - kept} visible GPUs; lower it or make more visible"
    yield from rollout_flag_problems(config, gpus)
    if gpus and config.all_stages:
        yield from compiler_problems()
    yield from deepspeed_problems(config)
