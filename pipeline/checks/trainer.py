"""The rules of a stage's `trainer:` block: each option by itself, all together, and the arithmetic of rollouts."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.derived import _schedule, checkpoint_cycle, clip_range, world_size
from pipeline.config.reward_names import reward_file, reward_function
from pipeline.config.schema import RunConfig, StageConfig, stage_key
from pipeline.config.trainer_options import CONFIG_CLASSES, option_words, trainer_fields
from pipeline.config.validation import is_count, is_number
from pipeline.errors import did_you_mean
from pipeline.files import ROOT
from pipeline.system import multinode

OWNED = {
    "output_dir": "it is the stage's folder of the run tree",
    "deepspeed": "set launch.deepspeed",
    "fsdp": "a hand-over knows no shards of it; set launch.deepspeed: zero3",
    "fsdp_config": "a hand-over knows no shards of it; set launch.deepspeed: zero3",
    "parallelism_config": "a hand-over knows no shards of it; set launch.deepspeed: zero3",
    "auto_find_batch_size": "a batch halved on one process leaves the others waiting; preflight --fit finds what fits",
    "seed": "set the run's seed",
    "data_seed": "set the run's seed",
    "use_cpu": "it follows from the machine",
    "bf16": "set model.dtype",
    "fp16": "set model.dtype: bfloat16 or float32",
    "model_init_kwargs": "set model.dtype, model.attn_implementation, model.revision",
    "trust_remote_code": "set model.trust_remote_code",
    "push_to_hub": "nothing is pushed; upload final/ yourself",
    "resume_from_checkpoint": "an interrupted stage resumes by itself",
    "load_best_model_at_end": "set the stage's validation, and init_from: <stage>:best where the best weights are to go on",
    "assistant_only_loss": "an SFT stage scores the completion alone as it is",
    "save_only_model": "a checkpoint without its optimizer does not resume exactly",
    "ignore_data_skip": "an interrupted stage goes on with the next rows",
    "enable_jit_checkpoint": "Ctrl-C and SIGTERM write a checkpoint where resume is exact",
    "remove_unused_columns": "the rewards need every column",
    "eval_strategy": "every stage is evaluated after it; see evaluation",
    "sync_ref_model": "its reference is in no checkpoint, so a resumed stage would have another; the reference is the parent",
    "accelerator_config": "rows are shared out as GRPO's groups need it",
    "generation_batch_size": "set steps_per_generation, which says the same for any number of processes",
}
"""Trainer options that CLGRPO sets itself, and where to say it instead."""
WHOLE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_generations",
    "steps_per_generation",
    "num_iterations",
    "max_completion_length",
    "save_steps",
    "save_total_limit",
)
"""Trainer options that count something: whole numbers of at least 1."""


POSITIVE = ("learning_rate", "temperature", "epsilon", "epsilon_high", "num_train_epochs")
"""Trainer options that mean something only above 0."""


NOT_NEGATIVE = ("beta", "weight_decay", "warmup_steps", "max_grad_norm")
"""Trainer options that may be 0, and not less."""


ROLLOUTS = ("transformers", "vllm")
"""What can sample a GRPO stage's completions."""


CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""The loss types of TRL that use epsilon and epsilon_high."""


def trainer_problems(config: RunConfig, where: str, stage: StageConfig) -> Iterator[str]:
    """Yield every broken rule of the options of a stage's trainer, and of its rewards."""
    wrong = dict(_trainer_values(where, stage))
    yield from wrong.values()
    yield from _report_to(where, stage)
    # One wrong option does not hide what is wrong with the others: it is taken for unset.
    stage = dataclasses.replace(stage, trainer={key: value for key, value in stage.trainer.items() if key not in wrong})
    yield from _trainer(where, stage)
    if stage.algorithm == "grpo":
        yield from _rewards(where, stage)
        yield from _grpo(config, where, stage)
    else:
        if stage.reward_funcs:
            yield f"{where}.reward_funcs: sft has no rewards; remove the key or set algorithm: grpo"
        if stage.rollouts != "transformers" or stage.rollouts_ahead or stage.dynamic_sampling:
            yield f"{where}.rollouts, rollouts_ahead, dynamic_sampling: sft samples nothing; remove them or set algorithm: grpo"


