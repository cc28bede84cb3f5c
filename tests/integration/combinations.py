"""The combinations of DeepSpeed, adapters, fixed parts and precision that are offered, and a driver that trains them all.

    python -m torch.distributed.run --standalone --nproc_per_node=2 tests/integration/combinations.py FOLDER [NAME …]

One launch of two processes runs them in turn: each is the stage files' own `train`, its engine torn down before the next. Rank 0
then loads every final/ with plain transformers and writes what it finds to FOLDER/found.json.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "combinations.yaml"
SFT, GRPO = "stage1_sft", "stage2_grpo"
LANGUAGE = r".*text_model.*\.(q|v|down)_proj"
EVERYWHERE = r".*(text_model|vision_model).*\.(q_proj|v_proj|fc1|down_proj)|.*modality_projection\.proj"


def peft(target: str = LANGUAGE, **fields: Any) -> str:
    return f"model.peft={json.dumps({'target_modules': target, **fields})}"


NORMS = r".*text_model.*layernorm"
LORA = peft(r=4, lora_alpha=8)
LORA_EVERYWHERE = peft(EVERYWHERE, r=4, lora_alpha=8)
WEIGHTS = "model.safetensors"
TYPES = {
    "dora": peft(r=4, lora_alpha=8, use_dora=True),
    "rslora": peft(r=4, lora_alpha=8, use_rslora=True, init_lora_weights="gaussian"),
    "saved": peft(r=4, modules_to_save=["modality_projection"]),
    "biased": peft(EVERYWHERE, r=4, bias="all"),
    "loha": peft(peft_type="LOHA", r=4, alpha=4),
    "lokr": peft(peft_type="LOKR", r=4, alpha=4),
    "oft": peft(peft_type="OFT", oft_block_size=16),
    "boft": peft(peft_type="BOFT", boft_block_size=8),
    "hra": peft(peft_type="HRA", r=4),
    "ia3": peft(peft_type="IA3", feedforward_modules=r".*text_model.*\.down_proj"),
    "vera": peft(peft_type="VERA", r=8),
    "randlora": peft(peft_type="RANDLORA", r=4),
    "miss": peft(peft_type="MISS", r=4),
    "ln_tuning": peft(NORMS, peft_type="LN_TUNING"),
}
SOFT_PROMPT = 5
"""Tokens of a soft prompt."""
PROMPT = f"model.peft={{peft_type: PROMPT_TUNING, num_virtual_tokens: {SOFT_PROMPT}}}"
ZERO = ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
LEVELS = (None, *ZERO)


def _table() -> dict[str, tuple[str, list[str]]]:
    """Name: (stage, settings)."""
    table: dict[str, tuple[str, list[str]]] = {}

    def add(name: str, level: str | None, *settings: str, stage: str = SFT) -> None:
        zero = [f"launch.deepspeed={level}"] if level else []
        table[f"{name}-{level or 'plain'}"] = (stage, [*settings, *zero])

    for level in LEVELS:
        add("full", level)
        add("lora", level, LORA)
        add("lora_everywhere", level, LORA_EVERYWHERE)
        add("frozen_vision", level, f"stages.{SFT}.freeze=[vision]")
        add("frozen_language", level, f"stages.{SFT}.freeze=[language, connector]")
        add("lora_frozen_vision", level, LORA_EVERYWHERE, f"stages.{SFT}.freeze=[vision]")
        add("full_bf16", level, "model.dtype=bfloat16")
        add("lora_bf16", level, LORA, "model.dtype=bfloat16")
        add("full_grpo", level, stage=GRPO)
        add("lora_grpo", level, LORA, stage=GRPO)
        rates = (f"stages.{SFT}.learning_rates={{vision: 1e-4, connector: 1e-3}}", f"stages.{SFT}.trainer.max_steps=3")
        add("rates", level, *rates)
        halfway = f"stages.{SFT}.trainer={{save_strategy: steps, save_steps: 2}}"
        add("lora_rates", level, LORA_EVERYWHERE, *rates, halfway)
        add("qlora_4bit", level, LORA, "model.quantization=4bit")
        add("qlora_4bit_bf16", level, LORA, "model.quantization=4bit", "model.dtype=bfloat16")
        add("qlora_8bit", level, LORA, "model.quantization=8bit")
        add("qlora_4bit_grpo", level, LORA, "model.quantization=4bit", stage=GRPO)
    # Without DeepSpeed its rollouts have weights of their own.
    add("full_bf16_grpo", None, "model.dtype=bfloat16", stage=GRPO)
    # A reference is asked, after which peft would train the vision tower's adapters too.
    held = (f"stages.{GRPO}.freeze=[vision]", f"stages.{GRPO}.trainer.beta=0.1")
    add("lora_frozen_vision_grpo", None, LORA_EVERYWHERE, *held, stage=GRPO)
    for name, setting in TYPES.items():
        add(name, None, setting)
        add(name, "zero2", setting)
        # pipeline.checks refuses these.
        if name not in ("loha", "ln_tuning"):
            add(name, "zero3", setting)
    # pipeline.checks refuses ZeRO-3.
    for level in (None, "zero1", "zero2", "zero2_offload"):
        add("prompt", level, PROMPT, f"stages.{SFT}.trainer.max_steps=3", halfway)
        add("prompt_bf16", level, PROMPT, "model.dtype=bfloat16")
        add("prompt_grpo", level, PROMPT, stage=GRPO)
    longer, apart = (
        f"stages.{GRPO}.trainer={{max_steps: 20, learning_rate: 1.0e-3, beta: 0.1}}",
        f"stages.{GRPO}.shared_prefix=false",
    )
    for level in LEVELS:
        add("shared_grpo", level, longer, stage=GRPO)
    add("unshared_grpo", None, longer, apart, stage=GRPO)
    accumulated = f"stages.{GRPO}.trainer.gradient_accumulation_steps=2"
    add("shared_grpo_accumulated", None, longer, accumulated, stage=GRPO)
    add("unshared_grpo_accumulated", None, longer, accumulated, apart, stage=GRPO)
    return table


TABLE = _table()
COMBINATIONS = {name: how for name, how in TABLE.items() if "shared_grpo" not in name}
"""What docs/combinations.md tells of; the others are trained with shared prompts and without."""
SHARED = {
    **{f"shared_grpo-{level or 'plain'}": "unshared_grpo-plain" for level in LEVELS},
    "shared_grpo_accumulated-plain": "unshared_grpo_accumulated-plain",
}
"""What is trained with shared prompts, and what ends where TRL ends."""
RESUMED = (*(f"lora_rates-{level or 'plain'}" for level in LEVELS), "prompt-plain", "prompt-zero2")
"""Combinations that are trained a second time from a checkpoint halfway."""


def main(folder: Path, names: list[str]) -> None:
    """Train the named combinations, or all, and write what was found."""
    import torch

    from pipeline.checks import run
    from pipeline.config.loader import load
    from pipeline.files import read_jsonl, write_json
    from pipeline.run_dir import BASE, RunDir
    from pipeline.runs.phases import start_record
    from stages import grpo, sft
    from stages.checkpoints import base_model, export, handover
    from stages.processes.work import Work
    from stages.rollouts import weight_sync
    from stages.training import setup

    torch.distributed.init_process_group("gloo")
    first = torch.distributed.get_rank() == 0
    shared = RunDir(folder, "base")
    if first:
        shared.phase(BASE).mkdir(parents=True, exist_ok=True)
        base_model.make_base_model(Work(load(CONFIG, [f"output_dir={folder}", "name=base"]), BASE, shared))
    torch.distributed.barrier()
    hand_over, kept = handover.hand_over, {}

    def keep_and_hand_over(trainer: Any, work: Any, start: Path, *rest: Any, **facts: Any) -> None:
        kept["trainer"], kept["start"] = trainer, start
        kept["logits"] = answer(trainer.accelerator.unwrap_model(trainer.model), start)
        kept["served"] = weight_sync.served_weights(
            trainer.accelerator.unwrap_model(trainer.model), torch.float32, keep=first
        )
        masters = export.trained_tensors(trainer.accelerator.unwrap_model(trainer.model), first)
        between = [float((tensor != tensor.bfloat16().float()).float().mean()) for tensor in masters.values()]
        kept["between"] = sum(between) / max(1, len(between))
        hand_over(trainer, work, start, *rest, **facts)

    handover.hand_over = keep_and_hand_over
    setup.exit_worker = lambda: None
    found: dict[str, dict[str, Any]] = {}
    for name in names or COMBINATIONS:
        stage, settings = TABLE[name]
        started = time.monotonic()
        try:
            config = load(CONFIG, [*settings, f"output_dir={folder}", f"name={name}"])
            run.check(config)
            work = Work(config, stage, RunDir(folder, name), look=partial(keep_start, kept))
            if first:
                shutil.copytree(shared.phase(BASE), work.run.phase(BASE), dirs_exist_ok=True)
                write_json(work.run.record_path(stage), start_record(config, work.run, stage))
            torch.distributed.barrier()
            (grpo if stage == GRPO else sft).train(work)
            tear_down(kept["trainer"])
            final, undisturbed = work.run.final(stage), work.folder / "undisturbed"
            if name in RESUMED:
                if first:
                    final.rename(undisturbed)
                    shutil.rmtree(work.folder / "checkpoint-3")
                torch.distributed.barrier()
                sft.train(work)
                tear_down(kept["trainer"])
            plain = RunDir(folder, f"{name.partition('-')[0]}-plain").final(stage)
            found[name] = look(kept["start"], final, kept["logits"], plain, undisturbed) if first else {}
            found[name]["masters_between_bf16"] = kept["between"]
            found[name]["start"] = begun_apart(kept["start"], kept["masters"]) if first else None
            found[name]["served"] = distance(final, kept["served"]) if first and "qlora" not in name else None
            found[name]["largest"] = max(float(one.abs().max()) for one in kept["served"].values()) if first else None
            found[name]["rows"] = list(read_jsonl(work.folder / "metrics.jsonl"))
        except Exception as error:
            # Told by the test of this combination; both ranks come here together.
            tear_down(None)
            found[name] = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
        kept.clear()
        gc.collect()
        torch.distributed.barrier()
        if first:
            print(f"{name}: {time.monotonic() - started:.1f}s {found[name].get('error', '')}", flush=True)
            (folder / "found.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def keep_start(kept: dict[str, Any], trainer: Any) -> None:
    """Keep the masters that a training begins with."""
    from transformers import TrainerCallback

    from stages.checkpoints import export

    class Keep(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            # Of a stage that goes on they are the checkpoint's.
            if state.global_step == 0:
                kept["masters"] = export.trained_tensors(model, trainer.accelerator.is_main_process)

    trainer.add_callback(Keep())


def begun_apart(parent: Path, masters: dict[str, Any]) -> float:
    """How far the masters that a training began with are from the parent's weights; of adapters, soft tokens alone are told."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from stages.models.loading import soft_prompt_ids

    known = load_file(parent / WEIGHTS)
    embedding = next(value for name, value in known.items() if name.endswith("embed_tokens.weight"))
    soft = embedding[soft_prompt_ids(AutoTokenizer.from_pretrained(parent))]
    apart = [
        float((value - (soft if "trainable_tokens_delta" in name else known[name])).abs().max())
        for name, value in masters.items()
        if name in known or "trainable_tokens_delta" in name
    ]
    return max(apart, default=0.0)


