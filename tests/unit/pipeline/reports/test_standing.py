"""Phases that no longer hold, and rows that could not be used: reports say so, comparisons leave such phases out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import __main__
from pipeline.reports import compare, markdown
from pipeline.reports import write as report
from pipeline.reports.entries import read_run
from pipeline.reports.standing import doubts
from pipeline.reports.summary import summarise
from tests.unit.pipeline.reports.test_write import LABELS, answers, write_phase

STAGES = ["base", "stage1_sft", "stage2_grpo"]


def make(root: Path, **of_stage: dict[str, Any]) -> Path:
    """A run of three phases, each made from the one before."""
    weights = dict(zip(STAGES, "abc", strict=True))
    for place, name in enumerate(STAGES):
        parent = STAGES[place - 1] if place else None
        lineage = {"init_from": parent, "parent_weights": weights[parent]} if parent else {}
        write_phase(root / name, answers(10 + place, 5, 0))
        change(root / name / "stage.json", **{"weights": weights[name], **lineage, **of_stage.get(name, {})})
        evaluation = {"status": "complete", "inputs": {"weights": weights[name]}, "problems": {}}
        (root / name / "evaluation.json").write_text(json.dumps(evaluation))
    (root / "config.yaml").write_text(yaml.safe_dump({"name": root.name, "seed": 0, "task": {"name": "scenes"}}))
    return root


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_whole_run_is_not_doubted(tmp_path: Path) -> None:
    assert doubts(make(tmp_path / "a"), STAGES) == {}


@pytest.mark.parametrize(
    ("phase", "file", "values", "said"),
    [
        (
            "base",
            "stage.json",
            {"weights": "x"},
            {"base": "answers", "stage1_sft": "other weights", "stage2_grpo": "no longer"},
        ),
        ("base", "stage.json", {"weights": None}, {"stage1_sft": "was deleted or", "stage2_grpo": "no longer holds"}),
        (
            "stage2_grpo",
            "evaluation.json",
            {"inputs": {"weights": "x"}},
            {"stage2_grpo": "answers are of other weights"},
        ),
        ("stage1_sft", "stage.json", {"data_digest": "d"}, {"stage1_sft": "other rows", "stage2_grpo": "no longer"}),
    ],
)
def test_what_a_phase_was_made_from_is_checked(
    tmp_path: Path, phase: str, file: str, values: dict[str, Any], said: dict[str, str]
) -> None:
    root = make(tmp_path / "a")
    change(root / phase / file, **values)
    found = doubts(root, STAGES)
    assert list(found) == list(said)
    assert all(words in " ".join(found[name]) for name, words in said.items())


def test_a_stage_that_was_handed_on_from_its_best_holds(tmp_path: Path) -> None:
    root = make(tmp_path / "a", stage1_sft={"best": {"weights": "best"}})
    change(root / "stage2_grpo" / "stage.json", parent_weights="best")
    assert doubts(root, STAGES) == {}


def test_a_report_says_which_phases_no_longer_hold(tmp_path: Path) -> None:
    root = make(tmp_path / "a")
    (root / "base" / "stage.json").unlink()
    changed = {"stage2_grpo": ["stage.trainer.beta: 0 -> 1"]}
    page = report.write_run_report(root, STAGES, LABELS, doubted=changed).read_text()
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert {row["status"] for row in summary["entries"]} == {"no longer holds"}
    for sign in ("stage.json) is gone", "its parent base was deleted", "stage.trainer.beta: 0 -&gt; 1"):
        assert sign in page
    table = markdown.summary_table(root, STAGES, changed)
    assert "stage2_grpo †" in table
    assert "† stage2_grpo no longer holds: stage.trainer.beta: 0 -> 1; its parent stage1_sft no longer holds" in table


def test_a_comparison_leaves_out_what_no_longer_holds_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [make(tmp_path / name) for name in "ab"]
    for root in roots:
        report.write_run_report(root, STAGES, LABELS)
    (roots[1] / "stage1_sft" / "predictions.jsonl").unlink()
    change(roots[1] / "stage1_sft" / "stage.json", weights=None, status="running")
    text = compare.compare(roots)
    assert "- **b, stage1_sft**: its answers, of which the report still tells, are gone" in text
    assert "- **b, stage2_grpo**: its parent stage1_sft was deleted or is being trained anew" in text
    accuracy = [line for line in text.splitlines() if line.startswith(("| stage1", "| stage2"))][:2]
    assert [line.split(" | ")[2].strip(" |") for line in accuracy] == ["left out", "left out"]
    assert __main__.main(["compare", *map(str, roots), "--out", str(tmp_path / "page")]) == 0
    capsys.readouterr()
    assert "left out: its answers" in (tmp_path / "page" / "index.html").read_text()


def test_rows_that_could_not_be_used_are_counted_where_people_look(tmp_path: Path) -> None:
    root = make(tmp_path / "a", stage1_sft={"rows": 30, "problems": {"unknown_label": 10}})
    for name in STAGES:
        change(root / name / "evaluation.json", problems={"not_an_image": 19, "unknown_label": 0})
    page = report.write_run_report(root, STAGES, LABELS).read_text()
    summary = json.loads((root / "report" / "summary.json").read_text())
    texts = {item["entry"]: item["text"] for item in summary["warnings"] if "could not be used" in item["text"]}
    assert texts["base"].startswith("19 of 34 rows of the split it was evaluated on could not be used")
    assert texts["stage1_sft"].startswith("10 of 40 rows of the split it was trained on")
    assert "not_an_image 19" in page
    assert "unusable" in (root / "report" / "tables" / "results.csv").read_text().splitlines()[0]
    table = summarise("", read_run(root, STAGES, LABELS), LABELS.names, None)
    assert table.entries[0].unusable == {"not_an_image": 19}


def test_an_interval_is_said_to_lie_where_it_lies(tmp_path: Path) -> None:
    """Of 40 rows a half is of either class."""
    said = {2: "whole accuracy interval lies below", 18: "accuracy is below", 22: "interval reaches down to", 38: None}
    for right, words in said.items():
        root = tmp_path / str(right)
        write_phase(root / "stage1_sft", answers(right, 40 - right, 0))
        summary = summarise("", read_run(root, ["stage1_sft"], LABELS), LABELS.names, None)
        told = [item.text for item in summary.warnings if "always answering" in item.text]
        assert (words in told[0]) if words else not told
