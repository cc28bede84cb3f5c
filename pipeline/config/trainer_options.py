"""The real option names of the installed trainers, read from their source so that checking them never imports torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG_CLASSES = {"sft": "SFTConfig", "grpo": "GRPOConfig"}
"""The training files of stages/ and the class of trl whose fields their `trainer:` block may name."""
_SOURCES = {
    "transformers": ("training_args.py", "TrainingArguments"),
    "base": ("trainer/base_config.py", "_BaseConfig"),
    **{name: (f"trainer/{name}_config.py", cls) for name, cls in CONFIG_CLASSES.items()},
}
PEFT_TYPES = {
    "LORA": ("lora/config.py", "LoraConfig"),
    "LOHA": ("loha/config.py", "LoHaConfig"),
    "LOKR": ("lokr/config.py", "LoKrConfig"),
    "OFT": ("oft/config.py", "OFTConfig"),
    "BOFT": ("boft/config.py", "BOFTConfig"),
    "HRA": ("hra/config.py", "HRAConfig"),
    "IA3": ("ia3/config.py", "IA3Config"),
    "VERA": ("vera/config.py", "VeraConfig"),
    "RANDLORA": ("randlora/config.py", "RandLoraConfig"),
    "MISS": ("miss/config.py", "MissConfig"),
    "LN_TUNING": ("ln_tuning/config.py", "LNTuningConfig"),
    "PROMPT_TUNING": ("prompt_tuning/config.py", "PromptTuningConfig"),
}
"""The PEFT types a run may name, and where peft describes them: all that tests/integration merges and finds exact."""
DEFAULT_PEFT_TYPE = "LORA"
UNKNOWN = object()
"""The default of a field whose default is not a literal."""


@functools.cache
def trainer_fields(algorithm: str) -> dict[str, Any]:
    """Return field names of trl.SFTConfig (``sft``) or trl.GRPOConfig (``grpo``) with their default values.

    Returns:
        Names to defaults; `UNKNOWN` where the source computes the default.
    """
    fields: dict[str, Any] = {}
    for part in ("transformers", "base", algorithm):
        file, name = _SOURCES[part]
        fields |= _class_fields(package("transformers" if part == "transformers" else "trl") / file, name)
    return fields


COMPARED = ("loss_type", "scale_rewards", "importance_sampling_level", "multi_objective_aggregation")
"""Options of TRL that are plain text in its configuration classes; its trainers compare them with the values they know."""


def option_words(algorithm: str, option: str) -> frozenset[str] | None:
    """Return the few words that an option of a trainer has to be one of; None where any value may do.

    They are read from the installed sources: the enumerations that transformers.TrainingArguments names as a field's type,
    and the text that TRL's trainer compares an option of `COMPARED` with.
    """
    return _compared_words(algorithm).get(option) if option in COMPARED else _enumerated_words().get(option)


@functools.cache
def _enumerated_words() -> dict[str, frozenset[str]]:
    enumerations: dict[str, frozenset[str]] = {}
    transformers = package("transformers")
    for file in ("trainer_utils.py", "training_args.py"):
        for node in _parsed(transformers / file).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "ExplicitEnum" for base in node.bases):
                values = (item.value for item in node.body if isinstance(item, ast.Assign))
                enumerations[node.name] = frozenset(
                    str(value.value) for value in values if isinstance(value, ast.Constant)
                )
    annotations = _annotations(transformers / "training_args.py", "TrainingArguments")
    return {
        name: enumerations[word]
        for name, annotation in annotations.items()
        for word in annotation.split(" | ")
        if word in enumerations
    }


@functools.cache
def _compared_words(algorithm: str) -> dict[str, frozenset[str]]:
    compared: dict[str, set[str]] = {}
    for file in (f"{algorithm}_trainer.py", f"{algorithm}_config.py"):
        for option, word in _comparisons(package("trl") / "trainer" / file):
            compared.setdefault(option, set()).add(word)
    known = trainer_fields(algorithm)
    # The default itself is compared with nothing where it is what is left over.
    return {
        name: frozenset(words | {known[name]}) for name, words in compared.items() if isinstance(known.get(name), str)
    }


@functools.cache
def peft_fields(peft_type: str) -> dict[str, Any]:
    """Return field names of the configuration class of an offered PEFT type, with their default values."""
    peft = package("peft")
    file, name = PEFT_TYPES[peft_type]
    fields = _class_fields(peft / "config.py", "PeftConfigMixin") | _class_fields(peft / "config.py", "PeftConfig")
    if peft_type in ("LOHA", "LOKR"):
        fields |= _class_fields(peft / "tuners/lycoris_utils.py", "LycorisConfig")
    if peft_type == "PROMPT_TUNING":
        fields |= _class_fields(peft / "config.py", "PromptLearningConfig")
    return fields | _class_fields(peft / "tuners" / file, name)


def package(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed; run ./launch/install.sh", name=name)
    return Path(spec.submodule_search_locations[0])


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _comparisons(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (option, text) for each text that a file compares an option of `COMPARED` with."""
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in COMPARED:
            for part in (part for right in node.comparators for part in ast.walk(right)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield node.left.attr, part.value


def _annotations(file: Path, name: str) -> dict[str, str]:
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = (item for item in node.body if isinstance(item, ast.AnnAssign))
            return {
                item.target.id: ast.unparse(item.annotation) for item in fields if isinstance(item.target, ast.Name)
            }
    raise LookupError(f"{file} has no class {name}; the installed version differs from requirements.lock")


def _class_fields(file: Path, name: str) -> dict[str, Any]:
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id: _default(item.value)
                for item in node.body
                if isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and not ast.unparse(item.annotation).startswith("ClassVar")
            }
    raise LookupError(f"{file} has no class {name}; the installed version differs from requirements.lock")


def _default(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        return ast.literal_eval(value) if value is not None else UNKNOWN
    except ValueError:
        return UNKNOWN
