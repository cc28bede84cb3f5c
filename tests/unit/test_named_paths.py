"""Every path, module and file that pages, messages and docstrings name exists: a reader who follows one finds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pipeline", "stages", "cot_builder", "rewards", "configs", "launch", "benchmarks", "tests", "docs")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(
    path
    for room in ROOMS
    if room not in ("tests", "docs")
    for path in (ROOT / room).rglob("*")
    if path.suffix in (".py", ".sh", ".yaml", ".jinja", ".slurm")
)
EXAMPLES = {
    "rewards/NAME.py",
    "rewards/brevity.py",
    "rewards/scene.py",
    "pipeline/tasks/fi8.py",
    "configs/teachers/X.yaml",
    "configs/teachers/mine.yaml",
    "cot_builder/prompts/short_v1.jinja",
    "cot_builder/prompts/answer_hidden_v4.jinja",
    "cot_builder/recipes/mine.py",
    "cot_builder/recipes/caption.py",
}
"""Files that a reader is told to make."""
FOREIGN = {
    # trl's
    "_config.py",
    "balance.py",
    "calculate_score.py",
    "create_vision_cot_data.py",
    "docs/assets/recipes/multimodal/visual_qa.py",
    "docs/concepts",
    # written by benchmarks/eval_throughput.py
    "drive.py",
    "langid.py",
    "prompt_base.py",
    "training_args.py",
    # Extract+Think's
    "visual_extraction_tuning_pipeline.py",
    "utils.py",
}
"""Files of other projects, in pages that compare with them."""

PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(ROOMS)})/[\w./*-]*\w)")
# Not in quotes: that is a file which code writes.
FILE = re.compile(r"(?<![\w/.*}\"'-])(\w+\.py)\b")
COMMAND = re.compile(r"python3? -m ((?:pipeline|stages|cot_builder|rewards|benchmarks)(?:\.\w+)*)(?!\w|\.?[{<$…])")
DOTTED = re.compile(r"`((?:pipeline|stages|cot_builder|rewards|benchmarks)(?:\.\w+)+)(?:\([^`]*\))?`")
KEY = re.compile(r"stages\.(stage|\d|\w+\.(trainer|gate|validation))|(rewards/\w+(/\w+)*$)|\w+\.md$")
"""What looks like one and is a key: of a configuration (`stages.stage2.trainer`) or of a log (`rewards/format_reward/mean`)."""


def lines() -> Iterator[tuple[str, str]]:
    """(where, line) of all that is read."""
    for path in (*PAGES, *SOURCES):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def has_path(name: str) -> bool:
    if "*" in name:
        return any(ROOT.glob(name))
    return (ROOT / name).exists() or name in EXAMPLES | FOREIGN


def has_module(name: str, whole: bool) -> bool:
    """Whether a dotted name is a module, or unless `whole` something that one defines."""
    place, parts = ROOT, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        place /= f"{parts.pop(0)}.py"
    elif not parts and whole:
        return (place / "__main__.py").is_file() or not (place / "__init__.py").is_file()
    else:
        place /= "__init__.py"
    if not parts:
        return True
    return (
        not whole and place.is_file() and re.search(rf"\b{parts[0]}\b", place.read_text(encoding="utf-8")) is not None
    )


@pytest.fixture(scope="module")
def known_files() -> set[str]:
    return {path.name for room in ROOMS for path in (ROOT / room).rglob("*.py")}


def test_every_path_exists() -> None:
    found = [(where, name) for where, line in lines() for name in PATH.findall(line) if not KEY.match(name)]
    # Else the pattern reads nothing.
    assert len(found) > 200
    assert [f"{where}: {name}" for where, name in found if not has_path(name)] == []


def test_every_file_named_without_its_folder_exists(known_files: set[str]) -> None:
    found = [(where, name) for where, line in lines() for name in FILE.findall(line)]
    assert len(found) > 30
    assert [f"{where}: {name}" for where, name in found if name not in known_files | FOREIGN] == []


def test_every_module_that_a_command_runs_exists() -> None:
    found = [(where, name) for where, line in lines() for name in COMMAND.findall(line)]
    assert len(found) > 100
    assert [f"{where}: {name}" for where, name in found if not has_module(name, whole=True)] == []


def test_every_dotted_name_is_a_module_or_of_one() -> None:
    found = [(where, name) for where, line in lines() for name in DOTTED.findall(line) if not KEY.match(name)]
    assert len(found) > 20
    assert [f"{where}: {name}" for where, name in found if not has_module(name, whole=False)] == []


def test_examples_are_of_files_that_are_not_there() -> None:
    assert [name for name in EXAMPLES if (ROOT / name).exists()] == []
