"""Locks between processes: who waits, who is refused, and what a killed holder leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.system.locks import acquire, exclusive, is_held

HOLD = """
import sys, time
from pathlib import Path
from pipeline.system.locks import acquire
file = acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path, repo_root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/lock."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(words, cwd=repo_root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_refused_while_another_process_lives_and_free_after_its_kill(tmp_path, holder):
    assert is_held(tmp_path / "lock")
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        acquire(tmp_path / "lock", wait=0.3)
    assert time.monotonic() - began >= 0.3
    holder.kill()
    with acquire(tmp_path / "lock", wait=10):
        pass
    assert not is_held(tmp_path / "lock")


def test_a_lock_keeps_what_is_in_its_file_and_asking_makes_none(tmp_path):
    assert not is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "rows").write_text("one\n")
    with acquire(tmp_path / "rows") as file:
        file.write("two\n")
    assert (tmp_path / "rows").read_text() == "one\ntwo\n"


def test_work_done_once_goes_on_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError("No locks available")

    monkeypatch.setattr("pipeline.system.locks.fcntl.flock", flock)
    with exclusive(tmp_path / "index.json"):
        (tmp_path / "index.json").write_text("{}")
    with pytest.raises(OSError, match="No locks"):
        acquire(tmp_path / "lock")
