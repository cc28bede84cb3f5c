"""What fetches the pretrained parts that tests and examples are composed of."""

from __future__ import annotations

from pathlib import Path

import pytest
import real_parts


def test_a_relative_folder_is_of_where_the_command_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is called in a folder of its own, where a relative path names another place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(real_parts.NEEDS, "smollm2", "json")

    def make(work: Path) -> Path:
        assert work.is_absolute()
        (work / "made").mkdir()
        return work / "made"

    monkeypatch.setitem(real_parts._MAKERS, "smollm2", make)
    assert real_parts.part("smollm2", Path("parts")) == tmp_path / "parts" / "smollm2"
    assert (tmp_path / "parts" / "smollm2").is_dir()
