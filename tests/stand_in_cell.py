"""A cell's worker without a model, for tests of the sweep: answers by a hash, a row at a time, resumable like the real one.

    python -m tests.stand_in_cell --config lab.yaml --cell CELL_ID

A model named crash… raises, one named killed… dies by SIGKILL, one named void… ends well without a result. STAND_IN_SECONDS is
the time a row takes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import time
from typing import Any

from pipeline.checks.evaluation import load_lab
from pipeline.config.evaluation import Cell, LabConfig, cell_folder, cells
from pipeline.config.loader import to_plain
from pipeline.files import read_jsonl, write_json

ROWS = 40


def row(cell: Cell, number: int) -> dict[str, Any]:
    """A row that is right more often for later models, and sometimes unparsable."""
    share = hashlib.sha256(f"{cell.id}/{number}".encode()).digest()[0] / 256
    skill = 0.3 + 0.5 * (sum(map(ord, cell.model)) % 8) / 8
    correct, label = share < skill, "B" if share < 0.95 else None
    return {
        **{
            "id": f"r{number}",
            "gold": "A" if not correct else "B",
            "label": label,
            "correct": correct and label == "B",
        },
        **{"decoding": "greedy", "sample": 0, "style": "direct", "groups": {"kind": f"k{number % 3}"}, "cluster": ""},
        **{"completion": "<script>alert(1)</script>", "completion_tokens": 3, "truncated": False, "guessed": None},
    }


def answer(config: LabConfig, cell: Cell) -> None:
    """Answer what is missing and write the figures."""
    folder = cell_folder(config, cell)
    inputs = {"model": to_plain(config.models[cell.model]), "task": to_plain(config.tasks[cell.task])}
    record = folder / "evaluation.json"
    there = json.loads(record.read_text()) if record.exists() else None
    if there and there["inputs"] != inputs:
        raise SystemExit("error: the inputs have changed; --clean")
    if there and there["status"] == "complete":
        return
    write_json(record, {"status": "running", "inputs": inputs})
    path = folder / "predictions.jsonl"
    done = {one["id"] for one in read_jsonl(path)}
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        path.write_text("".join(json.dumps(one) + "\n" for one in read_jsonl(path)))
    began = time.monotonic()
    with path.open("a") as file:
        for number in range(ROWS):
            if f"r{number}" in done:
                continue
            time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
            print(json.dumps(row(cell, number)), file=file, flush=True)
            if number == ROWS // 2 and cell.model.startswith("crash"):
                raise RuntimeError("the model broke <b>here</b>")
            if number == ROWS // 2 and cell.model.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
    rows = list(read_jsonl(path))
    figures = {
        "rows": len(rows),
        "accuracy": sum(one["correct"] for one in rows) / len(rows),
        "chance": 0.25,
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "official": {"score": 100 * sum(one["correct"] for one in rows) / len(rows)},
        "problems": {"unreadable_image": 1},
        "seconds": time.monotonic() - began,
        "rows_per_second": 7.0,
        **{
            "latency_p50_s": 0.01,
            "latency_p95_s": 0.02,
            "versions": {"commit": "abc", "versions": {"torch": "2.13.0"}},
        },
        "peak_memory_bytes": (900 + 100 * (sum(map(ord, cell.model)) % 8) - 50 * (cell.precision == "bfloat16"))
        * 10**6,
    }
    write_json(record, {"status": "complete", "inputs": inputs, **figures})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--cell")
    words = parser.parse_args()
    lab = load_lab(words.config)
    chosen = next(cell for cell in cells(lab) if cell.id == words.cell)
    if not chosen.model.startswith("void"):
        answer(lab, chosen)
