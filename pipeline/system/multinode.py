"""A run on several nodes: the same command on each of them; node 0 conducts, the others start their share of its workers.

The environment says so, in torchrun's words: NNODES, NODE_RANK, MASTER_ADDR (node 0), MASTER_PORT (29400). Node 0 listens there.
The others connect once and are sent every torchrun command that node 0 starts. A connection that breaks ends the run on
both sides; the same command on all nodes goes on. Nodes trust each other, as torchrun's do, and share the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.system.processes import STARTED_BY, child_environment, ignore_signals, run_child

PORT = 29400
PATIENCE = 600.0
"""Seconds nodes wait for each other at the start."""
GRACE = 30.0
"""Seconds a phase has to end by itself after the workers of another node failed: its own have more to say."""
_JOBS = "CLGRPO_NODES"
"""Environment variable: the file descriptor on which a phase tells the conductor what to start on the other nodes."""
_NODE = "{node}"


def count() -> int:
    """Nodes of this run."""
    return _number("NNODES", 1)


def rank() -> int:
    """This node's number; node 0 conducts."""
    return _number("NODE_RANK", 0) if count() > 1 else 0


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, str(default))
    if not value.isdigit():
        raise UserError(f"the environment variable {variable} is {value!r}; it must be a whole number, or unset")
    return int(value)


def problems() -> Iterator[str]:
    """What is wrong with the environment of a run on several nodes."""
    if count() > 1 and not os.environ.get("MASTER_ADDR"):
        yield f"NNODES is {count()} but MASTER_ADDR is not set; set it to the name or address of node 0, on every node"
    if count() > 1 and rank() >= count():
        yield f"NODE_RANK is {rank()}; with NNODES {count()} it must be from 0 to {count() - 1}"


def rendezvous() -> list[str]:
    """torchrun's options that bring the nodes of one launch together."""
    if count() == 1:
        return ["--standalone"]
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = os.environ["MASTER_ADDR"]
    return [f"--nnodes={count()}", f"--node-rank={_NODE}", f"--master-addr={address}", f"--master-port={port}"]


def on_node(words: Sequence[str], node: int = 0) -> list[str]:
    """A command as one node runs it."""
    return [word.replace(_NODE, str(node)) for word in words]


