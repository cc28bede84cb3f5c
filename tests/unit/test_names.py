"""One class name means one thing in the whole repository."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pipeline", "stages", "cot_builder", "rewards", "benchmarks")


def public_classes() -> dict[str, list[str]]:
    """{name: where it is defined}, of classes whose name and modules begin with no underscore."""
    found = defaultdict(list)
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_no_two_public_classes_have_one_name() -> None:
    found = public_classes()
    assert len(found) > 50
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
