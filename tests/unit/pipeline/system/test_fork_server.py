"""A forked process is to whoever started it what the plain one would be, and ends with it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.files import ROOT
from pipeline.system import fork_server
from pipeline.system.fork_server import FORK_SERVER, forked
from pipeline.system.processes import child_environment
from tests.heeded_signals import HEEDED, heed_signals
from tests.waiting import wait_for

# What the server has imported, and nothing else does.
IMPORTED = "tabnanny"
MISSING = "no_such_module"
SCRIPT = """
import os, signal, sys, time
what = sys.argv[1] if len(sys.argv) > 1 else ""
try:
    print(os.getpid(), "tabnanny" in sys.modules, sys.argv[1:], os.getcwd(), os.environ.get("CLGRPO_OF_ONE"), flush=True)
    print("aside", file=sys.stderr, flush=True)
    if what == "raise":
        raise ValueError("on purpose")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(60)
except KeyboardInterrupt:
    print("heard", flush=True)
    sys.exit(5)
sys.exit(int(sys.argv[2]) if what == "exit" else 0)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the script by way of a server."""
    monkeypatch.delenv(FORK_SERVER, raising=False)
    monkeypatch.setattr(fork_server, "visible_gpus", lambda: 0)
    (tmp_path / "a_script.py").write_text(SCRIPT)

    def start(
        *words: str, more: dict[str, str] | None = None, python: str | Path = sys.executable, **kwargs: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, *forked(["-m", "a_script", *words])],
            env=child_environment(**(more or {})),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )

    before = {number: signal.getsignal(number) for number in HEEDED}
    heed_signals()
    try:
        with fork_server.fork_server([IMPORTED]):
            yield start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert FORK_SERVER not in os.environ


def process_of(started: subprocess.Popen[str]) -> psutil.Process:
    assert started.stdout is not None
    return psutil.Process(int(started.stdout.readline().split()[0]))


def servers() -> list[psutil.Process]:
    """Of this file's tests alone: integration tests keep one for as long as the process that runs them all."""
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "--serve" in (words := one.cmdline()) and {IMPORTED, MISSING} & set(words)]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_has_what_it_would_have_and_the_servers_imports(start, tmp_path: Path):
    started = start("a", "b c", more={"CLGRPO_OF_ONE": "mine"})
    output, errors = started.communicate(timeout=60)
    pid, rest = output.split(" ", 1)
    assert rest == f"True ['a', 'b c'] {tmp_path} mine\n"
    assert errors == "aside\n"
    assert started.returncode == 0
    assert int(pid) != started.pid


def test_a_tmpdir_that_is_too_long_for_a_socket_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As batch systems make them, of a user, a project and a job."""
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv(FORK_SERVER, raising=False)
    monkeypatch.setattr(fork_server, "visible_gpus", lambda: 0)
    with fork_server.fork_server([IMPORTED]):
        # As a process that reads pictures ahead hands them on, and as long as what vLLM's engine listens on.
        code = "import multiprocessing.connection as m; m.Listener(family='AF_UNIX').close()"
        subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True)
        code = (
            "import os, socket, tempfile, uuid; path = f'{tempfile.gettempdir()}/{uuid.uuid4()}'; "
            "socket.socket(1).bind(path); os.unlink(path)"
        )
        subprocess.run([sys.executable, "-c", code], env=child_environment(), check=True)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [(("exit", "7"), 7, ""), (("raise",), 1, "ValueError: on purpose"), (("kill",), -signal.SIGKILL, "")],
)
def test_it_ends_as_it_would(words: tuple[str, ...], status: int, told: str, start):
    started = start(*words)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == status
    assert told in errors


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 5), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)]
)
def test_signals_reach_it(number: signal.Signals, status: int, start):
    started = start("sleep")
    process_of(started)
    started.send_signal(number)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == status
    assert ("heard" in output) == (number == signal.SIGINT)


def test_what_it_is_told_to_ignore_it_ignores(start):
    started = start("sleep", preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    process = process_of(started)
    started.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.is_running()
    started.kill()
    wait_for(lambda: has_ended(process))


def test_it_ends_with_who_stands_for_it_and_with_the_server(start):
    first, second = start("sleep"), start("sleep")
    of_first, of_second = process_of(first), process_of(second)
    first.kill()
    wait_for(lambda: has_ended(of_first))
    assert of_second.is_running()
    servers()[0].kill()
    wait_for(lambda: has_ended(of_second))
    second.communicate(timeout=60)
    assert second.returncode == -signal.SIGKILL


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))


@pytest.mark.parametrize(
    "different",
    [
        {"more": {"OMP_NUM_THREADS": "3"}},
        {"more": {"HF_HUB_OFFLINE": "0"}},
        {"more": {"SOMETHING_NEW": "1"}},
        {"more": {"PYTHONPATH": f"{ROOT}:/somewhere"}},
        {"preexec_fn": _few_files},
        {"preexec_fn": lambda: os.nice(1)},
    ],
)
def test_where_something_differs_that_was_read_at_import_it_is_started_plainly(different: dict[str, Any], start):
    started = start(**different)
    output, _ = started.communicate(timeout=60)
    pid, imported, _ = output.split(" ", 2)
    assert (int(pid), imported) == (started.pid, "False")
    assert started.returncode == 0


def test_in_another_environment_of_packages_it_is_started_plainly(start, tmp_path: Path):
    """Here one of the same packages, in another place."""
    own, other = Path(sys.prefix), tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (other / "lib").symlink_to(own / "lib")
    shutil.copy(own / "pyvenv.cfg", other)
    started = start(python=other / "bin" / "python")
    output, _ = started.communicate(timeout=60)
    pid, imported, _ = output.split(" ", 2)
    assert (int(pid), imported) == (started.pid, "False")


def test_nothing_is_forked_from_a_server_that_failed_or_where_there_is_a_gpu(start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FORK_SERVER, "/nowhere/fork")
    started = start()
    assert "False" in started.communicate(timeout=60)[0]
    monkeypatch.delenv(FORK_SERVER)
    with fork_server.fork_server([MISSING]):
        started = start()
        assert "False" in started.communicate(timeout=60)[0]
        assert started.returncode == 0
    monkeypatch.setattr(fork_server, "visible_gpus", lambda: 1)
    with fork_server.fork_server([IMPORTED]):
        assert forked(["-m", "a_script"]) == ["-m", "a_script"]


def test_a_server_is_started_by_the_first_that_asks(start):
    assert not servers()
    start().communicate(timeout=60)
    assert len(servers()) == 1
