"""Whether vLLM computes a checkpoint as the trainer does: ``python -m benchmarks.rollout_logprobs FOLDER … [--steps 3]``.

For each checkpoint a real GRPO stage of a few steps samples from a real vLLM server (on a CPU too). Told are, as one JSON line:

- `logprobs`: the largest difference between the rollouts' logprobs and the trainer's, at each step, after each weight update;
- `greedy`: whether both give the same greedy tokens after the last update;
- `moved`: the largest change of a weight over the steps, without which the former would prove nothing;
- `prefix_cache`, `image_cache`: at each step, the shares of prompts' tokens and of pictures that the server had already;
- `sync_seconds` of a weight update, and `faster`: rollouts per second, as a multiple of transformers' on the same prompts.

The exit status is 1 when a logprob differs by more than 1e-3 or a greedy token differs. The logprobs are taken before the image
token is suppressed (`raw_logprobs`): a random model would sample it, and the trainer's logprobs do not know the suppression.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT = 1e-3
ROWS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout_logprobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoints: weights and processor")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16, help="of a completion")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument(
        "--image-size", type=int, default=96, help="width in pixels; every second image is half as high"
    )
    parser.add_argument("--flags", type=json.loads, default={}, help="more vLLM flags, as JSON")
    arguments = parser.parse_args(argv)
    right = True
    for folder in arguments.folders:
        found = compare(folder.resolve(), arguments)
        print(json.dumps({"checkpoint": folder.name, **found}), flush=True)
        right &= max(found["logprobs"]) <= LIMIT and found["greedy"] and found["moved"] > 0
    return 0 if right else 1


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps on rollouts of a server and compare; see the module."""
    from pipeline.compat import declare_torchvision_ops, hide_vllm_from_trl

    declare_torchvision_ops()
    hide_vllm_from_trl()
    from transformers import AutoConfig
    from trl import GRPOConfig

    from pipeline.run import RunDir
    from pipeline.schema import LaunchConfig, RunConfig, StageConfig, TaskConfig
    from stages._grpo_trainer import Trainer
    from stages._launch import Work
    from stages._loading import load_processor
    from stages._rollouts import served
    from stages._training import image_dataset, trainer_arguments

    with tempfile.TemporaryDirectory() as scratch:
        stage = StageConfig(
            algorithm="grpo",
            init_from="base",
            rollouts="vllm",
            trainer={
                "max_steps": arguments.steps,
                "per_device_train_batch_size": 2 * arguments.generations,
                "num_generations": arguments.generations,
                "max_completion_length": arguments.tokens,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "constant",
                "gradient_checkpointing": False,
                "save_strategy": "no",
            },
        )
        config = RunConfig(
            name="compared",
            output_dir=scratch,
            task=TaskConfig(name="scenes"),
            stages={"stage1_grpo": stage},
            launch=LaunchConfig(rollout_flags={"logprobs-mode": "raw_logprobs", **arguments.flags}),
        )
        work = Work(config, "stage1_grpo", RunDir(scratch, config.name))
        work.folder.mkdir(parents=True)
        trainer = Trainer(
            work,
            model=str(folder),
            reward_funcs=parity,
            args=GRPOConfig(**trainer_arguments(work)),
            train_dataset=image_dataset(_rows(Path(scratch), arguments.image_size)),
            processing_class=load_processor(folder, config),
        )
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        with served(trainer, work, folder):
            trainer.train()
            logged = [row for row in trainer.state.log_history if "reward" in row]
            moved = max(float((w.detach() - before[name]).abs().max()) for name, w in trainer.model.named_parameters())
            begun = time.monotonic()
            trainer._sync()
            sync_seconds = time.monotonic() - begun
            each = [trainer.train_dataset[row] for row in range(ROWS)]
            many = [row for row in each for _ in range(arguments.generations)]
            theirs, _ = _sample(trainer, each, 1)
            served_seconds = _sample(trainer, many, arguments.generations)[1]
        own, _ = _sample(trainer, each, 1)  # By transformers, now that the server is gone.
        own_seconds = _sample(trainer, many, arguments.generations)[1]
    prompt_ids, _, _ = trainer._tokenize_prompts(_prompts(each))
    return {
        "family": AutoConfig.from_pretrained(folder).model_type,
        "image_tokens": prompt_ids[0].count(trainer.model.config.image_token_id),
        "prompt_tokens": len(prompt_ids[0]),
        "logprobs": [row["sampling/sampling_logp_difference/max"] for row in logged],
        "prefix_cache": [round(row["sampling/prefix_cache_hit_ratio"], 3) for row in logged],
        "image_cache": [round(row["sampling/image_cache_hit_ratio"], 3) for row in logged],
        "greedy": theirs == own,
        "moved": moved,
        "sync_seconds": round(sync_seconds, 3),
        "rollouts_per_second": round(len(many) / served_seconds, 1),
        "faster": round(own_seconds / served_seconds, 2),
    }


def parity(completions: list[Any], **_: Any) -> list[float]:
    """A reward that random models win half of the time, so that weights move."""
    return [float(len(completion[0]["content"]) % 2) for completion in completions]


def _rows(folder: Path, size: int) -> dict[str, list[Any]]:
    """A few rows with noisy images, which come again at every step: what a server keeps of them must not."""
    from PIL import Image

    from pipeline.rows import user_turn

    chance = random.Random(0)
    images = []
    for number in range(ROWS):
        shape = (size, size // 2 if number % 2 else size)
        image = Image.frombytes("RGB", shape, chance.randbytes(3 * shape[0] * shape[1]))
        image.save(folder / f"{number}.png")
        images.append(str(folder / f"{number}.png"))
    turn = user_turn("Which emotion does this picture evoke? Give reasons, then the answer.")
    return {"id": [str(number) for number in range(ROWS)], "prompt": [turn] * ROWS, "image": images}


def _prompts(inputs: list[dict[str, Any]]) -> list[Any]:
    from trl.data_utils import prepare_multimodal_messages

    return [prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in inputs]


def _sample(trainer: Any, inputs: list[dict[str, Any]], num_generations: int) -> tuple[Any, float]:
    """(completions' tokens, seconds) of whatever the trainer samples from; of one completion each, the greedy one."""
    tokenized = trainer._tokenize_prompts(_prompts(inputs))
    temperature, how = trainer.temperature, trainer.generation_config.to_dict()
    if num_generations == 1:
        trainer.temperature = 0.0
        trainer.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    begun = time.monotonic()
    tokens, _ = trainer._generate_single_turn(*tokenized, num_generations)
    seconds = time.monotonic() - begun
    trainer.temperature = temperature
    trainer.generation_config.update(**how)
    return tokens, seconds


if __name__ == "__main__":
    sys.exit(main())