def _trainer_values(where: str, stage: StageConfig) -> Iterator[tuple[str, str]]:
    """Yield (option, message) for each trainer option that there is none of, or that cannot have this value."""
    fields = trainer_fields(stage.algorithm)
    for key, value in stage.trainer.items():
        told = f"{where}.trainer.{key}: {value!r}"
        if key in OWNED:
            yield key, f"{told} is not set here; {OWNED[key]}"
        elif key not in fields:
            near = did_you_mean(key, fields)
            yield key, f"{where}.trainer.{key} is not a {CONFIG_CLASSES[stage.algorithm]} field; {near}"
        elif (words := option_words(stage.algorithm, key)) and not _chosen(key, value, words):
            yield key, f"{told} is not one of its values; {_cure(value, words)}"
        elif key in NEEDS_EVALUATION and value == NEEDS_EVALUATION[key]:
            yield key, f"{told} follows trl's own evaluation, which a stage does not run; use another one"
        elif isinstance(fields[key], bool) and not isinstance(value, bool):
            yield key, f"{told} must be true or false"
        elif type(fields[key]) in (int, float) and not is_number(value):
            yield key, f"{told} must be a number"
        elif key in WHOLE and value is not None and not is_count(value):
            yield key, f"{told} must be a whole number of at least 1"
        elif key == "max_steps" and value != -1 and not is_count(value):
            yield key, f"{told} must be a whole number of at least 1, or -1 to train for num_train_epochs, as 0 would"
        elif key in POSITIVE and value is not None and (not is_number(value) or value <= 0):
            yield key, f"{told} must be a number above 0"
        elif key in NOT_NEGATIVE and value is not None and (not is_number(value) or value < 0):
            yield key, f"{told} must be 0 or more"


NEEDS_EVALUATION = {"save_strategy": "best", "lr_scheduler_type": "reduce_lr_on_plateau"}
"""Options and their value that means nothing without the trainer's own evaluation."""


def _chosen(key: str, value: Any, words: frozenset[str]) -> bool:
    # TRL takes true and false for group and none.
    return value in words or (key == "scale_rewards" and isinstance(value, bool))


def _cure(value: Any, words: frozenset[str]) -> str:
    if value is False and "no" in words:
        return 'YAML reads no as false: write "no" in quotes'
    return did_you_mean(value, words)


TRACKERS = ("tensorboard", "wandb", "trackio")
"""What `report_to` may name: packages of the same name, which transformers writes every logged number to."""


def _report_to(where: str, stage: StageConfig) -> Iterator[str]:
    named = stage.trainer.get("report_to") or []
    for tracker in [named] if isinstance(named, str) else named:
        if tracker != "none" and tracker not in TRACKERS:
            yield f"{where}.trainer.report_to: {tracker!r} must be none or one of {', '.join(TRACKERS)}"


def missing_trackers(config: RunConfig) -> Iterator[str]:
    """Yield trackers that stages report to and that are not installed here; what has been trained can be looked at without."""
    for name, stage in config.all_stages.items():
        where = stage_key(name)
        named = stage.trainer.get("report_to") or []
        for tracker in [named] if isinstance(named, str) else named:
            if tracker in TRACKERS and importlib.util.find_spec(tracker) is None:
                yield f"{where}.trainer.report_to: {tracker} is not installed; pip install {tracker}, or leave report_to out"


def _trainer(where: str, stage: StageConfig) -> Iterator[str]:
    """The trainer options together."""
    cycle = checkpoint_cycle(stage)
    save_steps = stage.trainer.get("save_steps")
    if save_steps and save_steps % cycle:
        yield (
            f"{where}.trainer.save_steps: {save_steps} must be a multiple of {cycle} (steps_per_generation * num_iterations / "
            f"gradient_accumulation_steps): resume is exact only there; use {save_steps + cycle - save_steps % cycle}"
        )
    limit = stage.trainer.get("save_total_limit")
    if limit and limit < 2:
        yield f"{where}.trainer.save_total_limit: {limit} must be 2 or more, so that a crash during a save leaves the one before"
    if stage.algorithm == "sft":
        for key in ("packing", "padding_free"):
            if stage.trainer.get(key):
                yield f"{where}.trainer.{key}: true is refused by TRL for rows with images; remove it"
        if stage.trainer.get("max_length") is not None:
            yield f"{where}.trainer.max_length: {stage.trainer['max_length']} would cut image tokens; leave it null"


