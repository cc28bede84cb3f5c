"""Trains a tiny random model of every family through all four stages in one process and measures what tests and docs tell.

python tests/integration/family_runs.py FOLDER [VARIANT ...]

It calls what the entry points call in their workers, on pictures of two shapes, so that batches are mixed. A second, fresh
process loads every last checkpoint with plain transformers. FOLDER/<variant>.json holds the measurements; the table of
docs/families.md is printed at the end.
"""

# ruff: noqa: E402 - libraries are prepared between imports.
from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As a script it finds only the files beside it.
sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from pipeline.system.library_patches import prepare_libraries

# Before the first import of transformers, as in every process of the stages.
prepare_libraries()

import family_measures as measure
from PIL import Image
from small_runs import accept
from tiny_parts import save_language, save_tower

from pipeline.checks import run as checks
from pipeline.config.loader import load
from pipeline.config.special_tokens import TAGS
from pipeline.data.load import load_task
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import parent_of, start_record
from stages import grpo, sft
from stages.checkpoints import base_model
from stages.processes.work import Work
from stages.training import setup

QUICK = [
    "task.options={seed: 0, train: 24, val: 8, test: 8, size: 64}",
    "stages.stage1.trainer={max_steps: 4, per_device_train_batch_size: 4, learning_rate: 2.0e-3, save_strategy: 'no'}",
    *(
        f"stages.stage{number}.trainer.{key}={value}"
        for number in (2, 3, 4)
        for key, value in {
            "max_steps": 2,
            "save_steps": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_completion_length": 8,
            "learning_rate": 1e-3,
        }.items()
    ),
    "stages.stage4.trainer.num_iterations=2",
]
"""What makes small.yaml smaller still; a rollout is two prompts of four completions, trained in two halves."""
TILES = "model.processor={do_image_splitting: true, size: {longest_edge: 128}}"


def in_bfloat16(folder: Path) -> None:
    """Store the weights as most checkpoints do."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))


def pad_with_eos(folder: Path) -> None:
    """Name the end token as padding, as checkpoints without a padding token of their own do."""
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    path.write_text(json.dumps({**tokenizer, "pad_token": tokenizer["eos_token"]}))
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text())
    path.write_text(json.dumps({**generation, "pad_token_id": generation["eos_token_id"]}))


def open_thought(folder: Path) -> None:
    """Open the thought in the generation prompt, and take it out of answered turns, as thinking models' templates do."""
    path = folder / "chat_template.jinja"
    text = "content.text"
    template = path.read_text().replace(
        text, f"({text}.split('</think>')[-1].strip() if message.role == 'assistant' else {text})"
    )
    path.write_text(template + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}")


def make_tags_special(folder: Path) -> None:
    """Make the grammar's tags special tokens, with embeddings of their own."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_special_tokens(
        {"additional_special_tokens": list(TAGS)}, replace_extra_special_tokens=False
    )
    processor.save_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(folder)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A family as it is trained here."""

    family: str
    settings: tuple[str, ...] = ()
    quirk: Callable[[Path], None] | None = None
    """What is done to the base checkpoint, to make it like real ones."""
    parts: tuple[str, str] | None = None
    """Tower and language model that it is composed of, of tests/tiny_parts.py."""


VARIANTS = {
    "idefics3": Variant("idefics3"),
    "idefics3_tiled": Variant("idefics3", (TILES,)),
    "smolvlm": Variant("smolvlm", (TILES,)),
    "qwen2_vl": Variant("qwen2_vl"),
    "qwen2_5_vl": Variant("qwen2_5_vl"),
    # With seed 0 all four completions of a group earn the same.
    "qwen3_vl": Variant("qwen3_vl", ("seed=2",)),
    "qwen3_vl_thinking": Variant("qwen3_vl", quirk=open_thought),
    "idefics3_special_tags": Variant("idefics3", quirk=make_tags_special),
    "internvl": Variant("internvl", quirk=in_bfloat16),
    "llava": Variant("llava", quirk=pad_with_eos),
    "fast_vlm": Variant("fast_vlm"),
    "composed_llava": Variant("llava", parts=("dinov2_with_registers", "qwen3")),
    "composed_fast_vlm": Variant("fast_vlm", parts=("mobilenet_v2", "llama")),
}


def widen_every_second_picture(root: Path) -> None:
    """Make half the drawn pictures twice as wide as high."""
    for path in sorted(root.rglob("*.jpg"))[1::2]:
        with Image.open(path) as picture:
            picture.resize((2 * picture.width, picture.height)).save(path, quality=92)


