"""A server that does not hear that it is to end is gone all the same, with what it started, however its starter ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.system.processes import child_environment
from tests.waiting import wait_for

# A server with an engine, as vLLM's; deaf where it is told to.
SERVER = """
import signal, subprocess, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
engine = subprocess.Popen(["sleep", "600"])
print(engine.pid, flush=True)
time.sleep(600)
"""
# The stage that starts it; its keeper does not wait 20 s here.
STARTER = """
import sys, time
from pathlib import Path
from pipeline.system import vllm_server
from pipeline.system.processes import child_environment, start_apart
quick = "import sys; from pipeline.system import keeper; keeper.STOP_SECONDS = 1; sys.exit(keeper.main(sys.argv[1:]))"
keeper = start_apart([sys.executable, "-c", quick, sys.executable, *sys.argv[2:]], Path(sys.argv[1]), child_environment())
print(keeper.pid, flush=True)
time.sleep(600)
"""


def session_of(leader: int) -> list[psutil.Process]:
    """The live processes of a session."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize("server", ["deaf", "hears"])
@pytest.mark.parametrize("ended", ["the starter", "the server"])
def test_nothing_of_a_server_outlives_its_starter(server: str, ended: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", STARTER, str(log), "-c", SERVER, server]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment())
    assert starter.stdout is not None
    try:
        leader = int(starter.stdout.readline())
        wait_for(lambda: log.exists() and log.read_text().strip())
        assert len(session_of(leader)) == 3
        if ended == "the starter":
            starter.kill()
        else:
            os.kill(leader, signal.SIGTERM)
        wait_for(lambda: not session_of(leader))
    finally:
        starter.kill()
        starter.wait()


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_its_exit_status_is_the_servers(code: str, status: int) -> None:
    command = [sys.executable, "-m", "pipeline.system.keeper", sys.executable, "-c", code]
    assert subprocess.run(command, env=child_environment(), start_new_session=True, check=False).returncode == status


# Its engine is in a session of its own, and does not hear that it is to end.
APART = """
import subprocess, sys, time
engine = subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; echo $$; sleep 600 & wait"], start_new_session=True)
time.sleep(float(sys.argv[1]))
sys.exit(3)
"""


@pytest.mark.parametrize("sent", [None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_engine_in_a_session_of_its_own_ends_with_its_server(sent: signal.Signals | None) -> None:
    words = [sys.executable, "-m", "pipeline.system.keeper", sys.executable, "-c", APART, "600" if sent else "0.5"]
    keeper = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=child_environment(), start_new_session=True)
    assert keeper.stdout is not None
    engine = int(keeper.stdout.readline())
    try:
        if sent:
            keeper.send_signal(sent)
        # Of the server, not of how the keeper ended what was left.
        assert keeper.wait(60) == (128 + signal.SIGTERM if sent else 3)
        assert not psutil.pid_exists(engine)
    finally:
        keeper.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine, signal.SIGKILL)


# Its engine holds shared memory, as one that hands pictures to its workers, and neither hears that it is to end.
SHARES = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
"""
SHARING_ENGINE = """
import time
from multiprocessing.shared_memory import SharedMemory
# So many that they are not taken away between two kills.
print(*[SharedMemory(create=True, size=9).name for _ in range(500)], flush=True)
time.sleep(600)
"""


def test_shared_memory_of_what_was_killed_is_taken_away() -> None:
    quick = (
        "import sys; from pipeline.system import keeper; keeper.STOP_SECONDS = 1; sys.exit(keeper.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", quick, sys.executable, "-c", SHARES, SHARING_ENGINE]
    keeper = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=child_environment(), start_new_session=True)
    assert keeper.stdout is not None
    shared = [Path("/dev/shm") / name for name in keeper.stdout.readline().split()]
    assert all(file.is_file() for file in shared)
    keeper.terminate()
    keeper.wait(60)
    assert not [file for file in shared if file.exists()]
    assert not session_of(keeper.pid)
