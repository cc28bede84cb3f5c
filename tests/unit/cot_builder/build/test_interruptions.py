"""A build that is interrupted, by a key or by a fault: what was paid for is on record, what was not asked is counted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml

from cot_builder.build.plan import plan
from pipeline.config.loader import load
from tests.heeded_signals import heed_signals
from tests.waiting import wait_for


@pytest.fixture
def start(project, repo_root):
    """Start ``python -m MODULE WORDS`` on the project in a process group of its own, as a terminal does."""
    processes: list[subprocess.Popen[str]] = []

    def run(module: str, *words: str, **options) -> subprocess.Popen[str]:
        options.setdefault("preexec_fn", heed_signals)
        command = [sys.executable, "-m", module, *words, "--config", str(project.config)]
        processes.append(
            subprocess.Popen(
                command, cwd=repo_root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True, text=True, **options,
            )
        )  # fmt: skip
        return processes[-1]

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def press(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """What a terminal does: every process in the foreground gets the signal."""
    os.killpg(process.pid, number)


def recorded(project) -> int:
    """Replies on record."""
    with contextlib.closing(sqlite3.connect(project.cot / "journal" / "replies.sqlite")) as journal:
        return journal.execute("SELECT COUNT(*) FROM replies").fetchone()[0]


@pytest.mark.parametrize("words", [("cot_builder", "build"), ("pipeline", "run")], ids=" ".join)
def test_ctrl_c_records_the_replies_in_flight(project, serve, start, words):
    stub = serve(latency=1.0)
    project.ask(stub)
    config = yaml.safe_load(project.config.read_text())
    config["stages"] = {"stage1_sft": {"algorithm": "sft", "init_from": "base", "data": "cot"}}
    project.config.write_text(yaml.safe_dump(config))
    process = start(*words)
    wait_for(lambda: stub.count >= 4)
    press(process, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert recorded(project) == stub.count == 4


def test_a_second_ctrl_c_ends_at_once_with_exit_code_130(project, serve, start):
    stub = serve(fault=lambda n, seed: "hang")
    project.ask(stub, teacher={"timeout": 600.0})
    process = start("cot_builder", "build")
    wait_for(lambda: stub.count >= 4)
    press(process, signal.SIGINT)
    time.sleep(0.3)
    # It waits for what is in flight.
    assert process.poll() is None
    press(process, signal.SIGINT)
    # Not the ten minutes that a reply may take.
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_terminal_that_closes_is_like_ctrl_c(project, serve, start):
    stub = serve(latency=0.5)
    project.ask(stub)
    process = start("cot_builder", "build")
    wait_for(lambda: stub.count >= 4)
    press(process, signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP
    assert recorded(project) == stub.count == 4


def test_under_nohup_a_terminal_that_closes_changes_nothing(project, serve, start):
    stub = serve(latency=0.2)
    project.ask(stub, rows=8)
    process = start("cot_builder", "build", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: stub.count >= 4)
    press(process, signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert project.manifest()["status"] == "complete"


def test_asking_leaves_the_signals_to_whoever_had_them(project, serve):
    def mine(*_: object) -> None:
        """The handler of a program that runs a build."""

    before = signal.signal(signal.SIGTERM, mine)
    try:
        project.ask(serve(), rows=3)
        project.build()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fault_on_one_row_keeps_the_replies_in_flight(project, serve, monkeypatch):
    from cot_builder.filters import accept
    from cot_builder.recipes import reasoning

    judge, judged = accept.accept, []

    def faulty(*words):
        judged.append(words)
        if len(judged) == 2:
            raise RuntimeError("a fault in a filter")
        return judge(*words)

    stub = serve(fault=lambda n, seed: None if n < 2 else 0.5)
    project.ask(stub)
    with monkeypatch.context() as patched:
        patched.setattr(reasoning, "accept", faulty)
        with pytest.raises(RuntimeError, match="a fault in a filter"):
            project.build()
    assert 2 < stub.count < 40
    assert recorded(project) == stub.count
    assert project.manifest()["status"] == "incomplete"
    stub.fault = lambda n, seed: None
    assert project.build() == 0
    assert stub.count == 40


def test_pictures_that_go_away_leave_their_rows_unasked_until_they_are_back(tmp_path, serve, project):
    # Of its own, not those that all tests share.
    shutil.rmtree(tmp_path / "runs" / ".cache")
    stub = serve()
    project.ask(stub)
    folder = plan(load(project.config)).split.rows[0].images[0].parent
    away = folder.with_name("away")

    def unmount(n: int, _: int) -> None:
        if n == 10:
            folder.rename(away)

    stub.fault = unmount
    assert project.build() == 3
    manifest = project.manifest()
    assert manifest["status"] == "incomplete"
    assert "unreadable_image" not in manifest["rejected_rows_by_reason"]
    assert manifest["rows"]["unasked"] == 40 - stub.count > 0
    assert not (project.cot / "train.parquet").exists()
    away.rename(folder)
    assert project.build() == 0
    assert project.manifest()["rows"]["unasked"] == 0
    assert set(stub.answered.values()) == {1}
    assert stub.count == 40


def test_a_shard_whose_teacher_is_down_counts_every_row_it_did_not_ask(project, serve):
    stub = serve()
    stub.stop()
    project.ask(stub)
    assert project.build("--shard", "0/2") == 3
    record = json.loads((project.cot / "shards" / "0-of-2" / "shard.json").read_text())
    assert (record["status"], record["rows"], record["unasked"]) == ("incomplete", 20, 20)