def tear_down(trainer: Any) -> None:
    """Undo what a training leaves behind in its process, as its end would."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    if trainer is not None and trainer.is_deepspeed_enabled:
        trainer.model_wrapped.destroy()
    unset_hf_deepspeed_config()
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


def question(folder: Path) -> dict[str, Any]:
    """One image with a question, as tensors."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which emotion?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    return dict(processor(text=[text], images=[[Image.new("RGB", (64, 64), "orange")]], return_tensors="pt"))


def answer(model: Any, folder: Path) -> Any:
    """Logits of a model for the question."""
    import torch

    training = model.training
    model.eval()
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    inputs = question(folder)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with torch.no_grad():
        logits = model(**inputs).logits.float().clone()
    model.train(training)
    return logits


def look(parent: Path, final: Path, trained: Any, plain: Path, undisturbed: Path) -> dict[str, Any]:
    """Facts of a final/ as plain transformers loads it.

    Args:
        parent: what its training started from.
        final: of this combination.
        trained: logits of the trainer's own model.
        plain: final/ of the same combination without DeepSpeed.
        undisturbed: its final/ before it was resumed, if it was.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(final, output_loading_info=True)
    before, after = load_file(parent / WEIGHTS), load_file(final / WEIGHTS)
    deltas = {name: after[name] - before[name] for name in before.keys() & after.keys()}
    moves = {name: float(delta.abs().max()) for name, delta in deltas.items()}
    return {
        "clean": not any(info.values()),
        "same_names": set(before) == set(after),
        "dtypes": sorted({str(tensor.dtype) for tensor in after.values()}),
        "moved": {name: move for name, move in moves.items() if move > 0},
        "moved_tokens": next(
            torch.nonzero(delta.any(1)).flatten().tolist()
            for name, delta in deltas.items()
            if name.endswith("embed_tokens.weight")
        ),
        "logits": float((answer(model, final) - trained).abs().max()),
        "weights": len(before),
        "rank": max(int(torch.linalg.matrix_rank(delta, rtol=1e-3)) for delta in deltas.values() if delta.ndim == 2),
        "from_plain": distance(plain, after),
        "from_undisturbed": distance(undisturbed, after),
        "adapter_files": [path.name for path in final.glob("adapter*")],
    }


def distance(folder: Path, weights: dict[str, Any]) -> float | None:
    """The largest difference between a checkpoint's weights and these; None when there is no such checkpoint."""
    from safetensors.torch import load_file

    if not folder.is_dir():
        return None
    other = load_file(folder / WEIGHTS)
    return max(float((weights[name] - other[name]).abs().max()) for name in weights)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent.parent), str(HERE)]
    main(Path(sys.argv[1]), sys.argv[2:])
