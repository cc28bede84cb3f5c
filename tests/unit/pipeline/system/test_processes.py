"""Child processes: who hears a signal, how often, and what is left when their parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.system.processes import child_environment, kill_session, on_signals, start_apart
from tests.waiting import wait_for

CHILD = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: heard.append(number))
(folder / "begun").touch()
while not heard:
    time.sleep(0.02)
time.sleep(0.5)
(folder / "heard").write_text(" ".join(map(str, heard)))
sys.exit(3)
"""
PARENT_OF_TWO = """
import sys, time
from pathlib import Path
from pipeline.system.processes import children
with children() as ours:
    folders = [Path(sys.argv[1]) / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    started = [ours.start([sys.executable, "-c", sys.argv[3], str(folder)]) for folder in folders]
    while not all((folder / "begun").exists() for folder in folders):
        time.sleep(0.02)
    (Path(sys.argv[1]) / "begun").touch()
    if sys.argv[2] == "raises":
        sys.exit("gone")
    while any(child.poll() is None for child in started):
        time.sleep(0.02)
print(ours.pressed)
"""
PARENT = """
import signal, sys
from pipeline.system.processes import run_child
hangup = signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, hangup)
try:
    print(run_child([sys.executable, "-c", sys.argv[3], sys.argv[1]]))
except KeyboardInterrupt:
    print("stopped")
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, repo_root: Path) -> Iterator[Start]:
    """Start a parent whose child is at work, in a process group of its own."""
    processes = []

    def begin(how: str = "", parent: str = PARENT) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", parent, str(tmp_path), how, CHILD]
        process = subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        wait_for((tmp_path / "begun").exists)
        return process

    yield begin
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [True, False], ids=["as a terminal", "to the parent alone"])
def test_a_child_hears_a_signal_once_and_ends_in_its_own_time(start: Start, tmp_path: Path, number: int, to_all: bool):
    process = start()
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.communicate(timeout=60)[0] == "stopped\n"
    assert (tmp_path / "heard").read_text() == str(int(number))


def test_under_nohup_a_terminal_that_closes_reaches_no_child(start: Start, tmp_path: Path):
    process = start("nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert not (tmp_path / "heard").exists()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "stopped\n"
    assert (tmp_path / "heard").read_text() == str(int(signal.SIGTERM))


def test_a_child_dies_with_a_parent_that_is_killed(start: Start):
    process = start()
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    process.kill()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_two_children_hear_a_signal_once_each_and_end_in_their_own_time(start: Start, tmp_path: Path):
    process = start(parent=PARENT_OF_TWO)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == f"[{int(signal.SIGINT)}]\n"
    assert [(tmp_path / name / "heard").read_text() for name in "ab"] == [str(int(signal.SIGINT))] * 2


def test_two_children_die_with_a_parent_that_is_killed(start: Start):
    process = start(parent=PARENT_OF_TWO)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_no_child_outlives_the_block_it_was_started_in(start: Start):
    process = start("raises", parent=PARENT_OF_TWO)
    children = psutil.Process(process.pid).children()
    assert process.wait(timeout=60) == 1
    assert psutil.wait_procs(children, timeout=20)[1] == []


@pytest.mark.parametrize("asked", [{}, {"HF_HUB_DISABLE_TELEMETRY": "0", "VLLM_NO_USAGE_STATS": "0"}])
def test_nobody_is_told_that_a_child_or_this_process_runs_unless_the_user_says_so(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert child_environment()["VLLM_NO_USAGE_STATS"] == asked.get("VLLM_NO_USAGE_STATS", "1")
    code = "import stages; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(not asked)]


def test_a_child_apart_writes_its_log_and_goes_with_all_it_started(tmp_path: Path):
    log = tmp_path / "logs" / "child.log"
    child = start_apart(["sh", "-c", "echo begun; sleep 60 & wait"], log, child_environment())
    wait_for(lambda: log.read_text() == "begun\n" and len(psutil.Process(child.pid).children()) == 1)
    (started,) = psutil.Process(child.pid).children()
    kill_session(child)
    assert child.wait() == -signal.SIGKILL
    wait_for(lambda: not started.is_running())
    # It is gone already.
    kill_session(child)


def test_handlers_are_given_back():
    heard: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with on_signals(lambda number, frame: heard.append(number)):
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_child_of_a_process_that_blocks_signals_hears_them(tmp_path: Path) -> None:
    """A stage's worker blocks them, and starts the server of its rollouts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        child = start_apart(["sleep", "600"], tmp_path / "log", child_environment())
        child.terminate()
        assert child.wait(timeout=20) == -signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        kill_session(child)
