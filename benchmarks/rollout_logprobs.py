"""Whether vLLM computes a checkpoint as the trainer does: ``python -m benchmarks.rollout_logprobs FOLDER … [--ahead]``.

For each checkpoint a real GRPO stage of a few steps samples from a real vLLM server (on a CPU too). Told are, as one JSON line:

- `logprobs`: the largest difference, at each step, between the rollouts' logprobs and those the trainer's model gives them with
  the weights that sampled them; `staleness` and `drift`: how many steps old these were, and the mean difference from the present;
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

from pipeline import command_line

LIMIT = 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point."""
    parser = command_line.doc_parser("benchmarks.rollout_logprobs", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="checkpoints: weights and processor")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4, help="two are asked at each step")
    parser.add_argument("--tokens", type=int, default=16, help="of a completion")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument(
        "--image-size", type=int, default=96, help="width in pixels; every second image is half as high"
    )
    parser.add_argument(
        "--pictures", type=int, nargs="+", default=[1], help="of the rows in turn; several stand at marks in the text"
    )
    parser.add_argument("--ahead", action="store_true", help="with rollouts_ahead")
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
    with tempfile.TemporaryDirectory() as scratch:
        trainer, work = trainer_of(
            folder,
            arguments,
            Path(scratch),
            per_device_train_batch_size=2 * arguments.generations,
            max_steps=arguments.steps,
            learning_rate=1e-3,
        )
        from transformers import AutoConfig

        from stages.rollouts.pending import prompts_of
        from stages.rollouts.vllm_rollouts import policy_server

        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        with policy_server(trainer, work, folder):
            differences = scored_by_their_sampler(trainer)
            trainer.train()
            logged = [row for row in trainer.state.log_history if "reward" in row]
            moved = max(float((w.detach() - before[name]).abs().max()) for name, w in trainer.model.named_parameters())
            begun = time.monotonic()
            trainer.server.sync()
            sync_seconds = time.monotonic() - begun
            each = [trainer.train_dataset[row] for row in range(arguments.rows)]
            many = [row for row in each for _ in range(arguments.generations)]
            theirs, _ = _sample(trainer, each, 1)
            served_seconds = _sample(trainer, many, arguments.generations)[1]
        # By transformers, now that the server is gone.
        own, _ = _sample(trainer, each, 1)
        own_seconds = _sample(trainer, many, arguments.generations)[1]
    prompt_ids, _, _ = trainer._tokenize_prompts(prompts_of(each))
    return {
        "family": AutoConfig.from_pretrained(folder).model_type,
        "image_tokens": prompt_ids[0].count(trainer.model.config.image_token_id),
        "prompt_tokens": len(prompt_ids[0]),
        "logprobs": differences,
        "staleness": [row["sampling/staleness"] for row in logged],
        "drift": [row["sampling/sampling_logp_difference/mean"] for row in logged],
        "prefix_cache": [round(row["sampling/prefix_cache_hit_ratio"], 3) for row in logged],
        "image_cache": [round(row["sampling/image_cache_hit_ratio"], 3) for row in logged],
        "greedy": theirs == own,
        "moved": moved,
        "sync_seconds": round(sync_seconds, 3),
        "rollouts_per_second": round(len(many) / served_seconds, 1),
        "faster": round(own_seconds / served_seconds, 2),
    }


def trainer_of(folder: Path, arguments: argparse.Namespace, scratch: Path, **options: Any) -> tuple[Any, Any]:
    """(trainer, its stage) on a few rows of noise, with `rollouts: vllm`.

    Args:
        folder: the checkpoint.
        arguments: `rows`, `generations`, `tokens`, `image_size`, `pictures`, `flags`, `ahead`.
        scratch: a folder to work in.
        options: of the stage's `trainer:` block.
    """

    from trl import GRPOConfig

    from pipeline.config.schema import LaunchConfig, RunConfig, StageConfig, TaskConfig
    from pipeline.run_dir import RunDir
    from stages.models.loading import hold_batch_norms, load_processor
    from stages.processes.work import Work
    from stages.training.grpo_trainer import PolicyTrainer
    from stages.training.setup import image_dataset, trainer_arguments

    stage = StageConfig(
        algorithm="grpo",
        init_from="base",
        rollouts="vllm",
        rollouts_ahead=arguments.ahead,
        trainer={
            "num_generations": arguments.generations,
            "max_completion_length": arguments.tokens,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "save_strategy": "no",
            **options,
        },
    )
    config = RunConfig(
        name="compared",
        output_dir=str(scratch),
        task=TaskConfig(name="scenes"),
        stages={"stage1_grpo": stage},
        launch=LaunchConfig(rollout_flags={"logprobs-mode": "raw_logprobs", **arguments.flags}),
    )
    work = Work(config, "stage1_grpo", RunDir(scratch, config.name))
    work.folder.mkdir(parents=True)
    trainer = PolicyTrainer(
        work,
        model=str(folder),
        reward_funcs=parity,
        args=GRPOConfig(**trainer_arguments(work, folder)),
        train_dataset=image_dataset(_rows(scratch, arguments.rows, arguments.image_size, arguments.pictures)),
        processing_class=load_processor(folder, config),
    )
    hold_batch_norms(trainer.model)
    return trainer, work


