"""What sft.py and grpo.py share inside a worker: the trainer's arguments, its model, callbacks, and the hand-over."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import checks
from pipeline.compat import declare_torchvision_ops
from pipeline.errors import UserError
from pipeline.handoff import parent_checkpoint
from pipeline.images import open_rgb
from pipeline.response import GRAMMAR_VERSION
from pipeline.run import read_jsonl, weights_digest, write_atomic, write_json
from pipeline.tasks import Task, load_task
from stages._launch import Work, say

declare_torchvision_ops()

import torch  # noqa: E402
from transformers import AutoProcessor, TrainerCallback  # noqa: E402
from transformers.trainer_callback import PrinterCallback, ProgressCallback  # noqa: E402

if TYPE_CHECKING:
    from datasets import Dataset

COMPLETE = "complete"
"""The file that marks a checkpoint folder as whole; one without it was torn by a crash."""
PART_PREFIXES = {
    "vision": ("vision_model", "vision_tower", "visual"),
    "connector": ("connector", "multi_modal_projector", "visual.merger", "visual.deepstack_merger_list"),
    "language": ("text_model", "language_model", "lm_head"),
}
"""Module names of the parts of a VLM across the model families of transformers."""


def use_cpu() -> bool:
    """Whether stages run on the CPU of this machine."""
    return not torch.cuda.is_available()


def compute_dtype(config: Any) -> str:
    """bfloat16 or float32, as model.dtype resolves on this machine. Weights are float32 masters either way."""
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if not use_cpu() and torch.cuda.is_bf16_supported() else "float32"


def start(work: Work) -> tuple[Path, Any, Task]:
    """What a training worker begins with: (parent checkpoint, processor, task)."""
    if work.config.launch.deepspeed and use_cpu():
        import deepspeed

        deepspeed.init_distributed("gloo")  # Before the trainer's config: ZeRO-3 partitions weights while loading them.
    _, parent = parent_checkpoint(work.config, work.run, work.name, verify=False)
    processor = load_processor(parent, work.config)
    return parent, processor, load_task(work.config.task, work.run.cache)


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of a checkpoint, with the run's `model.processor` arguments."""
    return AutoProcessor.from_pretrained(
        folder, trust_remote_code=config.model.trust_remote_code, **config.model.processor
    )


def image_dataset(columns: dict[str, list[Any]]) -> Dataset:
    """Columns with image paths as a dataset that opens each image when its row is read; bytes stay on disk.

    Images are decoded by `open_rgb`, as the teachers' and the evaluation's are, so that all see the same picture.
    """
    from datasets import Dataset

    def opened(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**batch, "image": [open_rgb(Path(path)) for path in batch["image"]]} if "image" in batch else batch

    return Dataset.from_dict(columns).with_transform(opened)


def trainer_arguments(work: Work) -> dict[str, Any]:
    """The stage's `trainer:` block with what CLGRPO decides: folders, seed, device, precision, DeepSpeed, logging."""
    config = work.config
    deepspeed = checks.deepspeed_file(config)
    cycle = checks.checkpoint_cycle(work.stage)
    defaults: dict[str, Any] = {
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": cycle * max(1, 100 // cycle),
        "save_total_limit": 2,
    }
    if work.stage.algorithm == "sft":
        defaults["max_length"] = None  # Truncation would cut image tokens.
    owned = {
        "output_dir": str(work.folder),
        "seed": config.seed,
        "use_cpu": use_cpu(),
        "bf16": compute_dtype(config) == "bfloat16",
        "disable_tqdm": True,
        "deepspeed": str(deepspeed) if deepspeed else None,
        "model_init_kwargs": {
            "dtype": "float32",
            "attn_implementation": config.model.attn_implementation,
            "trust_remote_code": config.model.trust_remote_code,
        },
    }
    if use_cpu() and "WORLD_SIZE" in os.environ:
        owned["ddp_backend"] = "gloo"
    return {**defaults, **work.stage.trainer, **owned}


def lora_config(work: Work) -> Any:
    """peft.LoraConfig of `model.peft`, or None when all weights train."""
    if work.config.model.peft is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**work.config.model.peft)


