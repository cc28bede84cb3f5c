"""A run on several nodes: every training phase is one torchrun over all of them, started by srun or by each node itself.

The environment says so, in torchrun's words: NNODES, NODE_RANK, MASTER_ADDR (node 0). Nothing here listens on the network.

- Under SLURM (launch/slurm/train.sbatch) node 0 alone runs the pipeline, and srun starts its torchruns on all nodes.
- Elsewhere the same command runs on each node. Node 0 conducts; the others follow it through small files in the run's folder,
  which all nodes share: `nodes/run.json` (node 0 lives, or how it ended), `nodes/job.json` (the torchrun of the present phase),
  `nodes/node-1.json` (that node lives, how its share ended, or that it was asked to stop).

A node whose file stands still is lost, and ends the run on all; the same command on every node goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.system.fork_server import forked
from pipeline.system.processes import STARTED_BY, child_environment, kill_session, on_signals, run_child, start_apart

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds nodes wait for each other at the start."""
BEAT = 2.0
"""Seconds between two signs of life of a node."""
LOST = 60.0
"""Seconds without one after which a node counts as lost; network file systems show a change late."""
GRACE = 30.0
"""Seconds a phase has to end by itself after the workers of another node failed: its own have more to say."""
BY_SRUN = "CLGRPO_SRUN"
"""Environment variable: set where this node is node 0 of a SLURM job, and srun starts what runs on all."""
_JOBS = "CLGRPO_NODES"
"""Environment variable: the folder in which a phase tells the other nodes what to start."""
_NODE = "{node}"
# Seconds srun has to end its tasks, of which SLURM's KillWait takes 30.
_ENDING = 40.0


def count() -> int:
    """Return the number of nodes of this run.

    Raises:
        UserError: when NNODES is no whole number from 1.
    """
    if not (nodes := _number("NNODES", 1)):
        raise UserError("the environment variable NNODES is 0; it must be a whole number from 1, or unset")
    return nodes


def rank() -> int:
    """Return this node's number; node 0 conducts."""
    return _number("NODE_RANK", 0) if count() > 1 else 0


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdigit()):
        raise UserError(f"the environment variable {variable} is {value!r}; it must be a whole number, or unset")
    return int(value)


def problems() -> Iterator[str]:
    """Tell what is wrong with the environment of a run on several nodes."""
    if count() > 1 and not os.environ.get("MASTER_ADDR"):
        yield f"NNODES is {count()} but MASTER_ADDR is not set; set it to the name or address of node 0, on every node"
    if count() > 1 and rank() >= count():
        yield f"NODE_RANK is {rank()}; with NNODES {count()} it must be from 0 to {count() - 1}"


def rendezvous() -> list[str]:
    """Return torchrun's options that bring the nodes of one launch together."""
    if count() == 1:
        return ["--standalone"]
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = os.environ["MASTER_ADDR"]
    return [f"--nnodes={count()}", f"--node-rank={_NODE}", f"--master-addr={address}", f"--master-port={port}"]


def on_node(words: Sequence[str], node: int = 0) -> list[str]:
    """Return a command as one node runs it."""
    return [word.replace(_NODE, str(node)) for word in words]


def _spans_nodes(words: Sequence[str]) -> bool:
    return any(_NODE in word for word in words)


