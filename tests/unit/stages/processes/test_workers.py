"""What an entry point makes of its workers: who failed first, a stop in order, and failures that come after the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline.config.schema import RunConfig, StageConfig
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import RunDir
from stages.processes import deepspeed_locks
from stages.processes.work import Work
from stages.processes.workers import _failure, run_workers
from stages.training import stage as _stage

STAGE = "stage1_sft"
TORCHRUN = """Traceback (most recent call last):
ChildFailedError:
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01
  rank      : {rank} (local_rank: 1)
  exitcode  : {code} (pid: 12)
"""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    stage = StageConfig(algorithm="sft", init_from="base", data="cot")
    return Work(RunConfig(name="run", output_dir=str(tmp_path), stages={STAGE: stage}), STAGE, RunDir(tmp_path, "run"))


def logs_of(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / (name if name == "first_failure" else f"{name}.log")).write_text(text)
    return folder


def test_the_rank_that_raised_first_is_told_and_not_the_one_torchrun_saw_first(tmp_path):
    """torchrun sees exits, in whole seconds; the one that fails of another's failure may exit sooner."""
    logs = logs_of(
        tmp_path,
        launcher=TORCHRUN.format(rank=0, code=1),
        rank0="noise\nTraceback (most recent call last):\nRuntimeError: Connection closed by peer\n",
        rank1="noise\nTraceback (most recent call last):\nValueError: the cause\n",
        first_failure="1",
    )
    told = "\n".join(_failure("sft", logs, 1))
    assert "rank 1 first" in told
    assert "ValueError: the cause" in told
    assert "Connection closed" not in told
    assert "noise" not in told


def test_a_rank_that_was_killed_failed_before_those_that_raised_for_it(tmp_path):
    logs = logs_of(
        tmp_path,
        launcher=TORCHRUN.format(rank=1, code=-9),
        rank0="Traceback (most recent call last):\nRuntimeError: Connection closed by peer\n",
        rank1="  step 3/8\n",
        first_failure="0",
    )
    told = "\n".join(_failure("sft", logs, 1))
    assert "rank 1 first, ended by SIGKILL" in told
    assert "memory is full" in told
    assert "step 3/8" in told


def test_a_full_disk_is_named_with_the_room_there_is(work, python):
    python('echo "RuntimeError: PytorchStreamWriter failed writing file data/3: file write failed"; exit 1')
    with pytest.raises(UserError, match=r"once there is room \([\d,]+ MB are free"):
        run_workers("sft", work, [])


def test_a_failure_on_a_disk_too_full_for_its_own_log_is_told_all_the_same(work, python, monkeypatch):
    monkeypatch.setattr("stages.processes.workers.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    python('touch "$CLGRPO_LOGS/first_failure"; exit 1')
    with pytest.raises(UserError, match=r"once there is room \(0 MB are free"):
        run_workers("sft", work, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["a batch system", "a terminal that closes"])
def test_a_stop_is_asked_for_in_a_file_and_the_second_one_ends_at_once(work, python, capsys, number):
    """The worker here ends of the file alone, then one that does not heed it is killed."""
    first, second = (work.folder / "logs" / name for name in ("sft-001", "sft-002"))
    python('touch "$CLGRPO_LOGS/begun"; while [ ! -e "$CLGRPO_LOGS/stop" ]; do sleep 0.05; done; sleep 0.2; echo saved')
    press(number, first / "begun", first / "stop")
    with pytest.raises(KeyboardInterrupt):
        run_workers("sft", work, [])
    assert (first / "launcher.log").read_text() == "saved\n"
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    python('touch "$CLGRPO_LOGS/begun"; sleep 300; touch "$CLGRPO_LOGS/slept"')
    press(signal.SIGINT, second / "begun", second / "stop")
    with pytest.raises(KeyboardInterrupt):
        run_workers("sft", work, [])
    assert not (second / "slept").exists()


def press(number: signal.Signals, *when: Path) -> None:
    """Send this process a signal as each of these files appears."""

    def watch() -> None:
        for file in when:
            while not file.exists():
                time.sleep(0.05)
            os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def test_a_worker_that_aborts_when_all_is_saved_fails_no_stage(work, python, monkeypatch, capsys, tmp_path):
    """As ZeRO-3 does at exit now and then ("terminate called without an active exception")."""
    record = work.run.record_path(STAGE)
    write_json(tmp_path / "done.json", {"status": "complete", "inputs": "the same"})
    monkeypatch.setattr(_stage.command, "load_checked", lambda arguments: (work.config, work.run))
    monkeypatch.setattr(
        "pipeline.runs.handover.stale_reasons", lambda config, run, name: [] if record.exists() else None
    )
    monkeypatch.setattr(_stage, "rows_as_begun", lambda work, keep: "")
    monkeypatch.setattr(_stage, "parent_checkpoint", lambda config, run, name: None)
    evaluated: list[str] = []
    monkeypatch.setattr(_stage.phase, "evaluate", lambda config, run, name: evaluated.append(name) or 0)
    python(f"cp {tmp_path / 'done.json'} {record}; echo terminate called without an active exception; exit 134")
    assert _stage.main("sft", "", lambda work: None, ["--stage", "1"]) == 0
    assert evaluated == [STAGE]
    assert "is trained; a worker failed after that" in capsys.readouterr().err

    record.unlink()
    python("exit 134")
    with pytest.raises(UserError, match="exit status 134"):
        _stage.main("sft", "", lambda work: None, ["--stage", "1"])


def test_the_lock_of_a_killed_build_is_deleted_and_that_of_a_living_one_is_not(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    with lock.open():
        deepspeed_locks.clear_when_stale(lock, patience=0)
        assert lock.exists()
    deepspeed_locks.clear_when_stale(lock, patience=0)
    assert not lock.exists()


def test_a_process_that_a_worker_forks_dies_with_it(repo_root: Path):
    """As torch forks data processes, which by themselves look every five seconds whether their parent lives."""
    code = """
import os, time
from stages.processes.workers import as_worker
with as_worker():
    forked = os.fork()
    if forked:
        print(forked, flush=True)
    time.sleep(60)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLGRPO")}
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=repo_root, env=environment, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    forked = psutil.Process(int(worker.stdout.readline()))
    time.sleep(0.2)
    worker.kill()
    worker.wait()
    assert psutil.wait_procs([forked], timeout=2)[1] == []


def test_a_training_worker_scores_only_what_has_a_label_on_its_cpu(repo_root: Path):
    code = """
from stages.training import stage as _stage
def train(work):
    import torch
    from trl.trainer import utils
    print("alone:", utils._use_triton(torch.device("cpu")))
_stage.main("sft", "", train, ["--stage", "sft_labels", "--config", "demo", "--worker"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLGRPO")}
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, env=environment, capture_output=True, text=True)
    assert "alone: True" in done.stdout, done.stderr
