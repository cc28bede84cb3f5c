"""A build split over machines gives the bytes of an unsharded one, or says which part is missing."""

from __future__ import annotations

import json
import shutil

import pytest

from cot_builder import prompts
from cot_builder.__main__ import main
from cot_builder.build.journal import ReplyCache


def shard(project, number: int, of: int, *words: str) -> int:
    return main(["build", "--config", str(project.config), "--shard", f"{number}/{of}", *words])


def merge(project, of: int, *words: str) -> int:
    return main(["merge", "--config", str(project.config), "--shards", str(of), *words])


@pytest.fixture
def whole(tmp_path, project, serve):
    """train.parquet of an unsharded build of the same rows."""
    other = type(project)(tmp_path / "whole")
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
    # The whole build's journal has everything now.
    assert project.build() == 0
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


def test_a_shard_of_other_settings_is_refused(project, serve, capsys):
    project.ask(serve())
    assert shard(project, 0, 1) == 0
    assert merge(project, 1, "cot.attempts=3") == 2
    assert "other settings (cot.attempts: 1 -> 3)" in capsys.readouterr().err


def test_a_shard_asked_with_another_prompt_is_refused(tmp_path, project, serve, capsys, monkeypatch):
    project.ask(serve())
    assert shard(project, 0, 1) == 0
    shutil.copytree(prompts.FOLDER, tmp_path / "prompts")
    with (tmp_path / "prompts" / "answer_given_v1.jinja").open("a") as file:
        file.write("Be brief.")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path / "prompts")
    assert merge(project, 1) == 2
    assert "other settings (prompts.answer_given_v1" in capsys.readouterr().err


def test_what_is_refused_leaves_a_complete_build_complete(project, serve, capsys):
    project.ask(serve())
    assert project.build() == 0
    rows = project.parquet()
    assert merge(project, 2) == 2
    with ReplyCache(project.cot / "journal"):
        assert project.build() == 2
        assert merge(project, 2) == 2
    assert capsys.readouterr().err.count("another build is using this journal") == 2
    assert project.manifest()["status"] == "complete"
    assert project.parquet() == rows


def test_what_a_shard_asked_again_after_a_refusal_reaches_the_merge(project, serve, whole):
    stub = serve(fault=lambda n, seed: "400" if n < 10 else None)
    project.ask(stub, attempts=2)
    assert shard(project, 0, 1) == 0
    assert merge(project, 1) == 0
    assert project.manifest()["rejected_replies_by_reason"]["request_refused"] == 10
    assert shard(project, 0, 1, "--retry-refused") == 0
    assert merge(project, 1) == 0
    assert "request_refused" not in project.manifest()["rejected_replies_by_reason"]
    assert project.parquet() == whole


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "1/0", ""])
def test_a_shard_must_be_one_of_n(project, serve, capsys, text):
    project.ask(serve())
    if text:
        assert main(["build", "--config", str(project.config), f"--shard={text}"]) == 2
        assert "is not i/n with i from 0 to n-1" in capsys.readouterr().err
