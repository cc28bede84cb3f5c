"""The grid of ablations changes what it says, and its table says what the runs did."""

from __future__ import annotations

import pytest

from benchmarks import ablation
from pipeline.config.loader import load
from pipeline.metrics.classification import score
from pipeline.reports.entries import Entry
from pipeline.runs.phases import parent_of
from pipeline.scoring.labels import LabelSet

GRID = load(ablation.CONFIG)


def test_every_arm_ends_at_a_stage_of_the_grid_and_every_stage_serves_an_arm() -> None:
    used = set()
    for name in ablation.ARMS.values():
        above: str | None = name
        while above:
            used.add(above)
            above = parent_of(GRID, above)
    assert used == {"base", "baseline_sft_labels", *GRID.stages}


@pytest.mark.parametrize("name", ["stage5_clip_symmetric", "stage6_clip_low_tight", "stage7_clip_both_tight"])
def test_the_clip_arms_differ_from_stage_four_in_the_range_alone(name: str) -> None:
    mine, reference = GRID.stage(name), GRID.stage("4")
    assert parent_of(GRID, name) == parent_of(GRID, "stage4_clgrpo")
    assert (mine.split, mine.reward_funcs, mine.freeze, mine.prompt) == (
        reference.split,
        reference.reward_funcs,
        reference.freeze,
        reference.prompt,
    )
    assert {k: v for k, v in mine.trainer.items() if "epsilon" not in k} == {
        k: v for k, v in reference.trainer.items() if "epsilon" not in k
    }


def test_a_stage_that_is_only_moved_keeps_its_training() -> None:
    pairs = {
        "stage8_accuracy_without_format": "3",
        "stage9_clgrpo_without_format": "4",
        "stage10_format_from_labels": "2",
        "stage11_accuracy_from_labels": "3",
        "stage12_clgrpo_from_labels": "4",
        "stage13_accuracy_direct": "3",
        "stage14_clgrpo_direct": "4",
    }
    for moved, original in pairs.items():
        assert GRID.stage(moved).trainer == GRID.stage(original).trainer, moved
        assert GRID.stage(moved).freeze == GRID.stage(original).freeze


def entry(name: str, right: int) -> Entry:
    rows = tuple(
        {
            "id": str(number),
            "decoding": "greedy",
            "sample": 0,
            "label": "awe" if number < right else "fear",
            "gold": "awe",
            "correct": number < right,
            "style": "direct",
            "completion": "",
        }
        for number in range(100)
    )
    return Entry(name, name, rows, score(rows, LabelSet(("awe", "fear"))))


def test_the_table_compares_every_arm_with_the_four_stages_on_the_same_rows() -> None:
    runs = [{name: entry(name, 60 if name == ablation.REFERENCE else 50) for name in ablation.ARMS.values()}] * 2
    lines = ablation.table([0, 1], runs).splitlines()
    reference, other = lines[2], lines[3]
    assert "60.0 [50.2, 69.1]" in reference
    assert "60.0 ± 0.0" in reference
    assert "-10.0 [-10.0, -10.0]" in other
    assert "-10.0 (.002)" in other
