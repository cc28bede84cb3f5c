"""vLLM servers as child processes: started, waited for, and gone at the end, however that comes."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cot_builder.serve import load_served
from pipeline.errors import UserError
from pipeline.system.processes import child_environment
from pipeline.system.vllm_server import READY_SECONDS, answers, end_of, how_server_ended, start_server, stop

log = logging.getLogger(__name__)

NEWS_SECONDS = 20


@dataclass(frozen=True)
class Server:
    """One server to start."""

    teacher: str
    file: str
    """The teacher's file, or its bare name."""
    port: int
    gpus: tuple[str, ...]
    """Names for CUDA_VISIBLE_DEVICES; none on a machine without GPUs."""
    log: Path

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self.port}/health"

    def __str__(self) -> str:
        where = f"GPU {','.join(self.gpus)}" if self.gpus else "the CPU"
        return f"{self.teacher} on port {self.port} and {where}"


Started = dict[Server, "subprocess.Popen[bytes]"]


@contextlib.contextmanager
def running(servers: Sequence[Server]) -> Iterator[None]:
    """Run servers that answer within the block and are gone after it.

    Raises:
        UserError: when one ends, or does not answer in time, with the last lines of its log.
    """
    started: Started = {}

    def news(name: str) -> str:
        server, process = next((server, process) for server, process in started.items() if str(server) == name)
        if process.poll() is not None:
            raise UserError(f"{_how_it_ended(server, process)} before it answered; {end_of(server.log)}")
        return f"its log says: {end_of(server.log, 1)[:150]}"

    try:
        for server in servers:
            # vLLM measures the memory that is free while it starts, so those that share a GPU start one after the other.
            if any(set(server.gpus) & set(other.gpus) for other in started):
                wait_until_healthy({str(other): other.health for other in started}, news)
            started[server] = _start(server)
        wait_until_healthy({str(server): server.health for server in servers}, news)
        yield
        for server, process in started.items():
            if process.poll() is not None:
                log.warning("%s during the build; %s", _how_it_ended(server, process), end_of(server.log))
    finally:
        stop(list(started.values()))


def wait_until_healthy(urls: Mapping[str, str], news: Callable[[str], str]) -> None:
    """Wait until all servers answer, and say on stderr what is waited for.

    Args:
        urls: address of /health by the server's name.
        news: what is known of a server that does not answer yet; raises when waiting is of no use.

    Raises:
        UserError: when one does not answer within `READY_SECONDS`.
    """
    begun = told = time.monotonic()
    waiting = dict(urls)
    log.info(f"waiting for {', '.join(waiting)}" if waiting else "no server to wait for")
    while waiting:
        now = time.monotonic()
        for name, said in {name: news(name) for name in waiting}.items():
            if answers(waiting[name]):
                del waiting[name]
                log.info("%s answers after %.0f s", name, now - begun)
            elif now - begun > READY_SECONDS:
                raise UserError(f"{name} does not answer at {waiting[name]} after {READY_SECONDS} s; {said}")
            elif now - told > NEWS_SECONDS:
                log.info("waiting for %s since %.0f s; %s", name, now - begun, said)
        if waiting:
            told = now if now - told > NEWS_SECONDS else told
            time.sleep(0.2)


def _start(server: Server) -> subprocess.Popen[bytes]:
    more = {"CUDA_VISIBLE_DEVICES": ",".join(server.gpus)} if server.gpus else {}
    if (key := _key(server.file)) is not None:
        more["VLLM_API_KEY"] = key
    # Apart, for Ctrl-C is for the build, which needs its servers until it has stopped.
    return start_server(
        [sys.executable, "-m", "cot_builder.serve", server.file, "--port", str(server.port)],
        server.log,
        child_environment(**more),
    )


def _key(file: str) -> str | None:
    """Return what a teacher's server is to ask for: what the build sends it; None leaves that to the environment."""
    from cot_builder.teachers.config import api_key

    teacher = load_served(file)
    if teacher.api_key_env:
        return api_key(teacher)
    # VLLM_API_KEY may be set for servers elsewhere; one that is opened to the network keeps it.
    return None if "host" in teacher.serve else ""


def _how_it_ended(server: Server, process: subprocess.Popen[bytes]) -> str:
    return f"the server of {server} {how_server_ended(process.returncode)}"
