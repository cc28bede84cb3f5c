"""What is called here starts its processes plainly, also beside integration tests that have a server to fork from."""

from __future__ import annotations

import pytest

from pipeline.system.fork_server import FORK_SERVER


@pytest.fixture(autouse=True)
def _no_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORK_SERVER, raising=False)
