"""A sweep of real models with the real worker of a cell: killed in the middle, it ends as an undisturbed one does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.schema import TaskConfig, TinyConfig
from pipeline.data.conversations import tokenizer_texts
from pipeline.data.load import load_task
from pipeline.sweeps.rows import TIMED
from stages.models.tiny import build_tiny
from tests.conftest import ROOT, RunModule
from tests.waiting import wait_for

SCENES = {"name": "scenes", "options": {"seed": 3, "train": 20, "val": 20, "test": 4}}


@pytest.fixture
def labs(tmp_path: Path) -> dict[str, Path]:
    """A random model × float32 and bfloat16 on drawn scenes, twice over."""
    task = load_task(TaskConfig(**SCENES), tmp_path / "cache")  # type: ignore[arg-type]
    build_tiny(
        tmp_path / "model",
        TinyConfig(layers=1, vision_layers=1),
        tokenizer_texts(task, task.stand_ins("test"), None),
        seed=0,
    )
    written = {}
    for name in ("calm", "rough"):
        block = {
            "name": name,
            "output_dir": str(tmp_path / "out"),
            "precisions": ["float32", "bfloat16"],
            "batch_size": 2,
            # Random weights give no answer that can be read.
            "smoke": 0,
            "models": {"m": {"name_or_path": str(tmp_path / "model")}},
            "tasks": {"val": {"task": SCENES, "split": "val", "max_new_tokens": 16}},
        }
        written[name] = tmp_path / f"{name}.yaml"
        written[name].write_text(yaml.safe_dump(block))
    return written


@pytest.mark.slow
@pytest.mark.nightly
def test_a_killed_sweep_of_real_models_goes_on_and_ends_the_same(
    labs: dict[str, Path], run_module: RunModule, tmp_path: Path
) -> None:
    run_module("stages.sweep", "--config", labs["calm"], timeout=900, check=True)
    command = [sys.executable, "-m", "stages.sweep", "--config", str(labs["rough"])]
    child = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL)
    begun = tmp_path / "out" / "rough" / "cells" / "m--val--float32--direct" / "predictions.jsonl"
    wait_for(lambda: begun.exists() and begun.stat().st_size, 300)
    child.send_signal(signal.SIGKILL)
    child.wait()
    run_module("stages.sweep", "--config", labs["rough"], timeout=900, check=True)
    tables = {name: untimed(tmp_path / "out" / name) for name in labs}
    assert tables["rough"] == tables["calm"]
    assert [row["status"] for row in tables["calm"]] == ["complete"] * 2
    for row in list(csv.DictReader((tmp_path / "out" / "calm" / "results.csv").open())):
        assert float(row["memory_measured_mb"]) > 100
        assert float(row["latency_p95_s"]) >= float(row["latency_p50_s"]) > 0
    said = {name: completions(tmp_path / "out" / name) for name in labs}
    assert said["rough"] == said["calm"]


def untimed(folder: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((folder / "results.csv").open())
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def completions(folder: Path) -> dict[str, list[tuple[str, str]]]:
    return {
        path.parent.name: [(row["id"], row["completion"]) for row in map(json.loads, path.read_text().splitlines())]
        for path in sorted(folder.glob("cells/*/predictions.jsonl"))
    }
