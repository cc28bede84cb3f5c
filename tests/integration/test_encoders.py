"""One command trains, checks and compares encoders: towers of three kinds with random weights, two steps each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_parts import SIDE, save_language, save_tower

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
TOWERS = ("clip", "dinov2_with_registers", "siglip")
BASE = """\
task: {{name: shapes, options: {{train: 8, val: 4, test: 10}}, prompt: "{{{{ question }}}}"}}
model: {{compose: {{language: {language}, image_size: {side}}}}}
stages:
  stage0_align:
    algorithm: sft
    init_from: base
    data: labels
    prompt: direct
    freeze: [vision, language]
    trainer: {{max_steps: 2, per_device_train_batch_size: 4, gradient_checkpointing: false, save_strategy: "no"}}
evaluation: {{batch_size: 10, max_new_tokens: 4, samples: 0}}
"""


def test_random_towers_are_compared_by_one_command(tmp_path: Path, repo_root: Path) -> None:
    language = save_language("llama", tmp_path / "llama")
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "_base.yaml").write_text(BASE.format(language=language, side=SIDE))
    for name in TOWERS:
        tower = save_tower(name, tmp_path / name)
        arm = f"base: _base.yaml\nname: {name}\nmodel: {{compose: {{vision: {tower}}}}}\n"
        (tmp_path / "arms" / f"{name}.yaml").write_text(arm)
    page = tmp_path / "page.md"
    page.write_text("<!-- table of encoders_shapes -->\n<!-- end of encoders_shapes -->\n")

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        fixed = ["--seeds", "0", "--output-dir", str(tmp_path / "runs"), "--into", str(page)]
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.encoders", str(tmp_path / "arms"), *words, *fixed],
            cwd=repo_root,
            env=os.environ | {"PYTHONPATH": str(repo_root)},
            capture_output=True,
            text=True,
            timeout=1700,
            check=False,
        )

    done = command()
    assert done.returncode == 0, done.stderr[-3000:]
    # 4 × 4 patches, and the registers, which stay.
    costs = [
        line.split("|")[1:3] for line in page.read_text().splitlines() if line.startswith(("| clip", "| dino", "| sig"))
    ]
    assert [(name.strip(), int(tokens)) for name, tokens in costs] == list(zip(TOWERS, (16, 19, 16), strict=True))
    assert (tmp_path / "figures" / "encoders_shapes.png").exists()
    assert all(f"| {kind} |" in page.read_text() for kind in ("all", "Closer", "Colour", "Count", "Exists", "Relation"))

    refused = command("stages.stage0.trainer.max_steps=3", "--table-only")
    assert refused.returncode == 2
    assert "stage.trainer.max_steps: 2 -> 3" in refused.stderr
