"""Distillation from logits through the entry points: two processes under ZeRO-3, each with the whole teacher, and one alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from small_runs import HERE, QUICK, Small

from pipeline.files import read_jsonl, weights_digest
from pipeline.run_dir import BASE

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
STAGE = "stage1_sft"
TWO, ONE = (["launch.num_processes=2", "launch.deepspeed=zero3"], ["launch.num_processes=1"])
BATCHES = {"two": 4, "one": 8}


def test_two_processes_under_zero3_learn_of_their_teachers_as_one_process_does(tmp_path: Path, repo_root: Path) -> None:
    small = Small(tmp_path, repo_root, HERE / "combinations.yaml")
    small.run("stages.base", "model.tiny.hidden_size=96", "model.tiny.layers=2", name="larger")
    teacher = small.run_dir("larger").final(BASE)
    before, logged = weights_digest(teacher), {}
    for name, launch in (("two", TWO), ("one", ONE)):
        distill = f"stages.{STAGE}.distill={{teacher: {teacher}, weight: 0.25, temperature: 2}}"
        batch = f"stages.{STAGE}.trainer.per_device_train_batch_size={BATCHES[name]}"
        small.run("stages.base", *launch, name=name)
        small.run("stages.sft", "--stage", "1", *launch, *QUICK, distill, batch, name=name)
        record = small.run_dir(name).record(STAGE) or {}
        assert record["status"] == "complete"
        assert record["teacher"] == {"folder": str(teacher), "weights": before}
        logged[name] = list(read_jsonl(small.run_dir(name).phase(STAGE) / "metrics.jsonl"))
    assert weights_digest(teacher) == before
    for rows in logged.values():
        assert [row["step"] for row in rows] == [1, 2]
        for row in rows:
            mixed = 0.75 * row["distill/cross_entropy"] + 0.25 * 4 * row["distill/kl"]
            assert row["loss"] == pytest.approx(mixed, rel=1e-3)
            assert row["distill/kl"] > 0
    for key in ("distill/cross_entropy", "distill/kl", "loss"):
        pairs = zip(logged["two"], logged["one"], strict=True)
        assert all(math.isclose(two[key], one[key], rel_tol=1e-3) for two, one in pairs), key
