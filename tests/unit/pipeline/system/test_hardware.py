"""What a machine has to give, as a container on it sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.system.hardware import _container_memory, usable_cores


@pytest.mark.parametrize(
    ("limit", "free"), [("8000", [8000 - 5000 + 1000]), ("max", []), ("3000", [0]), ("nonsense", []), (None, [])]
)
def test_a_container_has_what_its_limit_leaves_and_cached_files_hold(limit, free, tmp_path: Path) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1000\n")
    assert _container_memory(tmp_path) == free


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 3), ("nonsense", 3), (None, 3)],
)
def test_a_container_has_the_cores_that_its_time_is_enough_for(limit, cores, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5})
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == cores
