"""One command trains a student with and without questions of depth order, which are of a file of boxes with a depth each."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline.data.training_rows import DATA, read_rows
from pipeline.files import weights_digest
from pipeline.run_dir import RunDir
from pipeline.runs.handover import checkpoint_folder
from tests.conftest import RunModule

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
ARMS = ("stage1_without_depth", "stage2_with_depth")


def write_boxes(file: Path, count: int) -> None:
    """Pictures of a cup and a lamp, of which they take turns to be the nearer one."""
    rows = []
    for number in range(count):
        picture, sink = Image.new("RGB", (64, 64), "white"), io.BytesIO()
        boxes = {"cup": [4, 10 + number, 24, 30 + number], "lamp": [36, 10, 56, 30]}
        for box in boxes.values():
            ImageDraw.Draw(picture).rectangle(box, fill=(number, 90, 90))
        picture.save(sink, "png")
        depths = (1.0, 2.0) if number % 2 else (2.0, 1.0)
        objects = [
            {"name": name, "box": box, "depth": depth} for (name, box), depth in zip(boxes.items(), depths, strict=True)
        ]
        rows.append({"id": number, "image": {"bytes": sink.getvalue(), "path": None}, "objects": objects})
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_boxes_with_depth_are_mixed_in_by_one_command(tmp_path: Path, repo_root: Path, run_module: RunModule) -> None:
    (tmp_path / "boxes").mkdir()
    write_boxes(tmp_path / "boxes" / "train-0.parquet", 16)
    write_boxes(tmp_path / "boxes" / "test-0.parquet", 4)
    page = tmp_path / "page.md"
    page.write_text("<!-- table of depth -->\n<!-- end of depth -->\n")
    settings = [
        f"task.options.of.depth.path={tmp_path / 'boxes'}",
        "task.options.of.others.options.drawn=[20, 0, 8]",
        "task.options.splits.without_depth={others: 'train[:24]'}",
        "task.options.splits.with_depth={others: 'train[:16]', depth: 'train[:8]'}",
        "model.tiny={hidden_size: 64, layers: 2, intermediate_size: 128, vision_hidden_size: 64, vision_layers: 1}",
        *(f"stages.{stage}.trainer.max_steps=2" for stage in ARMS),
        *(f"stages.{stage}.trainer.per_device_train_batch_size=4" for stage in ARMS),
        *(f"stages.{stage}.trainer.warmup_steps=0" for stage in ARMS),
    ]
    fixed = ["--seeds", "0", "--output-dir", str(tmp_path / "runs"), "--into", str(page)]
    done = run_module("benchmarks.auxiliary", *settings, *fixed, env={"PYTHONPATH": str(repo_root)}, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    run = RunDir(tmp_path / "runs", "depth-seed0")
    weights = {phase: weights_digest(checkpoint_folder(run, phase)) for phase in ("base", *ARMS)}
    assert len(set(weights.values())) == 3, weights
    lines = {arm: (run.phase(arm) / DATA).read_text().splitlines() for arm in ARMS}
    assert {arm: len(of) for arm, of in lines.items()} == dict.fromkeys(ARMS, 24)
    assert [sum('"depth/ADE20K-' in line for line in of) for of in lines.values()] == [0, 8]
    assert "which is nearer to the camera: the" in str(read_rows(run.phase(ARMS[1]), ["prompt"])[0])
    assert all(f"| {kind} |" in page.read_text() for kind in ("all but Depth", "Depth", "Relation"))
    assert (tmp_path / "figures" / "depth.png").exists()
