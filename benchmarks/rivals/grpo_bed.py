"""What the contestants of benchmarks.grpo_rivals share: one random Qwen2.5-VL, the same rows, the same trainer options.

The model never samples a special token (`suppress_tokens`), so no completion ends early and all are exactly as long as asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.config.schema import TaskConfig, TinyConfig
from pipeline.run_dir import RunDir

REWARD = "benchmarks.rivals.grpo_probe.share_of_vowels"
SIDE = 224
"""Pixels a side: 64 image tokens of 28 pixels, scaled by nobody."""
ROWS = 64
QUESTION = "Which emotion does this scene evoke?"
FILLER = ("light", "scene", "face", "person", "things")
_COMMON: dict[str, Any] = {
    "family": "qwen2_5_vl",
    "image_size": SIDE,
    "patch_size": 14,
    "scale_factor": 2,
    "vocab_size": 640,
    "max_positions": 4096,
}
SIZES = {
    "2M": TinyConfig(**_COMMON),
    "47M": TinyConfig(
        **_COMMON, vision_hidden_size=256, vision_layers=6, hidden_size=512, layers=12, intermediate_size=1408
    ),
}
WINDOW = 112
"""Pixels a side of a window of the vision model, as the published models have it."""


class Point(NamedTuple):
    """G completions of one prompt in a step, at least P tokens of prompt with its image, C tokens in each completion."""

    generations: int
    prompt: int
    completion: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """A point as it is written: ``8,350,32``.

        Raises:
            ValueError: when it is not three whole numbers, the first at least 2 and the others at least 1.
        """
        numbers = [int(word) if word.isdecimal() else 0 for word in text.split(",")]
        if len(numbers) != 3 or numbers[0] < 2 or min(numbers) < 1:
            raise ValueError(
                f"{text}: expected G,P,C, whole numbers, such as 8,350,32; a group has 2 completions or more"
            )
        return cls(*numbers)

    def text(self) -> str:
        """As `parse` reads it."""
        return ",".join(map(str, self))


@dataclass(frozen=True)
class Job:
    """What one point is measured with: a folder with model, rows and `job.json`, which every contestant reads."""

    folder: Path
    point: Point

    @property
    def file(self) -> Path:
        return self.folder / "job.json"


def options(point: Point) -> dict[str, Any]:
    """Fields of GRPOConfig that mean the same in every contestant, whatever each has for a default."""
    return {
        # The probe ends it.
        "max_steps": 100_000,
        "per_device_train_batch_size": point.generations,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_generations": point.generations,
        "num_iterations": 1,
        "max_completion_length": point.completion,
        "temperature": 1.0,
        "beta": 0.0,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "learning_rate": 1.0e-5,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "gradient_checkpointing": False,
    }


def question(count: Any, least: int) -> str:
    """The question with as many further words as its prompt needs to have `least` tokens.

    Args:
        count: gives the tokens of the whole prompt of a question.
        least: tokens.
    """
    asked, number = QUESTION, 0
    while count(asked) < least:
        asked = f"{asked} {FILLER[number % len(FILLER)]}"
        number += 1
    return asked


def prepare(folder: Path, point: Point, size: str) -> Job:
    """Draw the rows, make the model and write `job.json`."""
    from pipeline.data.conversations import grpo_columns, tokenizer_texts
    from pipeline.data.load import load_task
    from stages.models.tiny import build_tiny

    job = Job(folder, point)
    cache = RunDir(folder / "runs", "rivals").cache
    wanted: dict[str, Any] = {"name": "scenes", "options": {"size": SIDE, "train": ROWS, "val": 1, "test": 1}}
    task = load_task(TaskConfig(**wanted), cache)
    build_tiny(folder / "model", SIZES[size], tokenizer_texts(task, task.stand_ins("train"), None), seed=0)
    forbidden = _never_ending(folder / "model")
    prompt = task.prompt(task.stand_ins("train")[0], "think")
    wanted["question"] = question(_counter(folder / "model", prompt), point.prompt)
    task = load_task(TaskConfig(**wanted), cache)
    columns = grpo_columns(task, task.select("train").rows, "think")
    (folder / "rows.jsonl").write_text("".join(map(_line, columns["prompt"], columns["images"])))
    trainer = {**options(point), "generation_kwargs": {"suppress_tokens": forbidden}}
    (folder / "run.yaml").write_text(yaml.safe_dump(_run(folder, wanted, trainer)))
    job.file.write_text(json.dumps({"folder": str(folder), "trainer": options(point)}, indent=1))
    return job


def _never_ending(model: Path) -> list[int]:
    """Plain sampling without special tokens, and the vision windows of the published models; gives the forbidden tokens."""
    from transformers import AutoTokenizer

    forbidden = sorted(AutoTokenizer.from_pretrained(model).added_tokens_decoder)
    file = model / "generation_config.json"
    ends = {name: value for name, value in json.loads(file.read_text()).items() if name.endswith("token_id")}
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "suppress_tokens": forbidden}
    file.write_text(json.dumps({**plain, **ends}, indent=1))
    config = json.loads((model / "config.json").read_text())
    config["vision_config"]["window_size"] = WINDOW
    (model / "config.json").write_text(json.dumps(config, indent=1))
    return forbidden


def _counter(model: Path, prompt: str) -> Any:
    """A function that counts the tokens of the prompt that asks a question, with chat template and image."""
    from transformers import AutoTokenizer

    from pipeline.data.conversations import user_turn

    tokenizer = AutoTokenizer.from_pretrained(model)
    image_tokens = (SIDE // 28) ** 2

    def count(asked: str) -> int:
        turn = user_turn(prompt.replace(QUESTION, asked))
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return len(tokenizer(text)["input_ids"]) - 1 + image_tokens

    return count


def _line(turn: list[dict[str, Any]], images: list[str]) -> str:
    """A row as ms-swift reads it, the image before the text as in ours."""
    text = "".join(part["text"] for part in turn[0]["content"] if part["type"] == "text")
    return json.dumps({"messages": [{"role": "user", "content": f"<image>{text}"}], "images": images}) + "\n"


def _run(folder: Path, task: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    """The file of a run with one GRPO stage."""
    stage = {
        "algorithm": "grpo",
        "init_from": "base",
        "split": "train",
        "reward_funcs": [REWARD],
        "trainer": {**trainer, "save_steps": trainer["max_steps"]},
    }
    return {
        "name": "rivals",
        "output_dir": str(folder / "runs"),
        "task": task,
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "stages": {"stage1_grpo": stage},
    }
