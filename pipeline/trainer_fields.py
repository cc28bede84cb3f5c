"""The real option names of the installed trainers, read from their source so that checking them never imports torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

CONFIG_CLASSES = {"sft": "SFTConfig", "grpo": "GRPOConfig"}
"""The training files of stages/ and the class of trl whose fields their `trainer:` block may name."""
_SOURCES = {
    "transformers": ("training_args.py", "TrainingArguments"),
    "base": ("trainer/base_config.py", "_BaseConfig"),
    **{name: (f"trainer/{name}_config.py", cls) for name, cls in CONFIG_CLASSES.items()},
}
UNKNOWN = object()
"""The default of a field whose default is not a literal."""


@functools.cache
def trainer_fields(algorithm: str) -> dict[str, Any]:
    """Field names of trl.SFTConfig (``sft``) or trl.GRPOConfig (``grpo``) with their default values.

    Returns:
        Names to defaults; `UNKNOWN` where the source computes the default.
    """
    fields: dict[str, Any] = {}
    for part in ("transformers", "base", algorithm):
        file, name = _SOURCES[part]
        fields |= _class_fields(_package("transformers" if part == "transformers" else "trl") / file, name)
    return fields


@functools.cache
def lora_fields() -> dict[str, Any]:
    """Field names of peft.LoraConfig with their default values."""
    peft = _package("peft")
    fields: dict[str, Any] = {}
    for file, name in (
        ("config.py", "PeftConfigMixin"),
        ("config.py", "PeftConfig"),
        ("tuners/lora/config.py", "LoraConfig"),
    ):
        fields |= _class_fields(peft / file, name)
    return fields


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed; run ./launch/install.sh", name=name)
    return Path(spec.submodule_search_locations[0])


def _class_fields(file: Path, name: str) -> dict[str, Any]:
    for node in ast.parse(file.read_text()).body:
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
