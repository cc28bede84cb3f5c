"""Several nodes: what the environment must say, what each node starts, and that none goes on without the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.derived import world_size
from pipeline.config.schema import LaunchConfig, RunConfig
from pipeline.errors import UserError
from pipeline.system import multinode


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> int:
    """The environment of node 0 of two, and the port they meet at."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    for name, value in {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    return port


CONDUCTOR = """
import sys
from pathlib import Path
from pipeline.system import multinode as nodes
nodes.GRACE = 1
phase = '''
import os, sys, time
from pipeline.system import multinode as nodes
words = ["-c", {words!r}, nodes._NODE]
with nodes.elsewhere(words, {{"CLGRPO_LOGS": {logs!r}}}):
    time.sleep({seconds})
'''
folder, words, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with nodes.conducted(folder) as run:
    code = run([sys.executable, "-c", phase.format(words=words, logs=str(folder), seconds=seconds)])
    print("phase ended with", code, flush=True)
"""
FOLLOWER = "import sys\nfrom pipeline.system import multinode as nodes\nsys.exit(nodes.follow())\n"


def start(node: int, code: str, *words: object) -> subprocess.Popen[str]:
    """A node as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "NODE_RANK": str(node), "PYTHONPATH": str(Path(__file__).resolve().parents[4])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def appears(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.05)


def test_one_node_needs_nothing_and_several_need_an_address(monkeypatch):
    monkeypatch.delenv("NNODES", raising=False)
    assert list(multinode.problems()) == []
    assert multinode.rendezvous() == ["--standalone"]
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("NODE_RANK", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    told = " ".join(multinode.problems())
    assert "MASTER_ADDR is not set" in told
    assert "from 0 to 1" in told
    monkeypatch.setenv("NNODES", "two")
    with pytest.raises(UserError, match="NNODES is 'two'"):
        multinode.count()


def test_processes_of_all_nodes_count(two):
    config = RunConfig(name="run", launch=LaunchConfig(num_processes=4))
    assert world_size(config) == 8


def test_each_node_is_told_its_own_number(two):
    words = ["torchrun", *multinode.rendezvous()]
    assert "--node-rank=1" in multinode.on_node(words, 1)
    assert "--master-addr=127.0.0.1" in multinode.on_node(words, 0)


def test_a_stage_by_itself_says_that_several_nodes_need_the_conductor(two, monkeypatch):
    monkeypatch.delenv("CLGRPO_NODES", raising=False)
    with pytest.raises(UserError, match="python -m pipeline run"), multinode.elsewhere(multinode.rendezvous(), {}):
        pass


def test_another_node_runs_the_same_command_and_ends_with_the_run(two, tmp_path):
    work = f"import sys; open(r'{tmp_path}/ran-on-' + sys.argv[1], 'w')"
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, 3), start(1, FOLLOWER)
    said = conductor.communicate(timeout=60)[0]
    assert "phase ended with 0" in said, said
    assert follower.wait(timeout=60) == 0
    assert (tmp_path / "ran-on-1").exists()


def test_a_node_that_dies_stops_the_others(two, tmp_path):
    work = f"import time; open(r'{tmp_path}/begun', 'w'); time.sleep(100)"
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, 100), start(1, FOLLOWER)
    appears(tmp_path / "begun")
    follower.send_signal(signal.SIGKILL)
    said = conductor.communicate(timeout=60)[0]
    assert conductor.returncode != 0
    assert "node 1 is gone" in said
    follower.wait()

    (tmp_path / "begun").unlink()
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, 100), start(1, FOLLOWER)
    appears(tmp_path / "begun")
    conductor.send_signal(signal.SIGKILL)
    said = follower.communicate(timeout=60)[0]
    assert follower.returncode != 0
    assert "node 0 (127.0.0.1) is gone" in said
    conductor.wait()


def test_workers_that_fail_on_another_node_end_a_phase_that_does_not_notice(two, tmp_path):
    conductor, follower = start(0, CONDUCTOR, tmp_path, "raise SystemExit(3)", 100), start(1, FOLLOWER)
    said = conductor.communicate(timeout=60)[0]
    assert "the workers of node 1 failed" in said
    assert follower.wait(timeout=60) == 1
