"""What every test starts from: one thread, no network, the rooms importable, and a way to run an entry point as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.logs import log_to_terminal
from pipeline.system.library_patches import prepare_libraries

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    # two threads on busy cores make training 7-40 times slower
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# before any test module imports torch
os.environ.update(ENVIRONMENT)
prepare_libraries()
# as every entry point does
log_to_terminal()

LONGEST = (
    "test_stages_combinations.py",
    "test_stages_whole_run.py",
    "test_stages_bfloat16.py",
    "test_cot_builder_vllm.py",
    "test_stages_killed.py",
    "test_stages_rollouts.py",
    "test_stages_handover.py",
    "test_stages_deepspeed.py",
    "test_stages_alarms.py",
    "test_stages_lab.py",
    "test_stages_shared_prefix.py",
    "test_watching.py",
    "test_cot_builder_faults.py",
    "test_stages_families.py",
    "test_stages_shared_prefix_options.py",
)
"""Files of tests that take minutes, begun in this order and before all others, so that no core waits for another at the end.

Those before `test_stages_killed.py` ask nothing of the small whole run, which the second makes for those behind."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, then the other integration tests, then the quick ones. Tests of a file stay together."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place) + ("integration" not in item.path.parts)))


RunModule = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image sets beside the repository; tests that need it are skipped where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real image sets are not here (looked in ../shared/data)")
    return path


@pytest.fixture(scope="session")
def run_module() -> RunModule:
    """``run_module("stages.grpo", "--stage", "3", timeout=300, env={...})``: ``python -m …`` from the repository root.

    Words may be paths or numbers. Returns the completed process with its text output; `check=True` fails the test with
    the last lines of both streams when the exit code is not 0.
    """

    def run(
        module: str,
        *words: object,
        timeout: float = 300,
        env: dict[str, str] | None = None,
        check: bool = False,
        cwd: Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"python -m {module} {' '.join(map(str, words))} exited with {done.returncode}\n"
                f"--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-6000:]}",
                pytrace=False,
            )
        return done

    return run
