"""A run's folder: path names and records."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.files import write_atomic, write_json
from pipeline.run_dir import BASE, COT, RunDir


def test_every_path_lies_in_the_run_s_folder(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "demo")
    assert run.phase("stage1_sft") == tmp_path / "demo" / "stage1_sft"
    assert run.final("stage1_sft") == tmp_path / "demo" / "stage1_sft" / "final"
    assert run.record_path(COT) == run.cot / "manifest.json"
    assert run.record_path(BASE) == tmp_path / "demo" / "base" / "stage.json"
    assert run.cache == tmp_path / ".cache"


def test_a_record_is_none_until_it_is_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "demo")
    assert run.record("stage1_sft") is None
    write_json(run.record_path("stage1_sft"), {"status": "complete", "path": tmp_path})
    assert run.record("stage1_sft") == {"status": "complete", "path": str(tmp_path)}


@pytest.mark.parametrize("text", ["", '{"status": "comp', "[]"])
def test_a_record_that_is_no_json_object_is_a_user_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    run = RunDir(tmp_path, "demo")
    write_atomic(run.record_path("stage1_sft"), text)
    with pytest.raises(UserError, match=r"stage1_sft/stage\.json is not a record .* --clean stage1_sft"):
        run.record("stage1_sft")
