"""The light rooms never load torch, and every entry point answers ``--help`` without it."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.conductor.run import IMPORTED_ONCE

ROOT = Path(__file__).resolve().parents[2]
LIGHT_ROOMS = ["pipeline", "rewards", "cot_builder"]
HEAVY = ["torch", "transformers", "trl", "deepspeed", "vllm"]
ENTRY_POINTS = {"pipeline", "cot_builder", "stages.sft", "stages.grpo", "stages.evaluate"}
NOT_FOR_PERSONS = {"pipeline.system.keeper", "pipeline.system.fork_server", "pipeline.system.multinode"}
"""Started by srun with the words of another program."""


def modules_of(room: str) -> list[str]:
    """Names of a room and of every module in it, found without importing any."""
    names, folders = [room], [(f"{room}.", ROOT / room)]
    while folders:
        prefix, folder = folders.pop()
        for module in pkgutil.iter_modules([str(folder)], prefix):
            names.append(module.name)
            if module.ispkg:
                folders.append((f"{module.name}.", folder / module.name.rpartition(".")[2]))
    return sorted(names)


def entry_points() -> list[str]:
    """The named ones, and every public module that reads a command line."""
    found = set(ENTRY_POINTS)
    for room in [*LIGHT_ROOMS, "stages"]:
        for name in modules_of(room):
            path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            private = name.rpartition(".")[2].startswith("_") and not name.endswith(".__main__")
            if not private and path.is_file() and 'if __name__ == "__main__"' in path.read_text(encoding="utf-8"):
                found.add(name.removesuffix(".__main__"))
    return sorted(found - NOT_FOR_PERSONS)


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


IMPORT_ALL = """
import importlib, json, sys
heavy = sys.argv[1].split(",")
culprits = {}
for name in sys.argv[2:]:
    importlib.import_module(name)
    new = [h for h in heavy if h in sys.modules and h not in culprits.values()]
    culprits.update({name: h for h in new})
print(json.dumps(culprits))
"""


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_importing_a_light_room_leaves_the_training_libraries_out(room: str) -> None:
    done = run_python(IMPORT_ALL, ",".join(HEAVY), *modules_of(room))
    assert done.returncode == 0, done.stderr
    culprits = json.loads(done.stdout.splitlines()[-1])
    assert culprits == {}, f"modules that load a training library: {culprits}"


HELP = """
import runpy, sys
heavy, module = sys.argv[1].split(","), sys.argv[2]
sys.argv = [module, "--help"]
code = None
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    code = stop.code
print("LOADED", *[h for h in heavy if h in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize("module", entry_points())
def test_help_of_every_entry_point_answers_without_the_training_libraries(module: str) -> None:
    done = run_python(HELP, ",".join(HEAVY), module)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout or f"python -m {module}" in done.stdout
    assert "--quiet" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


WORKER = """
import importlib, sys
import stages
assert "torch" not in sys.modules
import torchvision
for name in sys.argv[1:]:
    importlib.import_module(name)
unused = [name for name in ("vllm", "sklearn", "scipy") if name in sys.modules]
import deepspeed.comm
print(unused, sys.modules["deepspeed.comm.torch"].build_shm_op())
"""


def test_a_worker_imports_in_any_order_nothing_that_it_does_not_use_and_compiles_nothing() -> None:
    """torchvision's wheel does not load beside a CPU-only torch; importing `stages` cures it and loads nothing."""
    done = run_python(WORKER, *IMPORTED_ONCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] None"