def start(words: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start Python with these words, on all nodes where it is a torchrun of several nodes and srun starts those.

    Args:
        words: what comes after the interpreter.
        log: where its output goes.
        environment: what is added to this process's.
    """
    by_srun = BY_SRUN in os.environ and _spans_nodes(words)
    command = [sys.executable, *forked(on_node(words))]
    if by_srun:
        one_each = [f"--nodes={count()}", f"--ntasks={count()}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        command = ["srun", *one_each, sys.executable, "-m", "pipeline.system.multinode", *words]
    return start_apart(
        command,
        log,
        child_environment(**environment, **({} if by_srun else {STARTED_BY: str(os.getpid())})),
        # srun passes on to its tasks what it is sent; a torchrun would kill its workers in the middle of a save.
        dies_by=signal.SIGTERM if by_srun else signal.SIGKILL,
        deaf=not by_srun,
    )


def end(launcher: subprocess.Popen[bytes]) -> None:
    """End what `start` started if it lives, and its workers on all nodes."""
    if launcher.poll() is None and isinstance(launcher.args, list) and launcher.args[0] == "srun":
        # Twice within a second has srun end its tasks everywhere; killed, it would leave them.
        for _ in range(2):
            launcher.send_signal(signal.SIGINT)
            time.sleep(0.3)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(_ENDING)
    kill_session(launcher)


@contextlib.contextmanager
def elsewhere(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Have the nodes that follow run a command with these words after the interpreter; nothing for one of a single node.

    Raises:
        UserError: when no conductor runs.
    """
    if BY_SRUN in os.environ or not _spans_nodes(words):
        yield
        return
    if _JOBS not in os.environ:
        raise UserError("on several nodes (NNODES) stages are started by python -m pipeline run, on every node")
    job = Path(os.environ[_JOBS]) / "job.json"
    present = {"job": uuid.uuid4().hex, "run": read_json(job).get("run")}
    write_json(job, {**present, "words": list(words), "environment": dict(environment)})
    try:
        yield
    finally:
        write_json(job, present)


class _Watched:
    """A file of another node, read again and again.

    Args:
        path: the file.
        lost: seconds after which the node is lost when its `beat` stands still.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.beat, self.moved = path, None, time.monotonic()

    def read(self) -> dict[str, Any]:
        """Return what it says now."""
        said = read_json(self.path)
        if said.get("beat") != self.beat:
            self.beat, self.moved = said.get("beat"), time.monotonic()
        return said

    @property
    def lost(self) -> bool:
        """Whether it has stood still for too long, as it was last read."""
        return time.monotonic() - self.moved > LOST


class _Alive:
    """This node's file, which shows within the block that it lives.

    Args:
        path: the file.
        said: what it says beside the beat; `say` adds to it.
    """

    def __init__(self, path: Path, **said: Any) -> None:
        self.path, self.said, self.beat = path, said, 0
        self.over, self.lock = threading.Event(), threading.Lock()

    def say(self, **more: Any) -> None:
        """Write it anew, with more in it."""
        with self.lock:
            self.said |= more
            self.beat += 1
            write_json(self.path, {**self.said, "beat": self.beat})

    def _go_on(self) -> None:
        while not self.over.wait(BEAT):
            # A disk that is full for a moment.
            with contextlib.suppress(OSError):
                self.say()

    def __enter__(self) -> _Alive:
        self.say()
        threading.Thread(target=self._go_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()


class Followers:
    """Node 0's side: the other nodes, by their files.

    Args:
        folder: the run's, which every node must see.
        run: a word for this run, which their files must repeat.

    Raises:
        UserError: when they do not come in time.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run_id = folder, run
        self.nodes = {node: _Watched(folder / f"node-{node}.json") for node in range(1, count())}
        log.info("waiting for %s more nodes in %s", len(self.nodes), folder)
        deadline = time.monotonic() + PATIENCE
        while missing := [node for node, file in self.nodes.items() if file.read().get("run") != run]:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no word from nodes {missing} in {folder}; start the same command on every node, with output_dir on a disk "
                    "that all nodes share"
                )
            time.sleep(0.2)

    def run(self, command: Sequence[str], **how: Any) -> int:
        """Run a phase here, and its workers everywhere; its exit status.

        Raises:
            UserError: when another node is lost, or its workers fail and the phase does not end of it.
        """
        failed: dict[int, float] = {}
        stopped = False

        def meanwhile(child: subprocess.Popen[bytes]) -> None:
            nonlocal stopped
            time.sleep(0.2)
            job = read_json(self.folder / "job.json")
            for node, file in self.nodes.items():
                said = file.read()
                if file.lost or said.get("gone"):
                    raise UserError(f"node {node} is gone; start the same command on every node again, and it goes on")
                if said.get("stop") and not stopped:
                    stopped = True
                    child.send_signal(signal.SIGTERM)
                # One that aborts when all have done their work has failed nothing.
                if "words" in job and said.get("job") == job["job"] and said.get("exit"):
                    failed.setdefault(node, time.monotonic())
                elif failed.get(node) and said.get("job") != job.get("job"):
                    del failed[node]
                if node in failed and time.monotonic() - failed[node] > GRACE:
                    raise UserError(f"the workers of node {node} failed; what they said is in the logs of the phase")

        os.environ[_JOBS] = str(self.folder)
        try:
            return run_child(command, meanwhile=meanwhile, **how)
        finally:
            os.environ.pop(_JOBS)
            write_json(self.folder / "job.json", {"job": uuid.uuid4().hex, "run": self.run_id})