def freeze(model: torch.nn.Module, parts: list[str]) -> None:
    """Hold the named parts fixed.

    Raises:
        UserError: when a part has no parameter in this model, or nothing is left to train.
    """
    for part in parts:
        found = [parameter for name, parameter in model.named_parameters() if part_of(name) == part]
        if not found:
            raise UserError(
                f"freeze: this model has no part named {part} (looked for {', '.join(PART_PREFIXES[part])})"
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: {parts} leaves nothing to train")


def part_of(name: str) -> str | None:
    """The part of a VLM a parameter belongs to, by its name; the longest prefix decides, so visual.merger is a connector."""
    found = {prefix: part for part, names in PART_PREFIXES.items() for prefix in names if f".{prefix}." in f".{name}"}
    return found[max(found, key=len)] if found else None


class Journal(TrainerCallback):
    """Keeps metrics.jsonl, marks whole checkpoints, and shows one line a logging step.

    On resume the rows after the checkpoint are dropped, so a step is never in the file twice.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.path = work.folder / "metrics.jsonl"
        self.before = 0.0
        self.started = time.monotonic()
        self.shown = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            rows = [row for row in read_jsonl(self.path) if row["step"] <= state.global_step]
            self.before = rows[-1]["seconds"] if rows else 0.0
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self.started = time.monotonic()
        if state.global_step >= state.max_steps:
            raise NothingLeft

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        seconds = self.before + time.monotonic() - self.started
        row = {
            "step": state.global_step,
            "seconds": round(seconds, 3),
            **{key: _number(value) for key, value in logs.items()},
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if time.monotonic() - self.shown > 5 or state.global_step == state.max_steps:
            self.shown = time.monotonic()
            wanted = ("loss", "reward", "rewards/format_reward/mean", "rewards/accuracy_reward/mean")
            shown = [
                f"{key.split('/')[-2] if '/' in key else key} {row[key]:.3f}"
                for key in wanted
                if isinstance(row.get(key), float)
            ]
            say(f"  {self.work.name} step {state.global_step}/{state.max_steps} {seconds:.0f}s  {'  '.join(shown)}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # Every rank has written its part.
        if state.is_world_process_zero:
            write_atomic(self.work.folder / f"checkpoint-{state.global_step}" / COMPLETE, f"{state.global_step}\n")


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def add_journal(trainer: Any, work: Work) -> None:
    """Replace the trainer's own console output by `Journal`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Journal(work))


class NothingLeft(Exception):
    """Ends trainer.train() when the weights are loaded and before its first step: every step had been taken."""


def train(trainer: Any, work: Work) -> None:
    """Train from the last whole checkpoint, or from the parent when there is none.

    A stage killed while it handed over resumes from the checkpoint of its last step, after which transformers would take one
    step more; `Journal` ends it before that.
    """
    with contextlib.suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=last_checkpoint(work.folder))


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a stage, or None. Torn ones are left aside."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def hand_over(trainer: Any, work: Work, parent: Path, **facts: Any) -> None:
    """Write final/ as a plain Hugging Face folder, then stage.json, whose status `complete` is the hand-over.

    Args:
        trainer: after training.
        work: the stage.
        parent: the checkpoint it started from, whose processor is handed on unchanged.
        facts: more entries of the record.
    """
    final = work.run.final(work.name)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if work.config.model.peft is not None:
        if trainer.accelerator.is_main_process:
            model.merge_and_unload().save_pretrained(final)
    else:
        weights = master_weights(model) if work.config.launch.deepspeed else None
        if trainer.accelerator.is_main_process:
            model.save_pretrained(final, state_dict=weights)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        load_processor(parent, work.config).save_pretrained(final)
        (work.folder / "README.md").unlink(missing_ok=True)  # TRL's card of its own; ours lies in final/.
        (final / "training_args.bin").unlink(missing_ok=True)  # A pickle; stage.json holds the same, readable.
        rows = list(read_jsonl(work.folder / "metrics.jsonl"))
        record = {
            **(work.run.record(work.name) or {}),
            "status": "complete",
            "checkpoint": "final",
            "weights": weights_digest(final),
            "grammar_version": GRAMMAR_VERSION,
            "steps": trainer.state.global_step,
            "seconds": rows[-1]["seconds"] if rows else 0.0,
            "metrics": _last_values(rows),
            "clip": clip_report(work, rows),
            "trainer": {key: value for key, value in trainer.args.to_dict().items() if _is_plain(value)},
            **facts,
        }
        write_atomic(final / "README.md", model_card(record))
        write_json(work.run.record_path(work.name), record)
    trainer.accelerator.wait_for_everyone()


