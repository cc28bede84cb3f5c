"""The phases of a run, in order, and what each depends on, so that a finished one is skipped only while it still holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.derived import deepspeed_file, world_size
from pipeline.config.loader import CONFIGS, to_plain
from pipeline.config.reward_names import SHIPPED, reward_file
from pipeline.config.schema import BEST, CotConfig, RunConfig, StageConfig, split_parent
from pipeline.data.images import remembered
from pipeline.files import differences, digest, file_digest
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.cot_source import MADE_OF, other_origin, other_rows


def phase_names(config: RunConfig) -> list[str]:
    """Return cot, base, the baselines and the stages: those this run has, in the order they run."""
    cot = [COT] if config.cot is not None else []
    return [*cot, BASE, *config.all_stages]


def trained_phases(config: RunConfig) -> list[str]:
    """Return the phases that hold a model, in order."""
    return [name for name in phase_names(config) if name != COT]


def phase_inputs(config: RunConfig, name: str) -> dict[str, Any]:
    """Return the part of the configuration a phase's result depends on, recorded in its record and compared when it is run again.

    Not in it: names of folders, where and how fast teachers are asked, evaluation settings, gates, the number of processes
    used for evaluation, whether prompts are shared, which changes no more than the rounding.
    """
    plain = to_plain(config)
    common = {"task": plain["task"], "seed": config.seed}
    if name == COT:
        assert config.cot is not None
        if config.cot.from_ is not None:
            # Nobody is asked, and where they lie is no matter: they are compared as rows (`other_rows`).
            return {"task": plain["task"], "cot": {key: plain["cot"][key] for key in MADE_OF}}
        cot = {key: value for key, value in plain["cot"].items() if key not in _ASKING} | _own_words(config.cot)
        reader = config.cot.cross_check.teacher if config.cot.cross_check else None
        names = [*config.cot.teachers, *([reader] if reader else [])]
        return {**common, "cot": cot, "teachers": {name: _teacher(name) for name in names}}
    model = plain["model"]
    if name == BASE:
        keys = ["name_or_path", "revision", "compose", "tiny", "trust_remote_code", "processor"]
        return {**common, "model": {key: model[key] for key in keys}}
    trained = {key: model[key] for key in ("dtype", "attn_implementation", "peft", "quantization")}
    if model["processor"]:
        trained["processor"] = model["processor"]
    deepspeed = deepspeed_file(config)
    launch = {
        # As resolved: a trainer's state cannot be split over another number.
        "num_processes": world_size(config),
        "deepspeed": deepspeed.read_text() if deepspeed else None,
    }
    stage = {key: value for key, value in to_plain(config.stage(name)).items() if key not in _SAME_WEIGHTS}
    return {**common, "model": trained, "stage": stage, "launch": launch}


_SAME_WEIGHTS = ("gate", "shared_prefix")
"""Keys of a stage that change nothing it learns."""
_ASKING = ("concurrency", "endpoints", "min_rows", "min_rows_per_class", "stop_after_failures")
"""Keys of the cot block that say where and how fast teachers are asked or when a build fails, and change no row."""
TRANSPORT = ("base_urls", "api_key_env", "timeout", "retries", "patience", "concurrency", "serve")
"""Keys of a teacher's file that say where, how fast and with what patience it is asked, and change no reply."""
SERVED_AS = (
    "chat-template",
    "chat-template-content-format",
    "code-revision",
    "default-chat-template-kwargs",
    "default-mm-loras",
    "dtype",
    "generation-config",
    "hf-overrides",
    "interleave-mm-strings",
    "kv-cache-dtype",
    "logits-processors",
    "lora-modules",
    "media-io-kwargs",
    "mm-processor-kwargs",
    "override-generation-config",
    "quantization",
    "reasoning-parser",
    "tokenizer",
    "tokenizer-mode",
    "tokenizer-revision",
)
"""Flags of a teacher's `serve` block that do change its replies."""
_FILES = ("chat-template", "generation-config", "tokenizer")
"""Those that may name a file or a folder."""
_NAMED = "named"
"""Key of how a file or folder was named, beside the digest of what it held."""


