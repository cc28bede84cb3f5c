"""What a machine has to give, as a container on it sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.system.hardware import _container_memory


@pytest.mark.parametrize(
    ("limit", "free"), [("8000", [8000 - 5000 + 1000]), ("max", []), ("3000", [0]), ("nonsense", []), (None, [])]
)
def test_a_container_has_what_its_limit_leaves_and_cached_files_hold(limit, free, tmp_path: Path) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1000\n")
    assert _container_memory(tmp_path) == free
