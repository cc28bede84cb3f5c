"""The rules of model.peft, model.quantization and a stage's learning_rates: what trains, how it is held, how fast it moves."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.checks.model_folder import chat_template
from pipeline.config.derived import tunes_prompt, zero_stage
from pipeline.config.schema import RunConfig, StageConfig, stage_key
from pipeline.config.special_tokens import soft_prompt_length
from pipeline.config.trainer_options import DEFAULT_PEFT_TYPE, PEFT_TYPES, peft_fields
from pipeline.errors import did_you_mean

PARTS = ("vision", "connector", "language")
"""The parts of a VLM that a stage can freeze, or train at a learning rate of their own."""
BOTTLENECKS = ("BOTTLENECK", "HOULSBY", "PFEIFFER", "PARALLEL_ADAPTER", "COMPACTER")
"""Names of adapters with a non-linearity between two projections, as AdapterHub has them; peft has no such type."""
REFUSED_TYPES = {
    **dict.fromkeys(
        BOTTLENECKS,
        "cannot be merged into plain weights, for the non-linearity between its projections, and peft does not have it; without "
        "that non-linearity, beside a layer, it is LORA",
    ),
    **dict.fromkeys(
        ("PREFIX_TUNING", "CARTRIDGE"), "is keys and values of every layer, which no plain checkpoint can hold"
    ),
    **dict.fromkeys(
        ("MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT"),
        "is vectors before the embedded prompt, which peft cannot generate with for every VLM; PROMPT_TUNING trains them as "
        "tokens that a plain checkpoint holds",
    ),
    "ADAPTION_PROMPT": "cannot be merged into plain weights, and peft has it for no VLM",
    "XLORA": "mixes adapters anew for every token, so it cannot be merged",
    "POLY": "mixes adapters by task, so it cannot be merged",
    "LILY": "cannot be merged: peft has no merge for it",
    "SHADOW": "cannot be merged: it is a second network beside the model",
    "ADALORA": "needs a call after every step that moves rank between layers, and TRL makes none",
}
"""PEFT types that final/, a plain checkpoint, cannot hold or that TRL does not train, and why."""
NOT_SHARED_OUT = {
    "LOHA": "peft sizes its matrices by weights of which each process holds a part",
    "LN_TUNING": "peft copies layers of which each process holds a part",
    "PROMPT_TUNING": "peft reads the rows of an embedding of which each process holds a part",
}
"""PEFT types that train under ZeRO-1 and 2 and fail under ZeRO-3, and why."""
REFUSED_FIELDS = {
    "inference_mode": "nothing would train",
    "layer_replication": "final/ would have another architecture than its parent",
    **dict.fromkeys(("base_model_name_or_path", "revision", "auto_mapping"), "set model.name_or_path and model.revision"),
    **dict.fromkeys(
        ("alora_invocation_tokens", "arrow_config", "corda_config", "eva_config", "kasa_config", "loftq_config",
         "lora_ga_config", "megatron_config", "monteclora_config", "runtime_config", "target_parameters",
         "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
        "no test has merged it into final/",
    ),
}  # fmt: skip
"""Fields of PEFT configurations that are not offered, and why."""
SOFT_PROMPT_FIELDS = ("peft_type", "num_virtual_tokens", "prompt_tuning_init_text")
"""What a soft prompt takes; it begins with tokens of the text, or else with some drawn from the commonest."""
LONGEST_SOFT_PROMPT = 1_000
"""Tokens; the paper finds next to nothing beyond 20, and every prompt of every row pays for them."""
PRICE_OF_DROPOUT = "set it to 0 for GRPO steps 2 to 5 times as fast where prompts are long (docs/performance.md)"
INITS = ("init_lora_weights", "init_weights", "init_ia3_weights")
TIED = ("lm_head", "embed_tokens")


def adapter_problems(config: RunConfig) -> Iterator[str]:
    """Yield every broken rule of model.peft and model.quantization."""
    if tunes_prompt(config):
        yield from _prompt_tuning(config)
    if config.model.peft is not None:
        yield from _peft(config.model.peft)
        kind = str(config.model.peft.get("peft_type"))
        if kind in NOT_SHARED_OUT and zero_stage(config) == 3:
            yield (
                f"model.peft with launch.deepspeed: {config.launch.deepspeed} (ZeRO stage 3) does not work with {kind}: "
                f"{NOT_SHARED_OUT[kind]}; use zero2"
            )
    if config.model.quantization is not None:
        yield from _quantization(config)


def _peft(block: dict[str, Any]) -> Iterator[str]:
    kind = str(block.get("peft_type", DEFAULT_PEFT_TYPE))
    if kind.upper() in REFUSED_TYPES:
        yield f"model.peft.peft_type: {kind} {REFUSED_TYPES[kind.upper()]}; use one of {', '.join(PEFT_TYPES)}"
        return
    if kind not in PEFT_TYPES:
        near = did_you_mean(kind, PEFT_TYPES)
        yield f"model.peft.peft_type: {kind!r} is not offered: no test has merged it into final/; {near}"
        return
    fields = peft_fields(kind)
    for key, value in block.items():
        where = f"model.peft.{key}"
        if key not in fields:
            yield f"{where} is not a field of peft.{PEFT_TYPES[kind][1]}; {did_you_mean(key, fields)}"
        elif kind == "PROMPT_TUNING":
            if key not in SOFT_PROMPT_FIELDS:
                yield f"{where}: {value!r} is not offered with PROMPT_TUNING, which takes {' and '.join(SOFT_PROMPT_FIELDS[1:])}"
        elif key in REFUSED_FIELDS and value:
            yield f"{where}: {value!r} is not offered: {REFUSED_FIELDS[key]}"
        elif key in INITS and value not in (True, "gaussian", "orthogonal"):
            yield f"{where}: {value!r} changes the fixed weights or starts away from the parent; use true, gaussian or orthogonal"
        elif key in ("target_modules", "modules_to_save"):
            named = [name for name in value if name in TIED] if isinstance(value, list) else []
            if named:
                yield f"{where}: {', '.join(named)} is not offered: tied weights cannot be adapted apart; leave it out"
    if not block.get("target_modules") and kind != "PROMPT_TUNING":
        yield (
            "model.peft.target_modules: is missing, and peft knows no default for VLMs; name modules, for example "
            "[q_proj, v_proj], or give a pattern"
        )


def _prompt_tuning(config: RunConfig) -> Iterator[str]:
    block = config.model.peft or {}
    count, text = block.get("num_virtual_tokens"), block.get("prompt_tuning_init_text")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= LONGEST_SOFT_PROMPT:
        yield f"model.peft.num_virtual_tokens: {count!r} must be a whole number from 1 to {LONGEST_SOFT_PROMPT:,}, such as 20"
    if text is not None and not (isinstance(text, str) and text.strip()):
        yield f"model.peft.prompt_tuning_init_text: {text!r} must be a text; leave it out to begin with common tokens"
    if "chat_template" in config.model.processor:
        yield (
            "model.processor.chat_template: would be read in the place of the template that writes the soft prompt "
            "(PROMPT_TUNING); write it to chat_template.jinja of a copy of the model, and leave it out here"
        )
    folder = Path(config.model.name_or_path or "").expanduser()
    if config.model.name_or_path and folder.is_dir():
        yield from soft_prompt_problems(config, folder)
    for name, stage in config.all_stages.items():
        where = stage_key(name)
        if "language" in stage.freeze:
            yield f"{where}.freeze: language has the soft prompt (PROMPT_TUNING), so nothing would train; take it out"
        for part in stage.learning_rates:
            if part in PARTS and part != "language":
                yield f"{where}.learning_rates.{part}: nothing of it trains beside a soft prompt (PROMPT_TUNING); leave it out"
        if stage.distill is not None:
            yield f"{where}.distill: the teacher does not know a soft prompt's tokens (PROMPT_TUNING); leave one of the two out"


def soft_prompt_problems(config: RunConfig, folder: Path) -> Iterator[str]:
    """Yield why a run cannot tune the soft prompt of the model it starts from; nothing where the model has none."""
    if not tunes_prompt(config):
        return
    block = config.model.peft or {}
    there, asked = soft_prompt_length(chat_template(folder) or ""), block.get("num_virtual_tokens")
    tokenizer = folder / "tokenizer.json"
    known = soft_prompt_length(tokenizer.read_text(encoding="utf-8")) if tokenizer.is_file() else there
    if known != there:
        yield (
            f"model.name_or_path: its tokenizer knows {known} tokens of a soft prompt and its chat template writes {there}, so "
            "what is trained would not be read; take the chat_template.jinja that was saved with it"
        )
    elif there not in (0, asked):
        yield (
            f"model.peft.num_virtual_tokens: {asked!r}, but model.name_or_path has a soft prompt of {there}, which goes on being "
            f"trained; set it to {there}, or start from a model without one"
        )
    elif there and block.get("prompt_tuning_init_text") is not None:
        yield (
            "model.peft.prompt_tuning_init_text: would not be read, since model.name_or_path has a soft prompt, which goes on "
            "being trained; leave it out"
        )


def _quantization(config: RunConfig) -> Iterator[str]:
    bits, block = config.model.quantization, config.model.peft
    if bits not in ("4bit", "8bit"):
        yield f"model.quantization: {bits!r} must be 4bit or 8bit"
    if block is None:
        yield f"model.quantization: {bits} weights cannot train themselves; set model.peft, or leave quantization out"
    else:
        kind = block.get("peft_type", DEFAULT_PEFT_TYPE)
        if kind != "LORA":
            yield f"model.quantization: is tested with peft_type LORA alone, not with {kind}; leave one of the two out"
        for key in ("use_dora", "modules_to_save"):
            if block.get(key):
                yield f"model.peft.{key}: {block[key]!r} is not offered on {bits} weights; leave one of the two out"
    if importlib.util.find_spec("bitsandbytes") is None:
        yield f"model.quantization: {bits} needs bitsandbytes; pip install -c requirements.lock bitsandbytes"


def dropped(block: Mapping[str, Any] | None) -> str | None:
    """Return what of a model.peft block drops activations at random, as ``lora_dropout: 0.05``; None when nothing does."""
    return next((f"{key}: {value}" for key, value in (block or {}).items() if key.endswith("dropout") and value), None)


def unshared(config: RunConfig, stage: StageConfig) -> str | None:
    """Return why a GRPO stage computes each prompt as often as it has completions, where its settings alone tell; else None."""
    if not stage.shared_prefix:
        return "shared_prefix: false"
    if config.model.attn_implementation != "sdpa":
        return f"model.attn_implementation: {config.model.attn_implementation}; it needs sdpa"
    found = dropped(config.model.peft)
    return f"model.peft.{found}; {PRICE_OF_DROPOUT}" if found else None


def part_problems(where: str, stage: StageConfig) -> Iterator[str]:
    """Yield every broken rule of a stage's freeze and learning_rates."""
    for key, parts in (("freeze", stage.freeze), ("learning_rates", list(stage.learning_rates))):
        for part in parts:
            if part not in PARTS:
                yield f"{where}.{key}: {part!r} is not a part of a VLM; {did_you_mean(part, PARTS)}"
    if set(stage.freeze) >= set(PARTS):
        yield f"{where}.freeze: freezes all of {', '.join(PARTS)}; leave one to train"
    for part, rate in stage.learning_rates.items():
        if rate <= 0:
            yield f"{where}.learning_rates.{part}: {rate!r} must be a number above 0"
        if part in stage.freeze:
            yield f"{where}.learning_rates.{part}: the part is in freeze and does not train; take it out of one of the two"
    optimizer = str(stage.trainer.get("optim", ""))
    if stage.learning_rates and re.search("galore|lomo|apollo", optimizer):
        yield f"{where}.learning_rates: optim {optimizer} makes groups of its own; choose another, or leave the rates out"
