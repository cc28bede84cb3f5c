"""The gate and the tests' command, with stand-ins for what they start: which caches, which tests, which exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CACHES = (
    "XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the two scripts, in which everything else passes and writes down how it was called."""
    root = tmp_path / "clone"
    for script in (".ci/run", "launch/test.sh"):
        (root / script).parent.mkdir(parents=True)
        shutil.copy(ROOT / script, root / script)
    for name in ("launch/install.sh", *(f".venv/bin/{tool}" for tool in ("ruff", "lint-imports", "mypy", "python"))):
        stand_in(root / name)
    stand_in(tmp_path / "bin" / "python3")
    return root


def stand_in(path: Path, status: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\necho "called {path.name} $*"\nenv >> "$0.env"\nexit {status}\n')
    path.chmod(0o755)


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": "/home/me/cache", "TRANSFORMERS_CACHE": "/home/me/models"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # Of a machine that has no uv, and a pip of which nothing can be had.
    environment["PATH"] = f"{root.parent / 'bin'}:/usr/bin:/bin"
    for name in ("PIP_CACHE_DIR", "UV_CACHE_DIR"):
        environment.pop(name, None)
    return subprocess.run(["bash", *words], cwd=root, env=environment, capture_output=True, text=True, check=False)


def seen(script: Path) -> dict[str, str]:
    """The environment a stand-in was called with, the last time."""
    return dict(line.partition("=")[::2] for line in Path(f"{script}.env").read_text().splitlines())


def test_the_gate_has_caches_of_its_own_but_for_packages(clone: Path) -> None:
    done = run(clone, ".ci/run")
    assert done.returncode == 0, done.stderr
    found = seen(clone / ".venv" / "bin" / "python")
    (own,) = {Path(found["XDG_CACHE_HOME"])}
    assert all(Path(found[name]).is_relative_to(own) for name in CACHES)
    # Nothing is left for a later run either.
    assert not own.exists()
    assert "TRANSFORMERS_CACHE" not in found
    assert (found["PIP_CACHE_DIR"], found["UV_CACHE_DIR"]) == ("/home/me/cache/pip", "/home/me/cache/uv")


def test_the_gate_installs_with_uv_though_the_machine_has_none_and_without_it_too(clone: Path) -> None:
    python = clone.parent / "bin" / "python3"
    stand_in(python, status=1)
    done = run(clone, ".ci/run")
    assert done.returncode == 0, done.stderr
    (folder,) = re.findall(r"called python3 -m pip install --quiet --target (\S+) uv\n", done.stdout)
    given = (clone / "launch" / "install.sh.env").read_text()
    assert f":{folder}/bin\n" in given
    assert "PIP_COMPILE=0\n" in given
    stand_in(clone.parent / "bin" / "uv")
    assert "called python3" not in run(clone, ".ci/run").stdout


@pytest.mark.parametrize("tool", ["ruff", "lint-imports", "mypy", "python"])
def test_one_check_that_fails_fails_the_gate_after_all_have_run(clone: Path, tool: str) -> None:
    stand_in(clone / ".venv" / "bin" / tool, status=1)
    done = run(clone, ".ci/run")
    assert done.returncode != 0
    for called in ("ruff check .", "ruff format --check .", "lint-imports", "mypy", "python -m pytest"):
        assert f"called {called}" in done.stdout


def test_tests_are_those_of_every_change_in_processes_that_begin_with_the_long_files(clone: Path) -> None:
    done = run(clone, "launch/test.sh", "-k", "name")
    (called,) = re.findall(r"called python -m pytest (.*)", done.stdout)
    assert "PYTHONDONTWRITEBYTECODE" not in seen(clone / ".venv" / "bin" / "python")
    assert re.fullmatch(r"-n \d+ --dist loadfile --no-loadscope-reorder -k name", called)
    assert re.search(r"^test.sh: 0 min \d+ s$", done.stdout, flags=re.MULTILINE)


def test_the_exit_code_of_the_tests_is_that_of_the_command(clone: Path) -> None:
    stand_in(clone / ".venv" / "bin" / "python", status=5)
    assert run(clone, "launch/test.sh").returncode == 5


def test_nothing_nightly_is_run_on_every_change(repo_root: Path) -> None:
    options = (repo_root / "pyproject.toml").read_text()
    assert "-m 'not nightly'" in options
    assert "-m nightly" in (repo_root / "Makefile").read_text()
