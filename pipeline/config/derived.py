"""What follows from a configuration: processes, clip range, checkpoint cycle, DeepSpeed file, passes of an evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.config.families import SPREAD_OVER
from pipeline.config.loader import CONFIGS
from pipeline.config.schema import DistillConfig, RunConfig, StageConfig, split_parent
from pipeline.config.trainer_options import trainer_fields
from pipeline.run_dir import BASE, COT
from pipeline.system import multinode
from pipeline.system.hardware import gpu_names, visible_gpus


def deepspeed_file(config: RunConfig) -> Path | None:
    """Return the JSON that launch.deepspeed names, or None when there is none."""
    name: Any = config.launch.deepspeed
    if name is None:
        return None
    for candidate in (CONFIGS / "deepspeed" / f"{name}.json", Path(name)):
        if candidate.is_file():
            return candidate
    return None


def zero_stage(config: RunConfig) -> int:
    """Return the ZeRO stage of launch.deepspeed; 0 without one, and for a file that breaks a rule of its own."""
    path = deepspeed_file(config)
    try:
        stage = json.loads(path.read_text())["zero_optimization"]["stage"] if path else 0
    except (json.JSONDecodeError, KeyError, TypeError):
        return 0
    return stage if isinstance(stage, int) else 0


def processes_per_node(config: RunConfig) -> int:
    """Return processes on each node: launch.num_processes, else the visible GPUs that no rollout server has, else 1."""
    return config.launch.num_processes or max(1, visible_gpus() - config.launch.rollout_gpus)


def trainer_gpus(config: RunConfig) -> list[str]:
    """Return the GPUs that the processes of a stage have on this node, as CUDA_VISIBLE_DEVICES names them."""
    return gpu_names()[: processes_per_node(config)]


def gpus_per_engine(config: RunConfig) -> int:
    """Return the GPUs that one engine of a rollout server is spread over, by `launch.rollout_flags`."""
    return math.prod(int(config.launch.rollout_flags.get(flag) or 1) for flag in SPREAD_OVER)


def world_size(config: RunConfig) -> int:
    """Return processes a stage runs on, those of all nodes together."""
    return processes_per_node(config) * multinode.count()


def cot_slice(stage: StageConfig) -> str | None:
    """Return the slice of the task whose built rows a `data: cot` stage trains on; None for all of them, and for other data."""
    return stage.split if stage.data == COT and stage.split != StageConfig.split else None


def rows_of(stage: StageConfig) -> str:
    """Return what a stage trains on, for people: ``train[4000:]``, ``cot``, ``cot within train[:2000]``."""
    if stage.data != COT:
        return stage.split
    spec = cot_slice(stage)
    return f"cot within {spec}" if spec else COT


def distilled(distill: DistillConfig) -> str:
    """Return what a stage distils, for people: ``distilled from runs/demo/stage4_clgrpo/final, weight 0.5, temperature 1``."""
    return f"distilled from {distill.teacher}, weight {distill.weight:g}, temperature {distill.temperature:g}"


def tunes_prompt(config: RunConfig) -> bool:
    """Check whether the stages train a soft prompt at the head of every prompt, and nothing else."""
    return (config.model.peft or {}).get("peft_type") == "PROMPT_TUNING"


def clip_range(stage: StageConfig) -> tuple[float, float] | None:
    """Return (epsilon_low, epsilon_high) of a clipping stage, None for a stage that does not ask for clipping.

    A GRPO stage asks for clipping by naming `epsilon` or `epsilon_high` in its trainer block.
    """
    if stage.algorithm != "grpo" or not {"epsilon", "epsilon_high"} & set(stage.trainer):
        return None
    low = stage.trainer.get("epsilon", trainer_fields("grpo")["epsilon"])
    high = stage.trainer.get("epsilon_high")
    return float(low), float(low if high is None else high)


def checkpoint_cycle(stage: StageConfig) -> int:
    """Return optimizer steps between two points where a GRPO stage resumes exactly (1 for SFT).

    TRL buffers a rollout over steps_per_generation * num_iterations forward passes; inside that cycle a resume would
    generate anew.
    """
    if stage.algorithm != "grpo":
        return 1
    accumulation, per_generation, iterations = _schedule(stage)
    return max(1, Fraction(per_generation * iterations, accumulation).numerator)


def _schedule(stage: StageConfig) -> tuple[int, int, int]:
    """(gradient_accumulation_steps, steps_per_generation, num_iterations) as GRPOConfig resolves them."""
    trainer, defaults = stage.trainer, trainer_fields("grpo")
    accumulation = int(trainer.get("gradient_accumulation_steps", defaults["gradient_accumulation_steps"]))
    per_generation = trainer.get("steps_per_generation") or accumulation
    iterations = int(trainer.get("num_iterations", defaults["num_iterations"]))
    return accumulation, int(per_generation), iterations


def prompts_per_rollout(config: RunConfig, stage: StageConfig) -> int:
    """Return prompts one rollout of a GRPO stage asks, over all processes."""
    defaults = trainer_fields("grpo")
    per_device = int(stage.trainer.get("per_device_train_batch_size", defaults["per_device_train_batch_size"]))
    generations = int(stage.trainer.get("num_generations") or defaults["num_generations"])
    return per_device * world_size(config) * _schedule(stage)[1] // generations


def asked_like_parent(config: RunConfig, stage: StageConfig) -> bool:
    """Check whether the parent of a stage is evaluated in the stage's own prompt style; the base is in both."""
    parent = split_parent(stage.init_from)[0]
    return parent == BASE or config.stage(parent).prompt == stage.prompt


DIRECT_TOKENS = 32
"""Tokens a direct answer may have: labels are a few words."""


@dataclass(frozen=True)
class Pass:
    """One way of asking every row."""

    style: str
    decoding: str
    sample: int = 0


def passes(config: RunConfig, name: str) -> list[Pass]:
    """Return the ways a phase is asked: in the style it was trained on, greedily and in samples; base in both styles."""
    style = "think" if name == BASE else config.stage(name).prompt
    sampled = [Pass(style, "sample", number) for number in range(config.evaluation.samples)]
    return [Pass(style, "greedy"), *sampled, *([Pass("direct", "greedy")] if name == BASE else [])]


def answer_tokens(config: RunConfig, style: str) -> int:
    """Return tokens an answer in this style may have."""
    return config.evaluation.max_new_tokens if style == "think" else DIRECT_TOKENS
