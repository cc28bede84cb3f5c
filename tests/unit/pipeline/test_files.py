"""Writes that a crash cannot tear, logs with a torn last line, digests that stay the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import files
from pipeline.files import digest, file_digest, is_path, read_jsonl, weights_digest, write_atomic


def test_an_atomic_write_makes_folders_and_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomic(path, "long old content")
    write_atomic(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert path.stat().st_mode & 0o777 == 0o644
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "stage.json"
    write_atomic(path, "old")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["stage.json"]


def test_a_write_that_is_interrupted_leaves_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "stage.json", "new")
    assert os.listdir(tmp_path) == []


def test_rows_of_a_log_are_read_without_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
    assert list(read_jsonl(path)) == [{"step": 1}, {"step": 2}]
    # whole, but the writer always ends a line: it was killed before that
    path.write_text('{"step": 1}\n{"step": 2}')
    assert list(read_jsonl(path)) == [{"step": 1}]


def test_a_log_that_is_absent_or_empty_has_no_rows(tmp_path: Path) -> None:
    assert list(read_jsonl(tmp_path / "none.jsonl")) == []
    (tmp_path / "empty.jsonl").touch()
    assert list(read_jsonl(tmp_path / "empty.jsonl")) == []


def test_a_broken_line_inside_a_log_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        list(read_jsonl(path))


def test_digests_are_the_same_in_every_version() -> None:
    assert digest({"a": 1, "b": [1.5, None, "ü"]}) == "90e8974d1d3efb02932a83ed74dd764666f820f8cc2972f2e0b653a28d886f1a"


def test_a_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert len({digest(value) for value in ([1, 2], [2, 1], ["1", 2], {"1": 2}, None, "")}) == 6


def test_a_checkpoint_s_digest_follows_its_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"one")
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    before = weights_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model-2.safetensors").write_bytes(b"twp")
    assert weights_digest(tmp_path) != before
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model-2.safetensors").rename(tmp_path / "model-3.safetensors")
    assert weights_digest(tmp_path) != before


def test_a_folder_without_safetensors_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert weights_digest(tmp_path) is None
    assert weights_digest(tmp_path / "absent") is None


def test_a_file_s_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gpt2", False),
        ("org/model", False),
        ("org/model@v1", False),
        # A revision may have slashes, as those of a hub's pull requests do.
        ("timm/x@refs/pr/3", False),
        ("org/model@feature/new", False),
        ("runs/x/final", True),
        ("runs/x/final@v1", True),
        ("./model", True),
        ("/models/x", True),
        ("~/model", True),
    ],
)
def test_a_model_is_named_by_its_place_or_by_its_id(source: str, expected: bool) -> None:
    assert is_path(source) is expected
