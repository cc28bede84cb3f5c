"""What a newcomer has, ``./launch/install.sh`` without the extras for tests and teachers, must be enough for the demo's models.

The packages of the other sets hide what is missing from the base, so here is an environment of links to the base's packages
alone.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import tiers

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.slow


def base_packages(lock: Path) -> list[str]:
    """Names of the packages that every install has."""
    pins = re.findall(r"^([\w.-]+)==\S+(?: ;[^#]*)?  # (.+)$", lock.read_text(), flags=re.MULTILINE)
    return [name for name, sets in pins if "base" in sets.split()]


def link(packages: list[str], folder: Path) -> None:
    """Fill `folder` with links to what these packages installed."""
    for name in packages:
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # Of another platform.
            continue
        for top in {path.parts[0] for path in package.files or () if path.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(package.locate_file(top))).resolve())


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """The interpreter of an environment of the base's packages."""
    root = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    (site,) = root.glob("lib/python*/site-packages")
    link(base_packages(repo_root / "requirements.lock"), site)
    return root / "bin" / "python"


def run(python: Path, repo_root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it at the root of the repository."""
    return subprocess.run(
        [python, *words],
        cwd=repo_root,
        # Where the tests' own reward is found.
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=400,
    )


def test_the_environment_holds_the_base_and_nothing_else(python, repo_root):
    done = run(python, repo_root, "-c", "import torch, trl; import pytest")
    assert "No module named 'pytest'" in done.stdout


@pytest.mark.parametrize("family", tiers(["idefics3", "qwen2_5_vl"], ["idefics3"]))
def test_a_base_model_is_made_loaded_and_evaluated_with_the_base_install(python, repo_root, tmp_path, family):
    words = [f"output_dir={tmp_path}", f"model.tiny.family={family}", "evaluation.split=test[:2]"]
    words += ["evaluation.samples=0", "evaluation.max_new_tokens=2"]
    done = run(python, repo_root, "-m", "stages.base", "--config", str(HERE / "small.yaml"), *words)
    assert done.returncode == 0, done.stdout[-3000:]