@contextlib.contextmanager
def elsewhere(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Have the other nodes run a command with these words after the interpreter; nothing for one of a single process.

    Raises:
        UserError: when no conductor listens.
    """
    if not any(_NODE in word for word in words):
        yield
        return
    if _JOBS not in os.environ:
        raise UserError("on several nodes (NNODES) stages are started by python -m pipeline run, on every node")
    conductor = int(os.environ[_JOBS])
    os.write(conductor, json.dumps({"words": list(words), "environment": dict(environment)}).encode() + b"\n")
    try:
        yield
    finally:
        os.write(conductor, b'{"end": true}\n')


class Followers:
    """Node 0's side: the other nodes, each with a connection for as long as the run takes.

    Args:
        folder: the run's, which every node must see.

    Raises:
        UserError: when they do not come in time, or do not see the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.connections: dict[int, _Line] = {}
        self.failed: dict[int, float] = {}
        self.busy = False
        port = _number("MASTER_PORT", PORT)
        print(f"waiting for {count() - 1} more nodes on port {port}", file=sys.stderr, flush=True)
        deadline = time.monotonic() + PATIENCE
        with socket.create_server(("", port)) as server:
            while len(self.connections) < count() - 1:
                server.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    line = _Line(server.accept()[0])
                except TimeoutError:
                    missing = sorted(set(range(1, count())) - set(self.connections))
                    raise UserError(f"no word from nodes {missing}; start the same command on every node") from None
                line.send(folder=str(folder.resolve()))
                hello = line.next()
                if hello is None:
                    continue  # Something else that found the port.
                if not hello["sees"]:
                    raise UserError(
                        f"node {hello['node']} does not see {folder.resolve()}; put output_dir on a shared disk"
                    )
                self.connections[hello["node"]] = line

    def run(self, command: Sequence[str], **how: Any) -> int:
        """Run a phase here, and its workers everywhere; its exit status.

        Raises:
            UserError: when another node is lost, or its workers fail and the phase does not end of it.
        """
        reader, writer = os.pipe()
        jobs = b""

        def meanwhile(child: subprocess.Popen[bytes]) -> None:
            nonlocal jobs
            sources: list[Any] = [reader, *self.connections.values()]
            ready, _, _ = select.select(sources, [], [], 0.2)
            if reader in ready:
                jobs += os.read(reader, 65536)
                *whole, jobs = jobs.split(b"\n")
                for job in map(json.loads, whole):
                    self.failed, self.busy = {}, "words" in job
                    for line in self.connections.values():
                        line.send(**job)
            for node, line in self.connections.items():
                if line in ready:
                    self._heed(node, line, child)
            for node, since in self.failed.items():
                if time.monotonic() - since > GRACE:
                    raise UserError(f"the workers of node {node} failed; what they said is in the logs of the phase")

        os.environ[_JOBS] = str(writer)
        try:
            return run_child(command, meanwhile=meanwhile, pass_fds=[writer], **how)
        finally:
            os.environ.pop(_JOBS)
            os.close(reader)
            os.close(writer)
            self.failed, self.busy = {}, False
            for line in self.connections.values():
                line.send(end=True)

    def _heed(self, node: int, line: _Line, child: subprocess.Popen[bytes]) -> None:
        word = line.next()
        if word is None:
            raise UserError(f"node {node} is gone; start the same command on every node again, and it goes on")
        if word.get("stop"):
            child.send_signal(signal.SIGTERM)
        elif word["exit"] and self.busy:  # One that aborts when all have done their work has failed nothing.
            self.failed[node] = time.monotonic()


@contextlib.contextmanager
def conducted(folder: Path) -> Iterator[Callable[..., int]]:
    """How node 0 runs a phase (see `run_child`) on all nodes; the others end when this does, with an exit status that says how.

    Args:
        folder: the run's.
    """
    if count() == 1:
        yield run_child
        return
    followers = Followers(folder)
    code = 1
    try:
        yield followers.run
        code = 0
    finally:
        for line in followers.connections.values():
            line.send(bye=code)


def follow() -> int:
    """Be a node that is not node 0: start what it says until it says that the run is over; the run's exit status.

    Raises:
        UserError: when node 0 cannot be reached, or is lost.
    """
    where = os.environ["MASTER_ADDR"], _number("MASTER_PORT", PORT)
    line = _connect(where)
    print(f"node {rank()} of {count()} follows {where[0]}", file=sys.stderr, flush=True)
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        line.send(stop=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, press)
    job: subprocess.Popen[bytes] | None = None
    try:
        while True:
            if select.select([line], [], [], 0.2)[0]:
                word = line.next()
                if word is None:
                    raise UserError(f"node 0 ({where[0]}) is gone; start the same command on every node again")
                if "bye" in word:
                    return int(word["bye"])
                if job is not None:
                    _end(job)
                    job = None
                if "words" in word:
                    job = _start(word)
            if job is not None and job.poll() is not None:
                line.send(exit=job.returncode)
                job = None
    finally:
        if job is not None:
            _end(job)


def _connect(where: tuple[str, int]) -> _Line:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            line = _Line(socket.create_connection(where, timeout=10))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"node 0 does not answer at {where[0]}:{where[1]} ({error}); is it started there?"
                ) from error
            time.sleep(0.5)
    hello = line.next()
    if hello is None:
        raise UserError(
            f"{where[0]}:{where[1]} is not node 0 of this run; set MASTER_PORT to a free port, on every node"
        )
    sees = Path(hello["folder"]).is_dir()
    line.send(node=rank(), sees=sees)
    if not sees:
        raise UserError(f"this node does not see {hello['folder']}; put output_dir on a disk that all nodes share")
    return line


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """This node's torchrun, its own output beside node 0's."""
    logs = Path(job["environment"]["CLGRPO_LOGS"])
    with (logs / f"launcher-node{rank()}.log").open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, *on_node(job["words"], rank())],
            env=child_environment(**job["environment"], **{STARTED_BY: str(os.getpid())}),
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(ignore_signals, os.getpid()),
        )


def _end(job: subprocess.Popen[bytes]) -> None:
    """Give a launcher whose workers have ended a moment to end too; kill it otherwise, and its workers with it."""
    try:
        job.wait(timeout=2)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


class _Line:
    """JSON objects over a connection that notices within a minute that the other machine is off."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        self.connection = connection

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, **word: Any) -> None:
        with contextlib.suppress(OSError):  # The next read says that the other side is gone.
            self.connection.sendall(json.dumps(word).encode() + b"\n")

    def next(self) -> dict[str, Any] | None:
        """The next object; None when the other side is gone or speaks another language."""
        text = b""
        try:
            while not text.endswith(b"\n"):
                byte = self.connection.recv(1)
                if not byte:
                    return None
                text += byte
            word = json.loads(text)
        except (OSError, ValueError):
            return None
        return word if isinstance(word, dict) else None