def _rewards(where: str, stage: StageConfig) -> Iterator[str]:
    if not stage.reward_funcs:
        yield f"{where}.reward_funcs: is empty; name files of rewards/, for example [format, accuracy]"
    rewards = {path.stem for path in (ROOT / "rewards").glob("*.py")} - {"__init__"}
    for reward in stage.reward_funcs:
        if "." not in reward and reward not in rewards:
            yield f"{where}.reward_funcs: {reward!r} is not a file of rewards/; {did_you_mean(reward, rewards)}"
            continue
        file = reward_file(reward)
        if file is None:
            yield f"{where}.reward_funcs: the module of {reward!r} is not importable from here"
        elif file.suffix == ".py":
            yield from _reward_file(f"{where}.reward_funcs: {reward!r}", file, reward_function(reward)[1])
    weights = stage.trainer.get("reward_weights")
    if weights is not None and not (isinstance(weights, list) and all(is_number(weight) for weight in weights)):
        yield f"{where}.trainer.reward_weights: {weights!r} must be a list of numbers, for example [0.5, 0.5]"
    elif weights is not None and len(weights) != len(stage.reward_funcs):
        yield f"{where}.trainer.reward_weights: {len(weights)} weights for {len(stage.reward_funcs)} reward_funcs; give one each"


