"""The processes that do a phase's work: started alone or under torchrun, asked to stop, and what they leave in logs/.

Each attempt has a folder ``<phase>/logs/<module>-<attempt>/`` with the output of every rank in ``rank<k>.log``, torchrun's own
in ``launcher.log``, what rank 0 tells in ``events.jsonl``, and in ``first_failure`` the rank that raised before the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pipeline.conductor.forecast import MEMORY_CURE
from pipeline.config.derived import processes_per_node
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.logs import EVENTS, Events, log_to_files
from pipeline.runs.checkpoint_folders import last_checkpoint, step_of
from pipeline.system import multinode
from pipeline.system.fork_server import forked
from pipeline.system.hardware import gpu_names, visible_gpus
from pipeline.system.processes import STARTED_BY, die_with_parent, how_ended, on_signals
from stages.processes.work import Work

log = logging.getLogger(__name__)
LOGS = "CLGRPO_LOGS"
"""Environment variable: the attempt's log folder, for the workers."""
STOP = "stop"
"""The file in it that asks training workers to save and end."""
FIRST_FAILURE = "first_failure"
_LAUNCHER = "launcher.log"
_TRAINING = ("sft", "grpo")
_LIKE_TRAINING = (*_TRAINING, "preflight")
# Seconds between two looks at the workers and their events.
_POLL = 0.1
# Seconds a worker that got SIGTERM waits for the request to stop in order.
_HEARD = 5.0
# Free bytes at which the disk is to blame, and the logs may be cut short.
_LITTLE = 2**24
_NO_MEMORY = ("OutOfMemoryError", "CUDA out of memory")
_ANSWERS_CURE = "lower evaluation.max_new_tokens, or the tokens of a picture with model.processor"
_NO_ROOM = ("No space left", "disk is full", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")


def run_workers(module: str, work: Work, argv: Sequence[str]) -> None:
    """Run ``python -m stages.<module> … --worker``, alone or under torchrun, and keep its output.

    The first Ctrl-C (or SIGTERM) asks training workers to save and end; the next one ends them at once, as the first does
    elsewhere, where nothing is lost.

    Args:
        module: file of stages/.
        work: whose log folder is written.
        argv: the arguments the entry point itself got.

    Raises:
        UserError: when a worker fails; holds the traceback of the one that failed first, names its log and how to go on.
        KeyboardInterrupt: after the workers have ended, when they were asked to.
    """
    logs = _new_attempt(work.folder / "logs", module)
    shared = {LOGS: str(logs), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if visible_gpus() == 0:
        # Two OpenMP threads that share a busy core make a step 7 to 40 times slower.
        shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    if (only := one_gpu(work.config)) is not None:
        shared["CUDA_VISIBLE_DEVICES"] = only
    # Trackers keep what they write in the stage's folder, unless the user's environment says otherwise.
    trackers = {
        "TENSORBOARD_LOGGING_DIR": work.folder / "tensorboard",
        "WANDB_DIR": work.folder,
        "WANDB_PROJECT": "clgrpo",
    }
    shared |= {name: os.environ.get(name, str(value)) for name, value in trackers.items()}
    words = _words(module, work, argv)
    launcher = multinode.start(words, logs / _LAUNCHER, shared)
    events = Events(logs / EVENTS)
    try:
        with multinode.elsewhere(words, shared), _asking_to_stop(launcher, logs, gently=module in _TRAINING) as asked:
            while (code := launcher.poll()) is None:
                events.show()
                time.sleep(_POLL)
    finally:
        multinode.end(launcher)
        events.end()
    if asked:
        if module in _TRAINING and (step := step_of(last_checkpoint(work.folder))):
            log.info("%s: kept up to step %s", work.name, step)
        raise KeyboardInterrupt
    if code:
        told = "\n  ".join(_failure(module, logs, code))
        raise UserError([f"{work.name}: {told}", _how_to_go_on(module, work, logs)])


def _words(module: str, work: Work, argv: Sequence[str]) -> list[str]:
    """What comes after the interpreter."""
    worker = ["-m", f"stages.{module}", *argv, "--worker"]
    alone = module == "base"
    processes = 1 if alone else processes_per_node(work.config)
    several = processes * (1 if alone else multinode.count()) > 1
    launch = work.config.launch
    # Under torchrun one process takes one GPU; alone it would take those of a rollout server too.
    if not several and not ((launch.deepspeed or launch.rollout_gpus) and module in _LIKE_TRAINING):
        return worker
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--signals-to-handle=SIGQUIT"]
    # torchrun puts Python before -m MODULE itself, but not before -m STUB -m MODULE.
    python = ["--no-python", sys.executable, "-u"] if forked(worker) != worker else []
    return [*torchrun, *multinode.rendezvous(), *python, *forked(worker)]


def one_gpu(config: RunConfig) -> str | None:
    """Return what CUDA_VISIBLE_DEVICES is to say to the one process of a run where several GPUs are visible; else None.

    A trainer that sees several would spread its one process over all with nn.DataParallel, eightfold batches and all. GPUs
    kept for a rollout server stay visible: torchrun gives the process its own.
    """
    alone = processes_per_node(config) == 1 and not config.launch.rollout_gpus
    return gpu_names()[0] if alone and visible_gpus() > 1 else None


def _new_attempt(logs: Path, module: str) -> Path:
    """An empty folder for the next attempt's logs: logs/sft-001, sft-002, …"""
    numbers = [int(path.name.rpartition("-")[2]) for path in logs.glob(f"{module}-[0-9]*") if path.is_dir()]
    folder = logs / f"{module}-{max(numbers, default=0) + 1:03d}"
    folder.mkdir(parents=True)
    return folder.resolve()


@contextlib.contextmanager
def _asking_to_stop(launcher: subprocess.Popen[bytes], logs: Path, gently: bool) -> Iterator[list[int]]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request to the workers; yields the signals that came."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        # SLURM signals every process of a job, the conductor and the other nodes pass it on, and a terminal that closes
        # sends its SIGHUP by way of the shell and of the kernel.
        if asked and number != signal.SIGINT:
            return
        asked.append(number)
        if gently and len(asked) == 1:
            (logs / STOP).touch()
            log.info("stopping at the next step that can be resumed exactly; Ctrl-C again stops at once")
        else:
            multinode.end(launcher)

    with on_signals(ask):
        yield asked


def _failure(module: str, logs: Path, code: int) -> list[str]:
    """What went wrong first, from the log of the rank it went wrong on."""
    launcher = (logs / _LAUNCHER).read_text(errors="replace")
    root = re.search(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", launcher, re.DOTALL)
    rank, status = (int(root[1]), int(root[2])) if root else (0, code)
    first = logs / FIRST_FAILURE
    # Empty when the disk was too full to write it.
    named = first.read_text() if first.exists() else ""
    # torchrun sees exits, and the one that failed first may exit last.
    if status >= 0 and named.isdigit():
        rank = int(named)
    log = logs / f"rank{rank}.log"
    if not log.exists() or not log.stat().st_size:
        log = logs / _LAUNCHER
    what = f"stages.{module} failed with exit status {code}"
    if root or named:
        what += f", rank {rank} first"
    if status < 0:
        what += f", {how_ended(status)}"
    return [f"{what}; its last lines:", *last_lines(log)]


def last_lines(log: Path) -> list[str]:
    """Return the last traceback of a log and what follows it, or its last lines."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith("Traceback (most recent")]
    return lines[starts[-1] if starts else 0 :][-20:]


def _how_to_go_on(module: str, work: Work, logs: Path) -> str:
    step = step_of(last_checkpoint(work.folder))
    there = f"goes on from the last checkpoint (step {step})" if step else "goes on: no checkpoint was written yet"
    text = "".join(path.read_text(errors="replace") for path in logs.glob("*.log"))
    free = shutil.disk_usage(work.folder).free
    if free < _LITTLE or any(words in text for words in _NO_ROOM):
        there = f"{there}, once there is room ({free / 1e6:,.0f} MB are free where {work.folder} is)"
    elif any(words in text for words in _NO_MEMORY):
        # What fits is another stage than the one begun, but for the evaluation.
        cure = f"{MEMORY_CURE}, and begin anew with --clean" if module in _TRAINING else _ANSWERS_CURE
        there = f"{there}, where other programs took the memory; where none did, {cure}"
    return f"the logs of all ranks: {logs}. The same command {there}"


@contextlib.contextmanager
def as_worker() -> Iterator[None]:
    """Be a worker: die with the launcher, write to this rank's log, heed the right signals, and own up to failing first."""
    die_with_parent(signal.SIGKILL)
    # Data processes, which torch forks.
    os.register_at_fork(after_in_child=partial(die_with_parent, signal.SIGKILL))
    starter = os.environ.get(STARTED_BY)
    if starter and not Path(f"/proc/{starter}").exists() and sys.platform == "linux":
        # It died before we asked to die with it.
        os._exit(1)
    folder = Path(os.environ[LOGS]) if LOGS in os.environ else None
    rank = os.environ.get("RANK", "0")
    if folder is not None:
        _write_to(folder / f"rank{rank}.log")
    log_to_files(folder / EVENTS if folder is not None else None)
    _outlive_a_gentle_stop(folder)
    try:
        yield
    except BaseException as error:
        if folder is not None and not (isinstance(error, SystemExit) and not error.code):
            with contextlib.suppress(OSError), (folder / FIRST_FAILURE).open("x") as file:
                file.write(rank)
        raise


def _write_to(log: Path) -> None:
    """Turn all further output of this process, C libraries' too, to a log."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _outlive_a_gentle_stop(folder: Path | None) -> None:
    """SLURM sends SIGTERM to every process of a job it preempts; while the entry point asks for a gentle stop, go on.

    Any other SIGTERM ends this process at once, also in the middle of a collective that will never return.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    def watch() -> None:
        while True:
            number = signal.sigwait({signal.SIGTERM, signal.SIGINT})
            deadline = time.monotonic() + (_HEARD if folder else 0)
            # The entry point has the same signal to answer.
            while folder is None or not (folder / STOP).exists():
                if time.monotonic() >= deadline:
                    os._exit(128 + number)
                time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