def served_as_key(serve: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a teacher's `serve` block changes its replies; a file or folder that lies here by what it holds."""
    return {flag: _held(flag, value) for flag, value in serve.items() if flag in SERVED_AS}


def _held(flag: str, value: Any) -> Any:
    """The digest of what a flag's file or folder holds, for it may be edited under its name; else the value."""
    if flag not in _FILES or not isinstance(value, str) or value in ("auto", "vllm"):
        return value
    named = os.path.expanduser(value)
    # Not Path.is_file, which a long template in the place of its file makes raise.
    if os.path.isfile(named):
        return {"sha256": file_digest(Path(named))}
    if os.path.isdir(named):
        told = (each for each in Path(named).iterdir() if each.suffix in (".json", ".jinja", ".model", ".txt"))
        return {"sha256": digest({file.name: file_digest(file) for file in sorted(told)})}
    return value


def _teacher(name: str) -> Any:
    path = CONFIGS / "teachers" / f"{name}.yaml"
    settings = yaml.safe_load((path if path.is_file() else Path(name)).read_text())
    serve = settings.get("serve") or {}
    served_as = {
        flag: {**held, _NAMED: serve[flag]} if flag in _FILES and isinstance(held, dict) else held
        for flag, held in served_as_key(serve).items()
    }
    own = {key: value for key, value in settings.items() if key not in TRANSPORT}
    return {**own, **({"serve": served_as} if served_as else {})}


def _own_words(cot: CotConfig) -> dict[str, Any]:
    """The user's templates and contents to observe by what they say, wherever they lie; nothing where there are none."""
    if cot.prompts is None and cot.contents is None:
        return {}
    from pipeline.data.contents import contents_digest
    from pipeline.data.templates import own_digests

    return {"prompts": own_digests(cot.prompts) or None, "contents": contents_digest(cot.contents)}


def _edited_prompts(record: dict[str, Any]) -> list[str]:
    """Prompts that were another text when the rows were asked for."""
    folder = CONFIGS.parent / "cot_builder" / "prompts"
    # A user's own are among the inputs.
    asked = [name for name, prompt in record.get("prompts", {}).items() if not prompt.get("own")]
    files = {name: folder / f"{name}.jinja" for name in asked}
    return [
        f"the prompt {name} was edited"
        for name, file in files.items()
        if file.is_file() and file_digest(file) != record["prompts"][name]["digest"]
    ]


def evaluation_inputs(config: RunConfig) -> dict[str, Any]:
    """Return what the predictions of a phase depend on beside its weights."""
    plain = to_plain(config)
    model = {key: plain["model"][key] for key in ("dtype", "attn_implementation", "processor")}
    return {"task": plain["task"], "seed": config.seed, "evaluation": plain["evaluation"], "model": model}


def evaluated_from(config: RunConfig, weights: str | None) -> dict[str, Any]:
    """Return what an evaluation.json says its predictions were made from, under `inputs`: `evaluation_inputs` and the weights."""
    return {**json.loads(json.dumps(evaluation_inputs(config))), "weights": weights}


def parent_of(config: RunConfig, name: str) -> str | None:
    """Return the phase a stage starts from; None for cot and base."""
    if name in (COT, BASE):
        return None
    init_from = split_parent(config.stage(name).init_from)[0]
    return BASE if init_from == BASE else config.stage_name(init_from)


def parent_weights(config: RunConfig, run: RunDir, name: str) -> str | None:
    """Return the recorded digest of the weights a stage starts from: its parent's last ones, or its best."""
    parent = parent_of(config, name)
    assert parent is not None, f"{name} has no parent"
    record = run.record(parent) or {}
    return (record.get(BEST) or {} if split_parent(config.stage(name).init_from)[1] == BEST else record).get("weights")


def teacher_weights(folder: Path, cache: Path) -> str | None:
    """Return the digest of the weights in a teacher's folder, as `pipeline.files.weights_digest` gives it; None where there are
    none.

    Args:
        folder: of the teacher.
        cache: remembers it for as long as no file changes, since a plan asks and a large teacher takes a minute to read.
    """
    files = remembered(sorted(folder.glob("*.safetensors")), cache / "teacher_digests.json", file_digest)
    return digest({file.name: found for file, found in files.items()}) if files else None


def start_record(config: RunConfig, run: RunDir, name: str) -> dict[str, Any]:
    """Return the record of a stage that is about to train: what it depends on, so that a change is noticed when it goes on."""
    stage = config.stage(name)
    parent = parent_of(config, name)
    return {
        "status": "running",
        "phase": name,
        "algorithm": stage.algorithm,
        "init_from": parent,
        "inputs": phase_inputs(config, name),
        "parent_weights": parent_weights(config, run, name),
        "data_digest": (run.record(COT) or {}).get("data_digest") if stage.data == "cot" else None,
        "reward_funcs": stage.reward_funcs,
        "rewards": own_rewards(stage),
        "seed": config.seed,
    }


def own_rewards(stage: StageConfig) -> dict[str, str]:
    """Return the digest of the file of each of a stage's rewards that is the user's own; what it imports is not looked at."""
    files = {name: reward_file(name) for name in stage.reward_funcs if name not in SHIPPED}
    return {name: file_digest(file) for name, file in files.items() if file is not None and file.is_file()}


def _decisive(inputs: Any) -> Any:
    """The inputs of a phase without what presets said otherwise once, and what makes no other model or hardly one.

    These are the processes that read pictures, and the precision in which DeepSpeed sums gradients.
    """
    plain: Any = json.loads(json.dumps(inputs))
    if isinstance(plain, dict):
        ((plain.get("stage") or {}).get("trainer") or {}).pop("dataloader_num_workers", None)
        launch = plain.get("launch") or {}
        with contextlib.suppress(ValueError):
            settings = json.loads(str(launch.get("deepspeed")))
            if isinstance(settings, dict):
                if settings.get("data_types") == {"grad_accum_dtype": "fp32"}:
                    del settings["data_types"]
                launch["deepspeed"] = settings
    return plain


def _by_what_is_known(inputs: Any, others: Any) -> Any:
    """The inputs of CoT rows with the files of a teacher's flags by their digests, or by their names where the other inputs have
    no digest: they are gone, lie on another machine, or were not read when those were recorded.
    """
    for name, teacher in (inputs or {}).get("teachers", {}).items():
        served = teacher.get("serve") or {}
        theirs = (((others or {}).get("teachers") or {}).get(name) or {}).get("serve") or {}
        for flag in (flag for flag in _FILES if isinstance(served.get(flag), dict)):
            named = served[flag].pop(_NAMED, None)
            served[flag] = named if isinstance(theirs.get(flag), str) else served[flag]
    return inputs


OTHER_ROWS = "the CoT rows are other rows now"


def stale_reasons(config: RunConfig, run: RunDir, name: str) -> list[str] | None:
    """Return why a phase that was begun or finished no longer holds: [] when it does, None when it was not begun.

    A phase goes stale when its part of the configuration changed, or when what it was made from (parent weights, CoT rows)
    did.
    """
    record = run.record(name)
    if record is None:
        return None
    if name == COT and config.cot is not None and (other := other_origin(config.cot, record)):
        return [other] if record.get("status") == "complete" else []
    now = json.loads(json.dumps(phase_inputs(config, name), default=str))
    before, now = _decisive(record.get("inputs")), _decisive(now)
    reasons = differences(_by_what_is_known(before, now), _by_what_is_known(now, before))
    if name == COT:
        reasons += other_rows(config.cot, record) if config.cot and config.cot.from_ else _edited_prompts(record)
    # Records before it was told have none.
    begun = record.get("rewards") or {}
    scored = own_rewards(config.stage(name)) if begun else {}
    reasons += [f"the reward {one} was edited" for one in scored if begun.get(one, scored[one]) != scored[one]]
    parent = parent_of(config, name)
    if parent and parent_weights(config, run, name) != record.get("parent_weights"):
        reasons.append(f"its parent {parent} now has other weights")
    teacher = record.get("teacher")
    # One that is gone is needed no more once the stage is trained, and missed by name before.
    held = teacher_weights(Path(teacher["folder"]), run.cache) if teacher else None
    if teacher and held not in (None, teacher["weights"]):
        reasons.append(f"its teacher {teacher['folder']} now has other weights")
    if name != COT and record.get("data_digest"):
        made = (run.record(COT) or {}).get("data_digest")
        if made != record["data_digest"]:
            reasons.append(OTHER_ROWS)
    return reasons
