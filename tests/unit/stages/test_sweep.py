"""A sweep from the command line: each cell a process, failures recorded, nothing lost to `kill -9`. The cells have no model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import command_line
from pipeline.sweeps.rows import TIMED
from stages.sweep import main
from tests.conftest import ROOT, RunModule
from tests.heeded_signals import heed_signals
from tests.waiting import wait_for

MODULE = "tests.stand_in_cell"
TWO_TASKS = {name: {"task": {"name": "scenes"}, "split": name} for name in ("train", "val")}


@pytest.fixture
def lab(tmp_path: Path) -> Callable[..., Path]:
    def write(models: tuple[str, ...] = ("a", "b", "c"), **more: Any) -> Path:
        path = tmp_path / f"{more.get('name', 'trial')}.yaml"
        block = {
            "name": "trial",
            "output_dir": str(tmp_path / "out"),
            "precisions": ["float32", "bfloat16"],
            "models": {name: {"name_or_path": f"none-such/{name}"} for name in models},
            "tasks": {name: {"task": {"name": "scenes"}, "split": name} for name in ("train", "val", "test")},
        }
        path.write_text(yaml.safe_dump({**block, **more}))
        return path

    return write


Sweep = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Sweep:
    """The entry point, called: only its cells are processes."""

    def call(path: Path, *words: object) -> Ended:
        capsys.readouterr()
        argv = ["--config", str(path), "--cell-module", MODULE, *map(str, words)]
        return Ended(command_line.status(lambda: main(argv)), *capsys.readouterr())

    return call


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").open()))


def untimed(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in table(folder)]


def test_a_crash_costs_one_cell_and_is_recorded_with_its_last_lines(sweep: Sweep, lab: Any, tmp_path: Path) -> None:
    path = lab(
        ("a", "crash", "killed", "void"),
        tasks={"val": {"task": {"name": "scenes"}, "split": "val"}},
        precisions=["auto"],
    )
    done = sweep(path, "--workers", 2)
    assert done.returncode == 1, done.stderr
    out = tmp_path / "out" / "trial"
    rows = {row["model"]: row for row in table(out)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "complete", "crash": "failed", "killed": "failed", "void": "failed"
    }  # fmt: skip
    assert rows["crash"]["reason"] == "exit status 1: RuntimeError: the model broke <b>here</b>"
    assert "SIGKILL" in rows["killed"]["reason"]
    assert rows["void"]["reason"] == "ended without a complete evaluation.json"
    failure = json.loads((out / "cells" / "crash--val--auto--direct" / "failure.json").read_text())
    assert failure["exit_status"] == 1
    assert failure["last_lines"][0].startswith("Traceback")
    page = (out / "index.html").read_text()
    assert "the model broke &lt;b&gt;here&lt;/b&gt;" in page
    assert "<b>here</b>" not in page


def test_a_sweep_that_was_killed_twice_gives_what_an_undisturbed_one_gives(
    sweep: Sweep, lab: Any, tmp_path: Path
) -> None:
    """The sweep dies by kill -9 in one cell, then a cell does; results.csv is the same but for what was timed."""
    calm, rough = (lab(("a", "b"), name=name, tasks=TWO_TASKS) for name in ("calm", "rough"))
    assert sweep(calm, "--workers", 2).returncode == 0
    out = tmp_path / "out" / "rough"
    slow = {**os.environ, "STAND_IN_SECONDS": "0.03"}
    words = ["--config", str(rough), "--cell-module", MODULE, "--workers", "2"]
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-m", "stages.sweep", *words], cwd=ROOT, env=slow, stdout=subprocess.DEVNULL
        )
        before = answered(out)
        wait_for(lambda before=before: answered(out) > before + 30)
        child.send_signal(signal.SIGKILL)
        child.wait()
    # They die with the sweep.
    wait_for(lambda: not cells_alive(rough.stem, tmp_path))
    half = [path for path in out.glob("cells/*/predictions.jsonl") if path.read_text().count("\n") < 40]
    assert half, "nothing was interrupted"
    # A line torn by the kill.
    half[0].write_text(half[0].read_text() + '{"id": "r3')
    assert sweep(rough, "--workers", 2).returncode == 0
    assert untimed(out) == untimed(tmp_path / "out" / "calm")
    assert len(table(out)) == 2 * 2 * 2
    assert (out / "groups.csv").read_bytes() == (tmp_path / "out" / "calm" / "groups.csv").read_bytes()
    pairs = [json.loads((tmp_path / "out" / name / "results.json").read_text())["pairs"] for name in ("calm", "rough")]
    assert pairs[0] == pairs[1]


def answered(out: Path) -> int:
    return sum(path.read_text().count("\n") for path in out.glob("cells/*/predictions.jsonl"))


def cells_alive(name: str, tmp_path: Path) -> bool:
    mine = f"{tmp_path}/out/{name}/lab.yaml".encode()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mine in process.read_bytes() and MODULE.encode() in process.read_bytes():
                return True
        except OSError:
            continue
    return False


def finished(root: Path) -> list[Path]:
    return list((root / "out").glob("trial/cells/*/evaluation.json"))


def test_ctrl_c_waits_for_nothing_and_says_how_to_go_on(lab: Any, tmp_path: Path) -> None:
    path = lab()
    child = subprocess.Popen(
        [sys.executable, "-m", "stages.sweep", "--config", str(path), "--cell-module", MODULE],
        cwd=ROOT, env={**os.environ, "STAND_IN_SECONDS": "5"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=heed_signals,
    )  # fmt: skip
    wait_for(lambda: bool(finished(tmp_path)))
    before = len(finished(tmp_path))
    child.send_signal(signal.SIGINT)
    told = child.communicate(timeout=60)[1]
    assert len(finished(tmp_path)) == before
    assert child.returncode == 130
    assert "the same command goes on where it was" in told
    assert "Traceback" not in told
    assert not cells_alive("trial", tmp_path)


def test_complete_cells_are_not_started_again_and_writing_anew_gives_the_same_bytes(
    sweep: Sweep, lab: Any, tmp_path: Path
) -> None:
    path = lab(("a", "b"), precisions=["auto"], tasks=TWO_TASKS)
    assert sweep(path, "--workers", 2).returncode == 0
    out = tmp_path / "out" / "trial"
    files = ("results.csv", "groups.csv", "results.json", "results.md", "index.html")
    before = {name: (out / name).read_bytes() for name in files}
    done = sweep(path)
    assert "0 of 4 cells to run" in done.stderr
    assert {name: (out / name).read_bytes() for name in files} == before
    assert "2 of 4 cells to run" in sweep(path, "--clean", "*--val--*").stderr
    done = sweep(path, "tasks.val.max_new_tokens=9")
    assert done.returncode == 1
    assert "the inputs have changed; --clean" in done.stdout
    assert [row["status"] for row in table(out) if row["task"] == "val"] == ["failed", "failed"]


def test_smoke_asks_a_few_rows_in_a_folder_of_its_own_and_says_who_fails(
    sweep: Sweep, lab: Any, tmp_path: Path
) -> None:
    path = lab(("a", "crash"), precisions=["auto"], tasks=TWO_TASKS)
    done = sweep(path, "--smoke")
    assert done.returncode == 1
    assert "failed: crash--val--auto--direct" in done.stdout
    resolved = yaml.safe_load((tmp_path / "out" / "trial-smoke" / "lab.yaml").read_text())
    assert {task["split"] for task in resolved["tasks"].values()} == {"train[:2]", "val[:2]"}
    assert not (tmp_path / "out" / "trial").exists()


def test_a_dry_run_starts_nothing(sweep: Sweep, lab: Any, tmp_path: Path) -> None:
    done = sweep(lab(), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "18 cells" in done.stdout
    assert "a: memory not known" in done.stdout
    assert not (tmp_path / "out").exists()


def test_each_gpu_has_one_cell_at_a_time_and_cells_see_that_one_alone(
    run_module: RunModule, lab: Any, tmp_path: Path
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = -L ]; then printf "GPU 0: x\\nGPU 1: x\\n"; else printf "99999\\n99999\\n"; fi\n'
    )
    fake.chmod(0o755)
    there = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    env = {**there, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STAND_IN_SECONDS": "0.02"}
    path = lab(("a", "b"), precisions=["auto"], tasks=TWO_TASKS)
    words = ["--config", str(path), "--cell-module", MODULE]
    done = subprocess.run(
        [sys.executable, "-m", "stages.sweep", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2 at a time" in done.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("trial/cells/*/evaluation.json")]
    assert {record["device"] for record in records} == {"0", "1"}
    done = run_module("stages.sweep", *words, "--workers", 3, env=env)
    assert "--workers: 3 must be at least 1 and at most 2, the visible GPUs" in done.stderr


def test_more_workers_than_there_are_is_refused(sweep: Sweep, lab: Any) -> None:
    done = sweep(lab(), "--workers", 0)
    assert (done.returncode, done.stderr) == (2, "error: --workers: 0 must be at least 1\n")


def test_a_budget_starts_nothing_and_speaks_of_the_tasks_it_is_asked_about(
    sweep: Sweep, lab: Any, tmp_path: Path
) -> None:
    path = lab(("a",), precisions=["float32"], tasks=TWO_TASKS)
    told = sweep(path, "--budget", "8GB", "--task", "val")
    assert (told.returncode, told.stdout.splitlines()[0]) == (0, "val, within 8.0 GB:")
    assert "train" not in told.stdout
    assert not (tmp_path / "out").exists()
    for words, why in (
        (("--budget", "8GB", "--task", "vall"), "'vall' is no task of this lab; did you mean val?"),
        (("--budget", "eight"), "write 8GB, 24GiB or 700MB"),
        (("--task", "val"), "chooses the tasks that --budget tells about"),
    ):
        told = sweep(path, *words)
        assert (told.returncode, why in told.stderr) == (2, True)
