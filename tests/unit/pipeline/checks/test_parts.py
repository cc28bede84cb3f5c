"""A run that begins with a composed model: its rules, what makes it stale, and what its plan says of the projector."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.checks import run
from pipeline.checks.parts import unaligned
from pipeline.conductor.run import plan
from pipeline.conductor.schedule import requirements
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.phases import phase_inputs, stale_reasons

PARTS = "model.compose={vision: some/tower, language: some/model}"
ALIGN = (
    "stages.stage0_align={algorithm: sft, init_from: base, data: labels, prompt: direct, freeze: [vision, language]}"
)


def composed(tmp_path: Path, *words: str) -> RunConfig:
    return load("demo_scenes", [f"output_dir={tmp_path}", PARTS, *words])


def test_a_name_beside_parts_and_parts_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    config = composed(
        tmp_path, "model.name_or_path=some/vlm", "model.compose.vision=./nowhere", "model.compose.image_size=0"
    )
    with pytest.raises(UserError) as caught:
        run.check(config)
    assert [one for one in caught.value.problems if one.startswith("model.compose")] == [
        "model.compose: a composed model is made, so leave model.name_or_path ('some/vlm') out",
        "model.compose.image_size: 0 must be at least 1 pixel",
        "model.compose.vision: './nowhere' does not exist",
    ]
    with pytest.raises(UserError, match=r"model\.compose\.language is missing; set it"):
        run.check(load("demo_scenes", [f"output_dir={tmp_path}", "model.compose={vision: some/tower}"]))


def test_other_parts_make_the_base_stale_and_none_leave_old_records_as_they_are(tmp_path: Path) -> None:
    config, directory = composed(tmp_path), RunDir(str(tmp_path), "demo_scenes")
    write_json(directory.record_path(BASE), {"status": "complete", "inputs": phase_inputs(config, BASE)})
    assert stale_reasons(config, directory, BASE) == []
    other = composed(tmp_path, "model.compose.layer=-1")
    assert stale_reasons(other, directory, BASE) == ["model.compose.layer: None -> -1"]
    plain = load("demo_scenes", [f"output_dir={tmp_path}"])
    inputs = phase_inputs(plain, BASE)
    # As recorded before there were composed models.
    del inputs["model"]["compose"]
    write_json(directory.record_path(BASE), {"status": "complete", "inputs": inputs})
    assert stale_reasons(plain, directory, BASE) == []


def test_a_composed_base_waits_for_no_rows(tmp_path: Path) -> None:
    assert requirements(composed(tmp_path), [COT, BASE])[BASE] == set()
    assert requirements(load("demo_scenes"), [COT, BASE])[BASE] == {COT}


def test_the_plan_names_stages_that_would_train_from_a_random_projector(tmp_path: Path) -> None:
    config = composed(tmp_path)
    assert unaligned(config) == ["baseline_sft_labels", "stage1_sft"]
    told = plan(config, RunDir(str(tmp_path), "demo_scenes"))
    assert "some/tower with some/model" in told
    assert "its projector is random, and baseline_sft_labels, stage1_sft would train more than that from it" in told
    assert unaligned(load("encoders/dinov2_small")) == unaligned(load("demo_scenes")) == []
    # As `python -m stages.compose` writes it, and as a stage hands it over.
    for card, early in (("composed_of: {seed: 0}", ["baseline_sft_labels", "stage1_sft"]), ("tags: [clgrpo]", [])):
        (tmp_path / "README.md").write_text(f"---\n{card}\n---\n\n# a model\n")
        assert unaligned(load("demo_scenes", [f"model.name_or_path={tmp_path}"])) == early
