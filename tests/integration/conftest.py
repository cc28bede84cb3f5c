"""One small whole run, made once and shared by the tests of the stages."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import Small

from pipeline.run_dir import RunDir


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Small:
    """The folder of this session's small runs."""
    return Small(tmp_path_factory.mktemp("runs"), repo_root)


@pytest.fixture(scope="session")
def whole_run(small: Small) -> tuple[RunDir, str]:
    """(the run, its output): `python -m pipeline run` on small.yaml, from nothing to the report, undisturbed."""
    output = small.run("pipeline run")
    return small.run_dir(), output