@contextlib.contextmanager
def conducted(folder: Path) -> Iterator[Callable[..., int]]:
    """Give how node 0 runs a phase (see `run_child`) on all nodes; those that follow end when this does, as this does.

    Args:
        folder: the run's.
    """
    if count() == 1 or BY_SRUN in os.environ:
        yield run_child
        return
    nodes, run = folder.resolve() / "nodes", uuid.uuid4().hex
    nodes.mkdir(parents=True, exist_ok=True)
    write_json(nodes / "job.json", {"job": "none", "run": run})
    with _Alive(nodes / "run.json", run=run) as alive:
        code = 1
        try:
            yield Followers(nodes, run).run
            code = 0
        finally:
            alive.say(bye=code)


def follow(folder: Path) -> int:
    """Return be a node that is not node 0: start this node's share of its torchruns until the run is over; the run's exit status.

    Args:
        folder: the run's, in which node 0 says what it does.

    Raises:
        UserError: when node 0 does not come in time, or is lost.
    """
    nodes = folder.resolve() / "nodes"
    conductor = _Watched(nodes / "run.json")
    run = _wait_for(conductor)
    log.info("node %s of %s follows %s", rank(), count(), os.environ["MASTER_ADDR"])
    pressed: list[int] = []
    job: subprocess.Popen[bytes] | None = None
    present = ""

    def press(number: int, frame: object) -> None:
        # What a batch system and a closed terminal send may come several times.
        if pressed and number == signal.SIGINT:
            raise KeyboardInterrupt
        pressed.append(number)

    with _Alive(nodes / f"node-{rank()}.json", run=run) as alive, on_signals(press):
        told = False
        try:
            while True:
                time.sleep(0.2)
                said = conductor.read()
                if said.get("run") != run or conductor.lost:
                    where = os.environ["MASTER_ADDR"]
                    raise UserError(f"node 0 ({where}) is gone; start the same command on every node again")
                if "bye" in said:
                    return int(said["bye"])
                if pressed and not told:
                    told = True
                    alive.say(stop=True)
                asked = read_json(nodes / "job.json")
                if asked.get("run") == run and asked["job"] != present:
                    present = asked["job"]
                    _end(job)
                    job = _start(asked) if "words" in asked else None
                    alive.say(job=present, exit=None)
                if job is not None and job.poll() is not None:
                    alive.say(exit=job.returncode)
                    job = None
        finally:
            _end(job)
            alive.say(gone=True)


def _wait_for(conductor: _Watched) -> str:
    """The word of node 0's run, once its file is seen to move: one that stands still is of a run before."""
    first, deadline = conductor.read(), time.monotonic() + PATIENCE
    while True:
        said = conductor.read()
        if said and "bye" not in said and said.get("beat") != first.get("beat"):
            return str(said["run"])
        if time.monotonic() > deadline:
            raise UserError(
                f"no word from node 0 in {conductor.path.parent}; is it started there, and does this node see its output_dir?"
            )
        time.sleep(0.2)


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """This node's torchrun, its own output beside node 0's.

    Raises:
        UserError: when a job is anything else.
    """
    words = job["words"]
    if words[:2] != ["-m", "torch.distributed.run"]:
        raise UserError(f"this node starts torchruns alone, not {' '.join(words[:2])}")
    logs = Path(job["environment"]["CLGRPO_LOGS"])
    return start_apart(
        [sys.executable, *on_node(words, rank())],
        logs / f"launcher-node{rank()}.log",
        child_environment(**job["environment"], **{STARTED_BY: str(os.getpid())}),
        dies_by=signal.SIGKILL,
        deaf=True,
    )


def _end(job: subprocess.Popen[bytes] | None) -> None:
    """Give a launcher whose workers have ended a moment to end too; kill it otherwise, and its workers with it."""
    if job is None:
        return
    try:
        job.wait(timeout=2)
    except subprocess.TimeoutExpired:
        kill_session(job)
        job.wait()


def _as_task(words: Sequence[str]) -> None:
    """Be a task of srun: become this node's torchrun, which hears neither Ctrl-C nor SIGTERM; its workers do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ[STARTED_BY] = str(os.getppid())
    os.execv(sys.executable, [sys.executable, *on_node(words, _number("SLURM_PROCID", 0))])


if __name__ == "__main__":
    _as_task(sys.argv[1:])