def master_weights(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """The float32 weights behind a model that DeepSpeed trains, on the CPU of rank 0; None on the other ranks.

    Called on all ranks. Under bf16 the module itself holds rounded copies, in which most of a short stage at a learning rate of
    1e-6 would be lost; under ZeRO-3 it holds parts.
    """
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    main = torch.distributed.get_rank() == 0
    weights = {}
    for name, parameter in model.named_parameters():  # Tied weights come once, as a checkpoint has them.
        full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        with zero.GatheredParameters([parameter], enabled=full is None and hasattr(parameter, "ds_id")):
            if main:
                weights[name] = (parameter if full is None else full).detach().float().cpu().clone()
    kept = model.state_dict().keys()  # A buffer that is not in it is not part of a checkpoint.
    weights |= {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in kept}
    return weights if main else None


def _last_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last number logged under each key (reuse steps log no rewards, so the last row alone is not enough)."""
    values: dict[str, float] = {}
    for row in rows:
        values |= {key: value for key, value in row.items() if isinstance(value, float) and math.isfinite(value)}
    return values


def clip_report(work: Work, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean clip fractions over the stage, and whether it is void: asked to clip, but nothing was ever clipped."""
    asked = checks.clip_range(work.stage)
    means = {}
    for side in ("low", "high"):
        values = [row[f"clip_ratio/{side}_mean"] for row in rows if f"clip_ratio/{side}_mean" in row]
        means[side] = sum(values) / len(values) if values else 0.0
    if asked is None:
        return None
    void = means["low"] == 0 and means["high"] == 0
    return {**means, "epsilon": asked[0], "epsilon_high": asked[1], "clips": not void, "void": void}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def model_card(record: dict[str, Any]) -> str:
    """A short model card for final/."""
    rewards = ", ".join(record["reward_funcs"]) or "none"
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\ntags: [clgrpo, {record['algorithm']}]\n---\n\n"
        f"# {record['phase']}\n\nTrained by CLGRPO with {record['algorithm']} from {record['init_from']} "
        f"({record['steps']} steps, rewards: {rewards}, seed {record['seed']}). The evaluation is in ../report/ and the full\n"
        "record in ../stage.json. Answers follow `<think>…</think>` `<answer>…</answer>`.\n"
    )


def leave() -> None:
    """End a worker of several at once, after every rank has come here and output is flushed.

    Two-process ZeRO-3 runs abort in the interpreter's teardown now and then ("terminate called without an active
    exception"), after all work is saved; leaving without that teardown is the cure.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Answerer:
    """A checkpoint that answers prompts about images with transformers' generate.

    Args:
        folder: the checkpoint.
        config: the run's configuration.
        local_rank: the GPU to use, where there is one.
    """

    def __init__(self, folder: Path, config: Any, local_rank: int) -> None:
        from transformers import AutoModelForImageTextToText

        self.processor = load_processor(folder, config)
        self.processor.tokenizer.padding_side = "left"
        self.device = torch.device("cpu")
        if not use_cpu():
            self.device = torch.device("cuda", local_rank)
            torch.cuda.set_device(self.device)  # Else every process would open a context on the first GPU too.
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, compute_dtype(config)),
            attn_implementation=config.model.attn_implementation,
            trust_remote_code=config.model.trust_remote_code,
        )
        self.model.to(self.device).eval()
        self.image_token = getattr(self.model.config, "image_token_id", None)

    @torch.inference_mode()
    def __call__(
        self, prompt: str, examples: Any, max_new_tokens: int, sample: bool, seed: int
    ) -> list[tuple[str, int]]:
        """(text, number of tokens) per example; at temperature 1 without any truncation of the distribution when sampling."""
        from pipeline.rows import user_turn

        text = self.processor.apply_chat_template(user_turn(prompt), add_generation_prompt=True)
        images = [[open_rgb(example.image)] for example in examples]
        inputs = self.processor(
            text=[text] * len(images), images=images, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.device, dtype=self.model.dtype)  # Only the pixels are floats.
        torch.manual_seed(seed % 2**63)
        how: dict[str, Any] = {"do_sample": False}
        if sample:
            how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        if self.image_token is not None:
            how["suppress_tokens"] = [self.image_token]  # A model near random would write it.
        tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **how)[:, inputs["input_ids"].shape[1] :]
        tokenizer = self.processor.tokenizer
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        lengths = (tokens != tokenizer.pad_token_id).sum(dim=1).tolist()
        return list(zip(texts, lengths, strict=True))
