"""Curves are stages that differ in their split alone, and the table and figure say what made-up runs did."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import cells_of, entry

from benchmarks import data_efficiency
from benchmarks.data_efficiency import OfRows, find_curves, read_points
from pipeline.config.loader import load
from pipeline.errors import UserError

CONFIG = load("ablations/data_efficiency")


def test_the_shipped_grid_has_a_curve_of_answers_and_one_of_chains_of_thought() -> None:
    curves = find_curves(CONFIG)
    assert list(curves) == ["labels", "cot"]
    for stages in curves.values():
        assert [CONFIG.stage(name).split for name in stages] == ["train[:10%]", "train[:25%]", "train[:50%]", "train"]
    assert sum(map(len, curves.values())) == len(CONFIG.all_stages)
    demo = load("demo")
    assert (CONFIG.model, CONFIG.cot.teachers if CONFIG.cot else None) == (demo.model, demo.cot and demo.cot.teachers)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stages.stage2.trainer.max_steps=300", "stage2_labels: no other stage differs from it in split alone"),
        ("stages={stage1: {algorithm: sft, init_from: base, data: labels}}", "is on no curve"),
    ],
)
def test_an_arm_that_differs_in_more_than_its_split_is_refused(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find_curves(load("ablations/data_efficiency", [setting] if "={" not in setting else ["stages={}", setting]))


def test_points_are_compared_with_the_most_rows_of_their_curve(tmp_path: Path) -> None:
    for stage, rows in (("stage1_labels", 10), ("stage4_labels", 40)):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "data.tsv").write_text("row\n" * rows)
    curves = read_points(CONFIG, {"labels": ["stage4_labels", "stage1_labels"]}, [tmp_path])
    assert curves == {"labels": [OfRows("stage1_labels", "train[:10%]", 10), OfRows("stage4_labels", "train", 40)]}
    runs = [{"stage1_labels": entry([50, 50]), "stage4_labels": entry([50, 60])}]
    few, many = cells_of(data_efficiency.table(curves, [0], runs))
    assert (few["rows trained on"], few["accuracy, %"]) == ("10", "50.0 [43.1, 56.9]")
    assert few["per seed (p, Holm)"] == "-5.0 (.002)"
    assert many["against the most rows, points"] == ""
    chart = data_efficiency.figure(curves, runs)
    assert chart is not None
    assert chart.said == "accuracy, %"
    assert chart.figure.axes[0].get_xlabel() == "rows trained on"
