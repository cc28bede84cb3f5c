"""Runs of small.yaml through the real entry points, and a way to end one at a chosen moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.files import read_jsonl, weights_digest, write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.system.fork_server import FORK_SERVER
from tests.heeded_signals import heed_signals

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "small.yaml"
AT_ONCE = "launch.parallel_phases=2"
"""The baseline beside the stages, also where there is one core."""
QUICK = ("evaluation.split=test[:4]", "evaluation.samples=0", "evaluation.max_new_tokens=4")
"""Settings of a run whose answers no test reads."""
STAGES = ["baseline_sft_labels", "stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo"]


@dataclass(frozen=True)
class Small:
    """Runs of tests/integration/small.yaml in a folder of their own."""

    root: Path
    repo: Path
    config: Path = CONFIG

    def run_dir(self, name: str = "small") -> RunDir:
        return RunDir(self.root, name)

    def start(
        self, module: str, *words: str, name: str = "small", alone: bool = False, **how: Any
    ) -> subprocess.Popen[str]:
        """Start an entry point ("pipeline run", "stages.sft") in a session of its own, its output kept.

        Args:
            words: its options, then settings a.b=c.
            alone: without the tests' own server: all that works for it descends from it.
        """
        command = [sys.executable, "-m", *module.split(), "--config", str(self.config), *words]
        # Where the tests' own reward is found.
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        if alone:
            environment.pop(FORK_SERVER, None)
        return subprocess.Popen(
            [*command, f"output_dir={self.root}", f"name={name}"],
            cwd=self.repo,
            env=environment,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **{"stdout": subprocess.PIPE, "preexec_fn": heed_signals, **how},
        )

    def run(
        self, module: str, *words: str, name: str = "small", code: int = 0, timeout: float = 1500, **how: Any
    ) -> str:
        """Run an entry point to its end; its output. Fails the test when the exit code is not `code`."""
        process = self.start(module, *words, name=name, **how)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, (
            f"{module} {words}: exit code {process.returncode}, not {code}\n{output[-5000:]}"
        )
        return output

    def end_when(
        self,
        happened: Callable[[], bool],
        signal: int,
        module: str,
        *words: str,
        name: str = "small",
        group: bool = False,
        victim: Callable[[psutil.Process], psutil.Process] | None = None,
    ) -> tuple[int, str]:
        """Start an entry point, send it a signal as soon as something happened, and wait until all it started is gone.

        Args:
            group: send the signal to all it started too, as a terminal does, not to it alone.
            victim: finds the process to send it to, among those it started.

        Returns:
            Its exit code and output.
        """
        process = self.start(module, *words, name=name, alone=True)
        try:
            deadline = time.monotonic() + 300
            while not happened():
                assert process.poll() is None, f"it ended before: {process.communicate()[0][-3000:]}"
                assert time.monotonic() < deadline, "it did not happen in time"
                time.sleep(0.002)
            if victim is not None:
                victim(psutil.Process(process.pid)).send_signal(signal)
            elif group:
                os.killpg(process.pid, signal)
            else:
                process.send_signal(signal)
            # Ends when the last process that holds the pipe does.
            output, _ = process.communicate(timeout=60)
            # A keeper gives its server 20 s.
            assert self.processes(name, process.pid, wait=30) == []
            return process.returncode, output
        finally:
            process.kill()

    def processes(self, name: str, conductor: int = 0, wait: float = 0) -> list[str]:
        """Command lines of live processes of a run, once there are none or `wait` seconds are over.

        Args:
            conductor: whose server, and what is forked from it, belong to the run too.
        """
        folder = str(self.root / name)
        deadline = time.monotonic() + wait
        while True:
            found = []
            for process in psutil.process_iter(["cmdline", "status", "environ"]):
                words = process.info["cmdline"] or []
                named = any(word == f"name={name}" for word in words) and any(str(self.root) in word for word in words)
                served = "--serve" in words and str(conductor) in words
                # A server of rollouts has its weights elsewhere, and its logs of the stage that started it.
                logs = (process.info["environ"] or {}).get("CLGRPO_LOGS", "")
                ours = named or served or any(word == folder or f"{folder}/" in word for word in (*words, logs))
                if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(words))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def copy_of(self, source: str, name: str, *phases: str) -> RunDir:
        """A new run that has the finished phases of another."""
        for phase in phases:
            shutil.copytree(self.run_dir(source).phase(phase), self.run_dir(name).phase(phase))
        return self.run_dir(name)


def train(root: Path, stage: str, name: str, *words: str) -> Any:
    """Train one stage of small.yaml in this process, as a worker does, and return its work.

    It is not verified, evaluated or reported. A base is made where the run has none.
    """
    from pipeline.checks.run import check
    from pipeline.config.loader import load
    from pipeline.runs.phases import start_record
    from stages import grpo, sft
    from stages.checkpoints.base_model import make_base_model
    from stages.processes.work import Work

    config = load(CONFIG, [f"output_dir={root}", f"name={name}", *words])
    check(config)
    run = RunDir(root, name)
    if run.record(BASE) is None:
        make_base_model(Work(config, BASE, run))
    work = Work(config, config.stage_name(stage), run)
    if run.record(work.name) is None:
        write_json(run.record_path(work.name), start_record(config, run, work.name))
    {"sft": sft, "grpo": grpo}[work.stage.algorithm].train(work)
    return work


def moved(old: Path, new: Path) -> dict[str, float]:
    """Per weight, the largest difference between two checkpoints, which have the same ones."""
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    assert set(before) == set(after)
    return {key: float((after[key] - before[key]).abs().max()) for key in before}


def accept(work: Any) -> None:
    """Verify a trained stage in this process and make it complete, as the processes of its evaluation do."""
    from pipeline.data.load import load_task
    from pipeline.runs.handover import checkpoint_folder
    from stages.checkpoints.accept import accept
    from stages.checkpoints.verify import verify
    from stages.models.generate import Answerer

    task = load_task(work.config.task, work.run.cache)
    verify(work, task, lambda: Answerer(checkpoint_folder(work.run, work.name), work.config, 0))
    assert accept(work)


def weights(run: RunDir, *names: str) -> dict[str, str | None]:
    """Digest of the weight files of each phase, from their bytes."""
    return {name: weights_digest(run.final(name)) for name in names}


def steps(run: RunDir, name: str) -> list[int]:
    """The steps in a stage's metrics.jsonl, in the order they were written."""
    return [row["step"] for row in read_jsonl(run.phase(name) / "metrics.jsonl")]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """(size, time of change in ns) of every file below a folder."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def in_fresh_process(code: str, *words: object) -> Any:
    """What a Python program prints as its last line, read as JSON. It finds the rooms of this repository."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
