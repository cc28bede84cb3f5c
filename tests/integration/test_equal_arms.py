"""One command trains, checks and compares arms of two steps each: towers with random weights, and adapters of one student."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from small_runs import STAGES, Small
from tiny_parts import SIDE, save_language, save_tower

from pipeline.run_dir import RunDir
from tests.conftest import RunModule

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


@pytest.fixture
def compare(tmp_path: Path, repo_root: Path, run_module: RunModule) -> RunModule:
    """``compare("adapters", …)`` runs a comparison of the arms in this test's folder, whose page is there too."""
    fixed = ["--seeds", "0", "--output-dir", tmp_path / "runs", "--into", tmp_path / "page.md"]

    def run(module: str, *words: object) -> subprocess.CompletedProcess[str]:
        own = {"PYTHONPATH": str(repo_root)}
        return run_module(f"benchmarks.{module}", tmp_path / "arms", *words, *fixed, env=own, timeout=1700)

    return run


def test_random_towers_are_compared_by_one_command(tmp_path: Path, compare: RunModule) -> None:
    language = save_language("llama", tmp_path / "llama")
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "_base.yaml").write_text(BASE.format(language=language, side=SIDE))
    for name in TOWERS:
        tower = save_tower(name, tmp_path / name)
        arm = f"base: _base.yaml\nname: {name}\nmodel: {{compose: {{vision: {tower}}}}}\n"
        (tmp_path / "arms" / f"{name}.yaml").write_text(arm)
    page = tmp_path / "page.md"
    page.write_text("<!-- table of encoders_shapes -->\n<!-- end of encoders_shapes -->\n")

    done = compare("encoders")
    assert done.returncode == 0, done.stderr[-3000:]
    # 4 × 4 patches, and the registers, which stay.
    costs = [
        line.split("|")[1:3] for line in page.read_text().splitlines() if line.startswith(("| clip", "| dino", "| sig"))
    ]
    assert [(name.strip(), int(tokens)) for name, tokens in costs] == list(zip(TOWERS, (16, 19, 16), strict=True))
    assert (tmp_path / "figures" / "encoders_shapes.png").exists()
    assert all(f"| {kind} |" in page.read_text() for kind in ("all", "Closer", "Colour", "Count", "Exists", "Relation"))

    refused = compare("encoders", "stages.stage0.trainer.max_steps=3", "--table-only")
    assert refused.returncode == 2
    assert "stage.trainer.max_steps: 2 -> 3" in refused.stderr


def test_adapters_of_a_trained_student_are_compared_by_one_command(
    small: Small, whole_run: tuple[RunDir, str], tmp_path: Path, compare: RunModule
) -> None:
    (tmp_path / "arms").mkdir()
    stage = "stage1_sft: {trainer: {max_steps: 2}, gate: {action: warn}}"
    others = ", ".join(f"{name}: null" for name in STAGES[2:])
    (tmp_path / "arms" / "_base.yaml").write_text(
        f"base: {small.config}\nmodel: {{name_or_path: {whole_run[0].final(STAGES[1])}}}\n"
        f"baselines: null\nstages: {{{stage}, {others}}}\n"
        "evaluation: {split: 'test[:4]', samples: 0, max_new_tokens: 4}\n"
    )
    for name, peft in (
        ("all_weights", "null"),
        ("lora", "{r: 2, target_modules: '.*text_model.*[qv]_proj'}"),
        ("prompt", "{peft_type: PROMPT_TUNING, num_virtual_tokens: 3}"),
    ):
        (tmp_path / "arms" / f"{name}.yaml").write_text(
            f"base: _base.yaml\nname: arm_{name}\nmodel: {{peft: {peft}}}\n"
        )
    page = tmp_path / "page.md"
    page.write_text("<!-- table of adapters_scenes -->\n<!-- end of adapters_scenes -->\n")
    done = compare("adapters")
    assert done.returncode == 0, done.stderr[-3000:]
    shares = {
        name.strip(): float(cell.split("(")[1].split(" ")[0])
        for _, name, cell, *_ in (line.split("|") for line in page.read_text().splitlines() if "%) |" in line)
    }
    assert shares["all_weights"] == 100
    assert 0 < shares["prompt"] < shares["lora"] < 10