def scored_by_their_sampler(trainer: Any) -> list[float]:
    """Hold each rollout of a trainer that has a server, once it trains, against the weights that sampled it.

    Returns:
        Filled while it trains: the largest difference of a logprob at each rollout.
    """
    import torch

    from stages.models.loading import FIELDS

    differences: list[float] = []
    # By step.
    given: dict[int, dict[str, torch.Tensor]] = {}
    sync, rollout_of = trainer.server.sync, trainer._generate_and_score_completions

    def kept_sync() -> None:
        given[trainer.state.global_step] = {name: one.clone() for name, one in trainer.model.state_dict().items()}
        sync()

    @torch.no_grad()
    def compared(inputs: Any) -> Any:
        rollout = rollout_of(inputs)
        present = {name: one.clone() for name, one in trainer.model.state_dict().items()}
        trainer.model.load_state_dict(given[trainer.state.global_step - trainer.server.staleness])
        fields = {name: rollout[name] for name in (*FIELDS, "num_images", "num_tiles") if name in rollout}
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1),
            torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1),
            rollout["completion_ids"].size(1),
            **fields,
        )
        trainer.model.load_state_dict(present)
        apart = (logps - rollout["sampling_per_token_logps"]) * rollout["completion_mask"]
        differences.append(float(apart.abs().max()))
        return rollout

    trainer.server.sync, trainer._generate_and_score_completions = kept_sync, compared
    return differences


def parity(completions: list[Any], **_: Any) -> list[float]:
    """A reward that random models win half of the time, so that weights move."""
    return [float(len(completion[0]["content"]) % 2) for completion in completions]


def _rows(folder: Path, count: int, size: int, pictures: Sequence[int]) -> dict[str, list[Any]]:
    """A few rows with noisy images, which come again at every step: what a server keeps of them must not."""
    from PIL import Image

    from pipeline.data.conversations import user_turn

    chance = random.Random(0)
    paths: list[str] = []
    turns, images = [], []
    for number in range(count):
        own = pictures[number % len(pictures)]
        for _ in range(own):
            shape = (size, size // 2 if len(paths) % 2 else size)
            paths.append(str(folder / f"{len(paths)}.png"))
            Image.frombytes("RGB", shape, chance.randbytes(3 * shape[0] * shape[1])).save(paths[-1])
        images.append(paths[len(paths) - own :])
        compared = "".join(f" Look at <image {place}>." for place in range(2, own + 1))
        turns.append(user_turn(f"Which emotion does this picture evoke?{compared} Give reasons, then the answer.", own))
    return {"id": [str(number) for number in range(count)], "prompt": turns, "images": images}


def _sample(trainer: Any, inputs: list[dict[str, Any]], num_generations: int) -> tuple[Any, float]:
    """(completions' tokens, seconds) of whatever the trainer samples from; of one completion each, the greedy one."""
    from stages.rollouts.pending import prompts_of

    before = trainer.temperature, trainer.num_generations
    config = trainer.generation_config.to_dict()
    trainer.num_generations = num_generations
    if num_generations == 1:
        trainer.temperature = 0.0
        trainer.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    begun = time.monotonic()
    tokens = trainer.complete_prompts(prompts_of(inputs))["completion_ids"]
    seconds = time.monotonic() - begun
    trainer.temperature, trainer.num_generations = before
    trainer.generation_config.update(**config)
    return tokens, seconds


if __name__ == "__main__":
    sys.exit(main())
