"""One small whole run, made once and shared by the tests of the stages, in all processes that run them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import AT_ONCE, HERE, Small
from tiers import made_once, session_folder

from pipeline.conductor.run import IMPORTED_ONCE
from pipeline.run_dir import RunDir
from pipeline.system.fork_server import fork_server


@pytest.fixture(scope="session", autouse=True)
def _imported_once() -> Iterator[None]:
    """Workers of all tests of this process are forked as those of one run are: half of a short stage is its imports."""
    # Where the tests' own reward is found; a worker whose environment is another is started plainly.
    os.environ["PYTHONPATH"] = str(HERE)
    with fork_server(IMPORTED_ONCE):
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Small:
    """The folder of this session's small runs, which no test's run has to itself: each takes a name of its own."""
    return Small(session_folder(tmp_path_factory) / "runs", repo_root)


@pytest.fixture(scope="session")
def whole_run(small: Small) -> tuple[RunDir, str]:
    """(the run, its output): `python -m pipeline run` on small.yaml, from nothing to the report, undisturbed.

    Read it and copy from it; what is changed in it is changed under the tests of another process.
    """
    output = made_once(small.root / "once", lambda: small.run("pipeline run", AT_ONCE))
    return small.run_dir(), output
