"""What stages use of TRL's and transformers' insides is listed, and is still what it was when it was last read."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
import trl
from transformers.cache_utils import DynamicLayer

from stages.training.private_names import ATTRIBUTES, METHODS

CLASSES: dict[str, Any] = {
    "trl.GRPOTrainer": trl.GRPOTrainer,
    "trl.SFTTrainer": trl.SFTTrainer,
    "transformers.Trainer": transformers.Trainer,
    "transformers.GenerationMixin": transformers.GenerationMixin,
    "transformers.PreTrainedModel": transformers.PreTrainedModel,
    "transformers.PreTrainedConfig": transformers.PreTrainedConfig,
    "transformers.DynamicLayer": DynamicLayer,
}
OURS = {"_generate": "stages/evaluation/backends/transformers.py"}
"""Methods of our own classes that happen to bear a listed name."""


def digest(name: str) -> str:
    """The digest of a method's source, as the list has it."""
    owner, _, method = name.rpartition(".")
    source = inspect.getsource(inspect.unwrap(vars(CLASSES[owner])[method]))
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_what_it_was(name: str):
    assert digest(name) == METHODS[name][1], f"{name} has changed: see stages/training/private_names.py"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_still_set(name: str):
    owner, _ = ATTRIBUTES[name]
    found = name in vars(CLASSES[owner]) or re.search(rf"\.{name}\b(: [^=\n]+)? =", inspect.getsource(CLASSES[owner]))
    assert found, f"{owner} has no {name} any more"


def test_every_private_name_of_theirs_that_a_stage_uses_is_listed(repo_root: Path):
    theirs = {name for owner in CLASSES.values() for name in _private_names(owner)}
    listed = {name.rpartition(".")[2] for name in METHODS} | set(ATTRIBUTES)
    used = {
        (name, str(path.relative_to(repo_root)))
        for path in (repo_root / "stages").rglob("*.py")
        for name in _names(path)
        if name in theirs and OURS.get(name) != str(path.relative_to(repo_root))
    }
    assert {name for name, _ in used} >= {"_metrics", "_generate", "_pad_token_tensor"}
    assert not [(name, path) for name, path in sorted(used) if name not in listed]
    assert not {name for name in listed if name.startswith("_")} - {name for name, _ in used} - {"_sample"}


def _private_names(owner: Any) -> set[str]:
    """Methods of a class, and what its source sets on itself or on a generation config."""
    set_there = re.findall(r"(?:self|generation_config)\.(_[a-z]\w*)\b[^=\n]*=[^=]", inspect.getsource(owner))
    return {name for name in (*vars(owner), *set_there) if re.match("_[a-z]", name)}


def _names(path: Path) -> set[str]:
    """Attributes that a file reads, sets or defines."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.name for node in nodes if isinstance(node, ast.FunctionDef)
    }
