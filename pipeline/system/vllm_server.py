"""vLLM servers, as the CoT builder and the rollouts of GRPO start and end them: command, environment, health, end.

On a machine without an NVIDIA GPU the command gets what vLLM's CPU build needs. Nothing of vLLM is imported here.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import UserError, did_you_mean
from pipeline.system.processes import (
    STOP_SECONDS,
    child_environment,
    how_ended,
    kill_session,
    on_signals,
    start_apart,
)

READY_SECONDS = 1800
"""Time to load a model, from a slow disk too."""
LAST_LINES = 25
CPU_ENVIRONMENT = {
    # Two threads on busy cores are many times slower.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    # The engine computes in its own process. A worker of its own would import everything anew to set threads, which are set here.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
CPU_FLAGS: dict[str, object] = {
    "dtype": "float32",
    "enforce-eager": True,
    # A prompt that is taken in in parts moves its sampling seed back, which vLLM 0.31 cannot do on a CPU: the server dies.
    "no-enable-chunked-prefill": True,
    "kv-cache-memory-bytes": 268435456,
}
CPU_SITE = Path(__file__).resolve().parent / "cpu_site"
"""On the PYTHONPATH of vLLM's processes on a CPU: the cure for torchvision on a CPU-only torch, which each of them needs."""
_GPU_ONLY = ("gpu-memory-utilization",)
_OF_THE_COMMAND = ("--headless", "--api-server-count", "--data-parallel", "-dp")
"""Flags that only `vllm serve` acts on, or acts on better: it starts an API process per replica."""


def serve_command(model: str, flags: Mapping[str, object], extra: Sequence[str], *, cpu: bool) -> list[str]:
    """Return the words of the server's command.

    Args:
        model: hub id or folder.
        flags: vLLM flags; True is a bare flag, a mapping or list is written as JSON.
        extra: words the user adds; they come last, so they win.
        cpu: whether vLLM runs on a CPU, where it needs other flags.
    """
    if cpu:
        flags = {**CPU_FLAGS, **{name: value for name, value in flags.items() if name not in _GPU_ONLY}}
    words = []
    for name, value in flags.items():
        if value is False or value is None:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(json.dumps(value) if isinstance(value, dict | list) else str(value))
    words += extra
    # Modules, not the `vllm` command: it need not be on the PATH, and that of the CPU build does not start.
    if not cpu and any(word.startswith(_OF_THE_COMMAND) for word in words):
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, *words]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *words]


@functools.cache
def known_flags() -> frozenset[str]:
    """Return the names of the flags of the installed vLLM's server, none without one or where it keeps them elsewhere.

    They are read from its source: its own parser takes 20 s to import.
    """
    spec = importlib.util.find_spec("vllm")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    engine, served = (
        [*folder.glob(f"{name}.py")] if folder else [] for name in ("engine/arg_utils", "entrypoints/*/cli_args")
    )
    if not engine or not served:
        return frozenset()
    found = set()
    for file in (*engine, *served):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ClassDef):
                fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
                found |= {field.id.replace("_", "-") for field in fields if isinstance(field, ast.Name)}
            elif (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
            ):
                words = (str(word.value) for word in node.args if isinstance(word, ast.Constant))
                found |= {word.removeprefix("--") for word in words if word.startswith("--")}
    return frozenset(found)


def unknown_flag(flag: str) -> str | None:
    """Return why a server of the installed vLLM would end at a flag, with the nearest one; None where it takes it, or none is
    installed.
    """
    known, name = known_flags(), flag.partition(".")[0]
    if not known or known & {name, name.removeprefix("no-")}:
        return None
    return f"is no flag of the installed vLLM; {did_you_mean(name, known)}"


def serve_environment(*, cpu: bool, **more: str) -> dict[str, str]:
    """Return the environment of a server: ours, on a CPU with what vLLM needs there."""
    environment = child_environment(**more)
    if not cpu:
        return environment
    path = os.pathsep.join([str(CPU_SITE), environment["PYTHONPATH"]])
    return {**CPU_ENVIRONMENT, **environment, "PYTHONPATH": path}


def start_server(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server, with its output in a log; nothing of it outlives this process, however either ends. See `stop`."""
    return start_apart([sys.executable, "-m", "pipeline.system.keeper", *command], log, environment)


def open_url(url: str | urllib.request.Request, timeout: float) -> urllib.request._UrlopenRet:
    """Ask an address directly: a proxy of the environment knows nothing of this machine or its neighbours."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout)


def answers(url: str) -> bool:
    """Check whether a server's /health says that it is ready."""
    try:
        with open_url(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def wait_until_ready(
    process: subprocess.Popen[bytes], address: str, log: Path, name: str, seconds: float = READY_SECONDS
) -> None:
    """Wait until a server answers that was started as `process`.

    Raises:
        UserError: when it ends before, or does not answer in time, with the last lines of its log.
    """
    begun = time.monotonic()
    while not answers(f"{address}/health"):
        if process.poll() is not None:
            raise UserError(f"{name} {how_server_ended(process.returncode)}; {end_of(log)}")
        if time.monotonic() - begun > seconds:
            raise UserError(f"{name} does not answer after {seconds:g} s; {end_of(log)}")
        time.sleep(0.5)


def how_server_ended(code: int) -> str:
    """Return how a server of `start_server` ended, in words behind its name.

    Args:
        code: of the process; its keeper gives 128 + the number of the signal that ended the server.
    """
    if code - 128 in set(signal.Signals):
        code = 128 - code
    return f"ended with exit code {code}" if code >= 0 else f"was {how_ended(code)}"


def free_port() -> int:
    """Return a port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_of(log: Path, lines: int = LAST_LINES) -> str:
    """Return the last lines of a log; one alone stands without the log's name."""
    text = log.read_text(errors="replace").rstrip().splitlines()[-lines:]
    return "".join(text) if lines == 1 else "\n".join([f"the end of {log}:", *text])


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End servers, each the leader of a session, and what they started; a second Ctrl-C does not keep this from happening."""
    with on_signals(signal.SIG_IGN):
        for process in processes:
            process.terminate()
        # Its keeper kills it after STOP_SECONDS, and a GPU may be slow to let go of it.
        deadline = time.monotonic() + STOP_SECONDS + 10
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            kill_session(process)
            process.wait()
