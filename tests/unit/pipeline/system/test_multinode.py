"""Several nodes: what the environment must say, what each node starts, and that none goes on without the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.derived import world_size
from pipeline.config.schema import LaunchConfig, RunConfig
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.system import multinode
from pipeline.system.processes import run_child
from tests.waiting import wait_for


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of node 0 of two, whose torchrun executes its first argument."""
    for name, value in {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    package = tmp_path / "stand_in" / "torch" / "distributed"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "run.py").write_text("import sys\ncode = sys.argv.pop(1)\nexec(code)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))


CONDUCTOR = """
import sys
from pathlib import Path
from pipeline.system import multinode as nodes
nodes.GRACE, nodes.BEAT, nodes.LOST = 1, 0.2, 5
phase = '''
import os, sys, time
from pathlib import Path
from pipeline.system import multinode as nodes
words = ["-m", "torch.distributed.run", {words!r}, nodes._NODE]
with nodes.elsewhere(words, {{"CLGRPO_LOGS": {logs!r}}}):
    while not Path({until!r}).exists():
        time.sleep(0.05)
'''
folder, words, until = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with nodes.conducted(folder) as run:
    code = run([sys.executable, "-c", phase.format(words=words, logs=str(folder), until=until)])
    print("phase ended with", code, flush=True)
"""
FOLLOWER = """
import sys
from pathlib import Path
from pipeline.system import multinode as nodes
nodes.BEAT, nodes.LOST, nodes.PATIENCE = 0.2, 5, 30
sys.exit(nodes.follow(Path(sys.argv[1])))
"""


def start(node: int, code: str, *words: object) -> subprocess.Popen[str]:
    """A node as a process of its own."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[4]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "NODE_RANK": str(node), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
    for value in ("two", "", "1:2", "²", "0", "00"):
        monkeypatch.setenv("NNODES", value)
        with pytest.raises(UserError, match=r"NNODES is .*, or unset"):
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
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, tmp_path / "ran-on-1"), start(1, FOLLOWER, tmp_path)
    said = conductor.communicate(timeout=60)[0]
    assert "phase ended with 0" in said, said
    assert follower.wait(timeout=60) == 0
    assert (tmp_path / "ran-on-1").exists()


def test_a_node_that_dies_stops_the_others(two, tmp_path):
    work = f"import time; open(r'{tmp_path}/begun', 'w'); time.sleep(100)"
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, tmp_path / "never"), start(1, FOLLOWER, tmp_path)
    wait_for((tmp_path / "begun").exists)
    follower.send_signal(signal.SIGKILL)
    said = conductor.communicate(timeout=60)[0]
    assert conductor.returncode != 0
    assert "node 1 is gone" in said
    follower.wait()

    # The file of the follower that was killed is still there.
    (tmp_path / "begun").unlink()
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, tmp_path / "never"), start(1, FOLLOWER, tmp_path)
    wait_for((tmp_path / "begun").exists)
    conductor.send_signal(signal.SIGKILL)
    said = follower.communicate(timeout=60)[0]
    assert follower.returncode != 0
    assert "node 0 (127.0.0.1) is gone" in said
    conductor.wait()


def test_workers_that_fail_on_another_node_end_a_phase_that_does_not_notice(two, tmp_path):
    conductor, follower = (
        start(0, CONDUCTOR, tmp_path, "raise SystemExit(3)", tmp_path / "never"),
        start(1, FOLLOWER, tmp_path),
    )
    said = conductor.communicate(timeout=60)[0]
    assert "the workers of node 1 failed" in said
    assert follower.wait(timeout=60) == 1


def test_ctrl_c_on_another_node_stops_the_phase_in_order(two, tmp_path):
    work = f"import time; open(r'{tmp_path}/begun', 'w'); time.sleep(100)"
    conductor, follower = start(0, CONDUCTOR, tmp_path, work, tmp_path / "never"), start(1, FOLLOWER, tmp_path)
    wait_for((tmp_path / "begun").exists)
    follower.send_signal(signal.SIGINT)
    said = conductor.communicate(timeout=60)[0]
    assert f"phase ended with {-signal.SIGTERM}" in said, said
    assert follower.wait(timeout=60) == 0


def test_a_node_does_not_follow_a_run_that_was_over_before_it_came(two, tmp_path):
    """Files of a run that ended, or was killed, stand still; those of one that lives do not."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    write_json(nodes / "run.json", {"run": "old", "beat": 7})
    write_json(nodes / "job.json", {"run": "old", "job": "1", "words": ["-c", "raise SystemExit"], "environment": {}})
    follower = start(1, FOLLOWER, tmp_path)
    work = f"import sys; open(r'{tmp_path}/ran-on-' + sys.argv[1], 'w')"
    conductor = start(0, CONDUCTOR, tmp_path, work, tmp_path / "ran-on-1")
    assert "phase ended with 0" in conductor.communicate(timeout=60)[0]
    assert follower.wait(timeout=60) == 0
    assert (tmp_path / "ran-on-1").exists()


def test_a_node_starts_torchruns_and_nothing_else(two, tmp_path):
    with pytest.raises(UserError, match="this node starts torchruns alone, not -c"):
        multinode._start({"words": ["-c", "print()", "{node}"], "environment": {"CLGRPO_LOGS": str(tmp_path)}})


SRUN = """#!/bin/sh
echo "$@" >>"$CALLS"
while [ "${1#--}" != "$1" ]; do case $1 in --ntasks=*) tasks=${1#*=} ;; esac; shift; done
trap 'kill -KILL $started' INT
k=0
while [ $k -lt "$tasks" ]; do SLURM_PROCID=$k "$@" & started="$started $!"; k=$((k + 1)); done
wait
"""


@pytest.fixture
def srun(two, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job of two nodes, both this machine; the calls of srun."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv(multinode.BY_SRUN, "1")
    return tmp_path / "calls"


def test_under_slurm_srun_starts_a_torchrun_with_its_number_on_every_node(srun, tmp_path):
    code = f"import os, sys; open(r'{tmp_path}/' + sys.argv[1], 'w').write(os.environ['GIVEN'])"
    words = ["-m", "torch.distributed.run", code, multinode._NODE]
    with multinode.conducted(tmp_path) as run, multinode.elsewhere(words, {}):
        # Node 0 alone runs the pipeline.
        assert run is run_child
        launcher = multinode.start(words, tmp_path / "log", {"GIVEN": "word"})
        assert launcher.wait(timeout=60) == 0
    assert [(tmp_path / node).read_text() for node in "01"] == ["word", "word"]
    assert srun.read_text().startswith("--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 ")
    # What one process does needs no srun.
    assert multinode.start(["-c", "pass"], tmp_path / "log", {}).wait(timeout=60) == 0
    assert len(srun.read_text().splitlines()) == 1


def test_a_stop_under_slurm_ends_the_workers_of_all_nodes(srun, tmp_path):
    code = f"import os, sys, time; open(r'{tmp_path}/' + sys.argv[1], 'w').write(str(os.getpid())); time.sleep(100)"
    launcher = multinode.start(["-m", "torch.distributed.run", code, multinode._NODE], tmp_path / "log", {})
    for node in "01":
        wait_for((tmp_path / node).exists)
    multinode.end(launcher)
    launcher.wait(timeout=10)
    time.sleep(0.2)
    for node in "01":
        process = Path("/proc") / (tmp_path / node).read_text()
        # None, or one that nobody buried.
        assert not process.exists() or not (process / "cmdline").read_bytes()