def _reward_file(told: str, file: Path, function: str) -> Iterator[str]:
    """Check without running it that a reward's file is Python and has the function."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        yield f"{told}: {file} is not Python: {error}"
        return
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        if isinstance(node, ast.FunctionDef) and node.name == function and "label" in _parameters(node):
            yield (
                f"{told}: {file}: {function} asks for the column label; rows have answer in its place, and question for the "
                "judge (docs/rewards.md): rename the parameter"
            )
    # What a star brings is known only by running it.
    if function not in names and "*" not in names:
        yield f"{told}: {file} defines no {function}; {did_you_mean(function, names)}"


def _parameters(function: ast.FunctionDef) -> set[str]:
    return {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}


def _grpo(config: RunConfig, where: str, stage: StageConfig) -> Iterator[str]:
    """The arithmetic of rollouts and clipping."""
    trainer, defaults = stage.trainer, trainer_fields("grpo")
    accumulation, per_generation, iterations = _schedule(stage)
    generations = int(trainer.get("num_generations") or defaults["num_generations"] or 8)
    per_device = int(trainer.get("per_device_train_batch_size", defaults["per_device_train_batch_size"]))
    processes = world_size(config)
    batch = per_device * processes * per_generation
    if generations < 2:
        yield f"{where}.trainer.num_generations: {generations} must be at least 2: advantages compare completions of one prompt"
    elif batch % generations:
        yield (
            f"{where}.trainer: a rollout holds {batch} completions (per_device_train_batch_size {per_device} * {processes} "
            f"processes * steps_per_generation {per_generation}), which is not divisible by num_generations {generations}"
        )
    rollout = per_generation * iterations
    if rollout % accumulation and accumulation % rollout:
        yield (
            f"{where}.trainer.gradient_accumulation_steps: {accumulation} must divide steps_per_generation * num_iterations, "
            f"{rollout}, or be a multiple of it: else an epoch ends inside a rollout, and resume is no longer exact"
        )
    clip = clip_range(stage)
    if clip:
        loss_type = trainer.get("loss_type", defaults["loss_type"])
        if loss_type not in CLIPPED_LOSSES:
            yield f"{where}.trainer.epsilon: loss_type {loss_type} ignores it; use one of {', '.join(CLIPPED_LOSSES)}"
        if iterations == 1 and per_generation <= accumulation:
            yield (
                f"{where}: asks for clipping (epsilon {clip[0]}, epsilon_high {clip[1]}) but cannot clip: every rollout gets "
                f"exactly one optimizer step, so the ratio is always 1. Set trainer.num_iterations above 1 (now {iterations}), "
                f"or steps_per_generation above gradient_accumulation_steps (now {per_generation} and {accumulation})"
            )
        if clip[0] >= 1:
            yield f"{where}.trainer.epsilon: {clip[0]} must be below 1: a ratio never falls to 0, so it would never act"
    bias = (config.model.peft or {}).get("bias", "none")
    if trainer.get("beta", defaults["beta"]) and bias != "none":
        yield (
            f"{where}.trainer.beta: above 0 with model.peft.bias: {bias} holds the policy to a reference that moves: the model "
            "without adapters keeps the biases that train; set bias: none, or beta: 0"
        )
    yield from _rollouts(config, where, stage, per_device * per_generation, generations)


def _rollouts(config: RunConfig, where: str, stage: StageConfig, own: int, generations: int) -> Iterator[str]:
    """What samples, and dynamic sampling. `own`: completions of one process in a rollout."""
    trainer, defaults = stage.trainer, trainer_fields("grpo")
    if trainer.get("use_vllm"):
        yield (
            f"{where}.trainer.use_vllm: TRL 1.16's own vLLM modes are wrong for images: colocated it expands image tokens twice "
            "(its issue 6294), and its server breaks tiled images; remove it and set the stage's rollouts: vllm"
        )
    if stage.rollouts not in ROLLOUTS:
        near = did_you_mean(stage.rollouts, ROLLOUTS)
        yield f"{where}.rollouts: {stage.rollouts!r} must be one of {', '.join(ROLLOUTS)}; {near}"
    if stage.rollouts == "vllm":
        if multinode.count() > 1:
            yield (
                f"{where}.rollouts: vllm on {multinode.count()} nodes: the server listens on node 0 alone, where the others' "
                "processes cannot reach it; set rollouts: transformers, or train on one node"
            )
        if config.model.quantization is not None:
            yield (
                f"{where}.rollouts: vllm with model.quantization: {config.model.quantization}: a server cannot be sent rounded "
                "weights with adapters merged; set rollouts: transformers, or leave quantization out"
            )
        if importlib.util.find_spec("vllm") is None:
            yield f"{where}.rollouts: vllm is not installed; ./launch/install.sh --vllm installs it"
        if trainer.get("generation_kwargs"):
            yield f"{where}.trainer.generation_kwargs: is not sent to the server of rollouts: vllm; remove it"
    if stage.rollouts_ahead:
        if stage.rollouts != "vllm":
            yield f"{where}.rollouts_ahead: true needs a server that samples while the stage trains; set rollouts: vllm"
        if stage.dynamic_sampling > 0:
            yield (
                f"{where}.rollouts_ahead: true cannot go with dynamic_sampling {stage.dynamic_sampling}: its further prompts are "
                "known only after a rollout's rewards; remove one of them"
            )
        if not trainer.get("vllm_importance_sampling_correction", defaults["vllm_importance_sampling_correction"]):
            yield (
                f"{where}.trainer.vllm_importance_sampling_correction: false would train on what older weights sampled as if the "
                "present ones had (rollouts_ahead: true); remove it"
            )
    if stage.dynamic_sampling < 0:
        yield f"{where}.dynamic_sampling: {stage.dynamic_sampling} must be 0 (off) or the most rounds of further prompts"
    if stage.dynamic_sampling > 0:
        if own % generations:
            yield (
                f"{where}.dynamic_sampling: needs whole groups in each process, and its {own} completions "
                f"(per_device_train_batch_size * steps_per_generation) are not divisible by num_generations {generations}"
            )
        aggregation = trainer.get("multi_objective_aggregation", defaults["multi_objective_aggregation"])
        if aggregation != "sum_then_normalize":
            yield f"{where}.dynamic_sampling: judges the sum of rewards; remove multi_objective_aggregation: {aggregation}"
