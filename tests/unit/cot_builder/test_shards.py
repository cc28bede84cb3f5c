"""A build split over machines gives the bytes of an unsharded one, or says which part is missing."""

from __future__ import annotations

import json

import pytest

from cot_builder.__main__ import main


def shard(project, number: int, of: int, *words: str) -> int:
    return main(["build", "--config", str(project.config), "--shard", f"{number}/{of}", *words])


def merge(project, of: int, *words: str) -> int:
    return main(["merge", "--config", str(project.config), "--shards", str(of), *words])


@pytest.fixture
def whole(tmp_path, drawn, project, serve):
    """train.parquet of an unsharded build of the same rows."""
    other = type(project)(tmp_path / "whole", drawn)
    other.ask(serve(), attempts=2)
    assert other.build() == 0
    return other.parquet()


def test_merged_shards_are_byte_for_byte_the_unsharded_build(project, serve, whole):
    stub = serve()
    project.ask(stub, attempts=2)
    for number in (2, 0, 1):
        assert shard(project, number, 3) == 0
    asked = len(stub.requests)
    assert not (project.cot / "train.parquet").exists()
    assert merge(project, 3) == 0
    assert project.parquet() == whole
    assert len(stub.requests) == asked == len(stub.answered)
    assert merge(project, 3) == 0
    assert project.parquet() == whole
    assert project.build() == 0  # The whole build's journal has everything now.
    assert len(stub.requests) == asked


def test_a_shard_asks_about_its_own_rows_only(project, serve):
    stub = serve()
    project.ask(stub)
    assert shard(project, 1, 4) == 0
    assert len(stub.requests) == 10
    record = json.loads((project.cot / "shards" / "1-of-4" / "shard.json").read_text())
    assert (record["status"], record["rows"], record["unasked"]) == ("complete", 10, 0)


def test_a_missing_and_an_incomplete_shard_are_both_named(project, serve, capsys):
    project.ask(serve(fault=lambda n, seed: "503" if n >= 5 else None), teacher={"retries": 1})
    assert shard(project, 0, 3) == 3
    project.ask(serve())
    assert shard(project, 2, 3) == 0
    assert merge(project, 3) == 2
    said = capsys.readouterr().err
    assert "0-of-3: is incomplete" in said
    assert "1-of-3: there is no such shard; build it with" in said
    assert "2-of-3" not in said.replace("shard 2/3", "")
    assert project.manifest()["status"] == "incomplete"


def test_a_shard_of_other_settings_is_refused(project, serve, capsys):
    project.ask(serve())
    assert shard(project, 0, 1) == 0
    assert merge(project, 1, "cot.attempts=3") == 2
    assert "other settings (cot.attempts: 1 -> 3)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "1/0", ""])
def test_a_shard_must_be_one_of_n(project, serve, capsys, text):
    project.ask(serve())
    if text:
        assert main(["build", "--config", str(project.config), f"--shard={text}"]) == 2
        assert "is not i/n with i from 0 to n-1" in capsys.readouterr().err