def run(folder: Path, name: str) -> dict[str, Any]:
    """Train one variant through base and four stages; its measurements."""
    variant = VARIANTS[name]
    words = [f"output_dir={folder}", f"name={name}", f"model.tiny.family={variant.family}", *QUICK, *variant.settings]
    if variant.parts:
        words.append(
            f"model.compose={{vision: {folder / 'parts' / variant.parts[0]}, language: {folder / 'parts' / variant.parts[1]}}}"
        )
        save_tower(variant.parts[0], folder / "parts" / variant.parts[0])
        save_language(variant.parts[1], folder / "parts" / variant.parts[1])
    config = load(Path(__file__).with_name("small.yaml"), words)
    checks.check(config)
    directory = RunDir(config.output_dir, config.name)
    first = not directory.cache.exists()
    task = load_task(config.task, directory.cache)
    if first:
        # Drawn when it is first read.
        task.select("train")
        widen_every_second_picture(directory.cache)
    rows = task.select("train").rows
    mixed = [rows[0], rows[1], rows[3], rows[2]]
    build_cot(words)
    base_model.make_base_model(Work(config, BASE, directory))
    if variant.quirk:
        variant.quirk(directory.final(BASE))
    measured: dict[str, Any] = {"prompts": [], "stages": {}}
    for stage in config.stages:
        began = time.process_time()
        trainer = train(Work(config, stage, directory))
        accept(Work(config, stage, directory))
        moved = measure.parts_moved(directory.final(parent_of(config, stage) or BASE), directory.final(stage))
        measured["stages"][stage] = {"moved": moved, "cpu_seconds": round(time.process_time() - began, 1)}
        if stage == "stage1_sft":
            measured["prompts"].append(measure.sft_prompt(trainer, rows[0]))
        else:
            difference, prompt = measure.rollout(trainer, [row for row in mixed[:2] for _ in range(4)], task)
            measured["stages"][stage]["logprob_difference"] = difference
            measured["prompts"].append(prompt)
    answered = measure.answers(config, directory.final(stage), task.prompt(rows[0], "think"), mixed, trainer.model)
    measured["prompts"].append(answered.pop("prompt"))
    return {**measured, **answered, **measure.files(directory, stage)}


def build_cot(words: list[str]) -> None:
    """Build the CoT rows with the offline teacher."""
    from cot_builder.__main__ import main

    assert main(["build", "--config", str(Path(__file__).with_name("small.yaml")), *words]) == 0


def train(work: Work) -> Any:
    """Run a stage as its worker does; its trainer."""
    trainers = []
    original = setup.train

    def keep(trainer: Any, *rest: Any) -> bool:
        trainers.append(trainer)
        return original(trainer, *rest)

    work.folder.mkdir(parents=True, exist_ok=True)
    work.run.record_path(work.name).write_text(json.dumps(start_record(work.config, work.run, work.name), default=str))
    setup.train = keep
    try:
        {"sft": sft, "grpo": grpo}[work.stage.algorithm].train(work)
    finally:
        setup.train = original
    return trainers[0]


def table(folder: Path, names: list[str]) -> str:
    """The measurements as rows of docs/families.md."""
    lines = ["| tested as | model | tensors moved by stages 1 to 4 | reload | generation | log-probabilities |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in names:
        measured = json.loads((folder / f"{name}.json").read_text())
        if "error" in measured:
            lines.append(f"| {name} | | failed: {measured['error'].splitlines()[-1]} | | | |")
            continue
        fresh = measured["reloaded"]
        worst = max(stage.get("logprob_difference", 0) for stage in measured["stages"].values())
        moved = ", ".join(str(sum(n for n, _ in stage["moved"].values())) for stage in measured["stages"].values())
        total = sum(n for _, n in measured["stages"]["stage1_sft"]["moved"].values())
        lines.append(
            f"| {name} | {fresh['model']} | {moved} of {total} | {fresh['logit_difference']:.0e} | "
            f"{'equal' if fresh['generation_equal'] and measured['evaluation_equal'] else 'differs'} | {worst:.0e} |"
        )
    return "\n".join(lines)


def main(folder: Path, names: list[str]) -> None:
    """Run the variants; an error of one is kept in its file and ends none of the others."""
    for name in names:
        began = time.process_time()
        try:
            measured = run(folder, name)
        except Exception:
            measured = {"error": traceback.format_exc()}
        measured["cpu_seconds"] = round(time.process_time() - began, 1)
        (folder / f"{name}.json").write_text(json.dumps(measured, indent=1))
    subprocess.run([sys.executable, __file__, str(folder), RELOAD, *names], check=True)
    print(table(folder, names))


RELOAD = "--reload"
"""What tells the fresh process to load what was handed over."""


def reload_all(folder: Path, names: list[str]) -> None:
    """Add to each variant's measurements what plain transformers makes of its last checkpoint."""
    for name in names:
        path = folder / f"{name}.json"
        measured = json.loads(path.read_text())
        if "error" not in measured:
            try:
                measured["reloaded"] = measure.reloaded(RunDir(folder, name).final("stage4_clgrpo"))
            except Exception:
                measured["error"] = traceback.format_exc()
            path.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    where, words = Path(sys.argv[1]), sys.argv[2:]
    where.mkdir(parents=True, exist_ok=True)
    if words[:1] == [RELOAD]:
        reload_all(where, words[1:])
    else:
        main(where, words or list(VARIANTS))
