"""The rules a lab's configuration must meet before anything is loaded or started. All broken rules are told at once."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from pipeline.checks.shared import FOLDER, name_problems, task_problems
from pipeline.config.evaluation import (
    BACKENDS,
    MODES,
    PRECISIONS,
    RENAME,
    SENT,
    SWEEPS,
    TWO_STEPS,
    LabConfig,
    LabModel,
    LabTask,
    precisions_of,
)
from pipeline.config.families import model_type, own_code
from pipeline.config.loader import find_config, load_merged
from pipeline.data.contents import contents_problems
from pipeline.data.splits import split_problem
from pipeline.data.templates import template_problems
from pipeline.errors import UserError, did_you_mean
from pipeline.files import is_path
from pipeline.runs.handover import model_folder

_PACKAGES = {"8bit": "bitsandbytes", "4bit": "bitsandbytes", "vllm": "vllm"}
"""Precision or backend: the package it needs, which not every install has."""


def lab_problems(config: LabConfig) -> Iterator[str]:
    """Yield every broken rule: the key, its value, the rule and the cure."""
    yield from name_problems(config.name, config.seed)
    if config.batch_size < 1:
        yield f"batch_size: {config.batch_size} must be at least 1"
    if config.rotate_options < 1:
        yield f"rotate_options: {config.rotate_options} must be at least 1, which is each question's own order alone"
    if config.smoke < 0:
        yield f"smoke: {config.smoke} must be 0 or more"
    yield from _words("precisions", config.precisions, PRECISIONS)
    yield from _words("modes", config.modes, MODES)
    for key in ("models", "tasks"):
        if not getattr(config, key):
            yield f"{key}: is empty; name at least one"
    for key in ("models", "reasoners", "tasks"):
        for name in getattr(config, key):
            if not FOLDER.fullmatch(name) or "--" in name:
                yield f"{key}.{name}: a name is part of a folder's: letters, digits, '_', '.', and '-' but not '--'"
    if config.reasoners and not set(config.modes) & set(TWO_STEPS):
        yield f"reasoners: no mode asks them; add {' or '.join(TWO_STEPS)} to modes, or leave them out"
    if "blind" in config.modes and "direct" not in config.modes:
        yield "modes: blind is held against direct, on the same rows; add direct"
    for key in ("models", "reasoners"):
        for name, model in getattr(config, key).items():
            yield from _model(f"{key}.{name}", model)
            if model.precisions and key == "reasoners":
                yield f"{key}.{name}.precisions: a reasoner has the precision of its perceiver's cell; leave it out"
            elif model.precisions:
                yield from _words(f"{key}.{name}.precisions", model.precisions, PRECISIONS)
    for name, model in config.models.items():
        if model.backend == "vllm" and "8bit" in precisions_of(config, model):
            yield f"models.{name}.precisions: vLLM makes no 8bit weights while it loads; name others, or take transformers"
    loaded = [model for model in config.models.values() if model.backend != "openai" and not model.precisions]
    if config.models and not loaded and config.precisions != ["auto"]:
        yield (
            f"precisions: {', '.join(config.precisions)} is asked of no model: a server has chosen its own, and all others name "
            "theirs; leave it out"
        )
    for name, task in config.tasks.items():
        yield from _task(f"tasks.{name}", task)
        extracting = [mode for mode in TWO_STEPS if mode.startswith("extract")]
        if task.contents is not None and not set(config.modes) & set(extracting):
            yield f"tasks.{name}.contents: no mode reads it; add {' or '.join(extracting)} to modes, or leave it out"
    if config.prompts is not None:
        if not set(config.modes) & set(TWO_STEPS):
            yield f"prompts: no mode asks with them; add {' or '.join(TWO_STEPS)} to modes, or leave them out"
        yield from template_problems("prompts", config.prompts)


def _words(key: str, words: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    if not words:
        yield f"{key}: is empty; name at least one of {', '.join(known)}"
    for word, count in Counter(words).items():
        if word not in known:
            yield f"{key}: {word!r} is none of them; {did_you_mean(word, known)}"
        elif count > 1:
            yield f"{key}: {word} stands there {count} times; name it once"
        elif not _installed(word):
            yield f"{key}: {word} needs {_PACKAGES[word]}; pip install -c requirements.lock {_PACKAGES[word]}"


def _installed(word: str) -> bool:
    return word not in _PACKAGES or importlib.util.find_spec(_PACKAGES[word]) is not None


def _model(where: str, model: LabModel) -> Iterator[str]:
    if (model.name_or_path is None) == (model.run is None):
        yield f"{where}: set name_or_path (a hub id or folder) or run (the folder of a run), and not both"
    elif model.run is not None or model.backend != "openai":
        yield from _weights(where, model)
    if model.backend not in BACKENDS:
        yield f"{where}.backend: {model.backend!r} is none of them; {did_you_mean(model.backend, BACKENDS)}"
        return
    if not _installed(model.backend):
        yield f"{where}.backend: vllm is not installed; pip install 'clgrpo[vllm]', or use transformers"
    served = model.backend == "openai"
    if served:
        if not re.match(r"https?://\S+", model.base_url or ""):
            yield f"{where}.base_url: {model.base_url!r} must be the server's address, such as http://localhost:8000/v1"
        if model.run is not None:
            yield f"{where}.run: a server does not load a run; give the name it serves the model by as name_or_path"
        if model.api_key_env and not os.environ.get(model.api_key_env):
            yield f"{where}.api_key_env: the environment variable {model.api_key_env} is not set"
        if wrong := [precision for precision in model.precisions if precision != "auto"]:
            yield f"{where}.precisions: a server has chosen its own, so {', '.join(wrong)} cannot be asked; leave it out"
    for key in ("base_url", "api_key_env"):
        if getattr(model, key) is not None and not served:
            yield f"{where}.{key}: is read with backend openai alone; leave it out"
    yield from _price(where, model)
    yield from _options(where, model)
    if model.processor and served:
        yield f"{where}.processor: a server has its own; leave it out"


def _price(where: str, model: LabModel) -> Iterator[str]:
    if model.price and sorted(model.price) != ["completion", "prompt"]:
        told = ", ".join(model.price)
        yield f"{where}.price: has {told}, and takes prompt and completion, both, each of a million tokens"
    for key, value in model.price.items():
        if not value >= 0:
            yield f"{where}.price.{key}: {value} must be 0 or more"


def _options(where: str, model: LabModel) -> Iterator[str]:
    if model.options and model.backend == "transformers":
        yield f"{where}.options: are for vllm and openai; with transformers use processor, or leave them out"
    names = model.options.get(RENAME)
    if model.backend == "vllm":
        if names is not None:
            yield f"{where}.options.{RENAME}: is of requests to a server; vllm.LLM takes its keyword arguments as they are called"
        for name in model.options:
            if not name.isidentifier():
                yield f"{where}.options.{name}: is a keyword argument of vllm.LLM, which is written {name.replace('-', '_')}"
    if model.backend != "openai":
        return
    if "messages" in model.options:
        yield f"{where}.options.messages: are the question and its pictures; leave it out"
    if names is None:
        return
    if not isinstance(names, dict) or not all(isinstance(new, str) and new for new in names.values()):
        yield f"{where}.options.{RENAME}: {names!r} must map fields to names, such as max_tokens: max_completion_tokens"
        return
    for name in names:
        if name not in SENT:
            yield f"{where}.options.{RENAME}.{name}: is no field that is sent; {did_you_mean(name, SENT)}"


def _weights(where: str, model: LabModel) -> Iterator[str]:
    name = model.name_or_path
    if name is not None and is_path(name) and not Path(name).expanduser().is_dir():
        yield f"{where}.name_or_path: the folder {name!r} does not exist"
        return
    try:
        folder = model_folder(model)
    except UserError as error:
        yield from (f"{where}: {problem}" for problem in error.problems)
        return
    own = own_code(model_type(folder) if folder is not None else None, name or "")
    if own is None:
        return
    if model.backend != "vllm" or not own.served:
        way = "vLLM does not know it" if model.backend == "vllm" else "transformers has no processor for it"
        yield f"{where}: {name} is code of its own, and {way}; {own.cure}"
    elif not model.trust_remote_code:
        yield f"{where}.trust_remote_code: {name} is loaded by code that lies beside it; read that, then set it to true"


def _task(where: str, task: LabTask) -> Iterator[str]:
    yield from task_problems(f"{where}.task", task.task)
    yield from split_problem(f"{where}.split", task.split)
    if task.max_new_tokens < 1:
        yield f"{where}.max_new_tokens: {task.max_new_tokens} must be at least 1"
    yield from contents_problems(f"{where}.contents", task.contents)
    if task.subset_seed < 0:
        yield f"{where}.subset_seed: {task.subset_seed} must be 0 or more"


def load_lab(file: str | Path, overrides: Sequence[str] = ()) -> LabConfig:
    """Load a lab's configuration and test every rule (`pipeline.checks.evaluation`) before anything is loaded.

    Args:
        file: a YAML file, or the bare name of one in configs/sweeps/.
        overrides: ``a.b=c`` words; c is read as YAML.

    Raises:
        UserError: naming every unknown key, every value of a wrong type, or else every broken rule.
    """

    config = read_lab(file, overrides)
    problems = list(lab_problems(config))
    if problems:
        raise UserError(problems)
    return config


def read_lab(file: str | Path, overrides: Sequence[str] = ()) -> LabConfig:
    """Load a lab's configuration as `load_lab` does, with its rules untested.

    Raises:
        UserError: naming every unknown key and every value of a wrong type.
    """
    return cast(LabConfig, load_merged(LabConfig, find_config(file, SWEEPS), overrides))
