"""The same checkpoint on the same benchmark through lmms-eval, so that the two numbers stand side by side.

lmms-eval brings its own packages and is never imported: its command runs in an environment of its own, whose interpreter
`--harness-python` names. It reads its own copy of the data from the hub, asks in its own words and judges by its own code; a
difference of the two numbers is a difference of these.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.formatting import percent
from stages.evaluation.backends.base import Checkpoint

HARNESSES = ("lmms-eval",)
TASKS = {
    "cv_bench": ("cv_bench", "cv_bench_acc"),
    "mmmu": ("mmmu_val", "mmmu_acc"),
    "mathvista": ("mathvista_testmini_format", "gpt_eval_score"),
    "mmstar": ("mmstar", "average"),
}
"""Ours: (lmms-eval's task, its main metric); its MathVista wants a judge behind an API of its own."""
ADAPTERS = {"qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_5_vl", "qwen3_vl": "qwen3_vl", "llava": "llava_hf"}
"""model_type: lmms-eval's own adapter; other families go through its general one, `huggingface`."""


def problems(task: str, split: str, python: str | None) -> list[str]:
    """Return why a task cannot be run through lmms-eval."""
    told = []
    if task not in TASKS:
        told.append(f"--harness: lmms-eval has no task that is our {task}; it has {', '.join(TASKS)}")
    if "[" in split:
        told.append(f"--harness: lmms-eval cannot ask the rows of {split!r}; name the whole split")
    if python is None or not Path(python).is_file():
        told.append(
            f"--harness-python: {python!r} is no interpreter; make an environment with lmms-eval "
            "(docs/evaluation.md) and name its bin/python"
        )
    return told


def run(checkpoint: Checkpoint, task: str, python: str, folder: Path, batch_size: int) -> float:
    """Run lmms-eval's task on a checkpoint; its main metric, as it tells it.

    Args:
        checkpoint: found.
        task: ours.
        python: the interpreter of lmms-eval's environment.
        folder: where its results and its log go.
        batch_size: rows it generates at once.

    Raises:
        UserError: when it fails, with the last lines it wrote.
    """
    from pipeline.config.families import model_type

    assert checkpoint.folder is not None
    name, metric = TASKS[task]
    adapter = ADAPTERS.get(model_type(checkpoint.folder) or "", "huggingface")
    folder.mkdir(parents=True, exist_ok=True)
    words = [python, "-m", "lmms_eval", "--model", adapter, "--model_args", f"pretrained={checkpoint.folder.resolve()}"]
    words += ["--tasks", name, "--batch_size", str(batch_size), "--output_path", str(folder), "--log_samples"]
    log = folder / "log.txt"
    with log.open("w") as file:
        code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    results = sorted(folder.rglob("*results.json"), key=lambda path: path.stat().st_mtime)
    if code or not results:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise UserError(f"lmms-eval ended with exit code {code} and no result; the end of {log}:\n{last}")
    return _metric(json.loads(results[-1].read_text()), name, metric)


def _metric(results: Mapping[str, Any], task: str, metric: str) -> float:
    """The metric of a task in lmms-eval's results, whatever filter it stands under (``average,none``)."""
    found = {key.split(",")[0]: value for key, value in results.get("results", {}).get(task, {}).items()}
    if not isinstance(found.get(metric), int | float):
        raise UserError(
            f"lmms-eval's results hold no number {metric!r} of {task}; they hold {', '.join(sorted(found))}"
        )
    return float(found[metric])


def compare_with_lmms_eval(record: Mapping[str, Any], task: str, theirs: float, folder: Path) -> str:
    """Write both numbers to `folder`/side_by_side.json and say them in one line."""
    name, metric = TASKS[task]
    ours = {"accuracy": record["accuracy"], "official": record["official"]}
    write_json(folder / "side_by_side.json", {"task": task, "ours": ours, "lmms-eval": {"task": name, metric: theirs}})
    official = "".join(f", {key} {value:.2f} %" for key, value in record["official"].items())
    return f"{task}: ours {percent(record['accuracy'], 2)} %{official}; lmms-eval {name} {metric} {theirs:g}"
