"""Two runs compared bit for bit: what a clock decides is left out, a changed weight or figure is not."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.same_bits import compare


def run(folder: Path, weights: bytes, **record: object) -> Path:
    (folder / "stage1").mkdir(parents=True)
    (folder / "stage1" / "model.safetensors").write_bytes(weights)
    (folder / "stage1" / "stage.json").write_text(json.dumps(record))
    (folder / "stage1" / "rank0.log").write_text(str(folder))
    return folder


def test_seconds_may_differ_and_nothing_else(tmp_path: Path) -> None:
    old = run(tmp_path / "old", b"1", seconds=1.0, loss=0.5)
    assert {what for what, _ in compare(old, run(tmp_path / "new", b"1", seconds=2.0, loss=0.5))} == {
        "same",
        "uncompared",
    }
    assert ("other", "stage1/stage.json") in compare(old, run(tmp_path / "loss", b"1", seconds=1.0, loss=0.6))
    assert ("other", "stage1/model.safetensors") in compare(old, run(tmp_path / "weights", b"2", seconds=1.0, loss=0.5))


def test_a_file_that_is_in_one_run_alone_is_named(tmp_path: Path) -> None:
    old, new = run(tmp_path / "old", b"1"), run(tmp_path / "new", b"1")
    (new / "stage1" / "stage.json").unlink()
    (new / "report.json").write_text("{}")
    assert {("gone", "stage1/stage.json"), ("new", "report.json")} <= set(compare(old, new))
