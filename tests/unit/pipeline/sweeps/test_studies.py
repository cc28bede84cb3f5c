"""Size, precision and steps in a sweep: against which cell each is held, and that the groups it names are there."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluation import Cell, LabConfig, LabModel, LabTask, cell_folder, cells
from pipeline.config.schema import TaskConfig
from pipeline.sweeps.files import as_markdown, write_results
from pipeline.sweeps.page import _PANELS, downscaling, page
from pipeline.sweeps.results import Cells, Planned, results
from pipeline.sweeps.studies import groupings
from tests.unit.pipeline.tasks.test_benchmarks import load, math_row, mmmu_row, picture, star_row, table, vcr, vcr_row

SIZES = {"small": 500_000_000, "large": 7_000_000_000, "served": 72_000_000_000}


@pytest.fixture
def lab(tmp_path: Path) -> LabConfig:
    models = {name: LabModel(name_or_path=name) for name in ("small", "large")}
    models["served"] = LabModel("served", backend="openai", base_url="http://x/v1")
    task = LabTask(TaskConfig("vcr", str(tmp_path)), "val")
    return LabConfig("trial", str(tmp_path), models=models, tasks={"v": task}, precisions=["bfloat16", "4bit"])


def answer(config: LabConfig, cell: Cell, right: list[tuple[bool, bool]]) -> None:
    """Answer and rationale of situations."""
    folder = cell_folder(config, cell)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{number}/{key}", "label": "A", "gold": "A", "correct": value, "decoding": "greedy", "cluster": "",
         "groups": {"mode": mode}, "pair": str(number), "completion_tokens": 1, "truncated": False}
        for number, both in enumerate(right)
        for key, mode, value in zip(("qa", "qar"), ("Q→A", "QA→R"), both, strict=True)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation.json").write_text(
        json.dumps({"status": "complete", "chance": 0.25, "peak_memory_bytes": 10**9})
    )


def known(config: LabConfig, **sizes: int | None) -> Cells:
    """What cells of a sweep hold where each is answered: the larger the model, the more right; 4bit loses rationales."""
    share = {"small": (6, 3), "large": (8, 6), "served": (9, 8)}
    for cell in cells(config):
        answers, whys = share[cell.model]
        whys -= 2 * (cell.precision == "4bit")
        answer(config, cell, [(number % 10 < answers, number % 10 < whys) for number in range(40)])
    return Cells(config, {cell.id: Planned(parameters={**SIZES, **sizes}[cell.model]) for cell in cells(config)})


def test_a_gap_is_told_per_cell_and_held_against_the_largest_model_and_the_first_precision(lab: LabConfig) -> None:
    told = {(line.model, line.precision): line for line in results(known(lab)).steps}
    assert len(told) == 5
    small = told["small", "bfloat16"]
    assert (small.single.value, small.multi.value, small.gap.value) == (0.6, 0.3, pytest.approx(0.3))
    served = "served--v--auto--direct"
    # 60 - 30, less 90 - 80; the largest is the server's, which has one precision.
    assert (small.by_size.value, small.size_reference) == (pytest.approx(0.2), served)
    assert small.by_precision is None
    packed = told["small", "4bit"]
    # 60 - 10, less 60 - 30.
    assert packed.by_precision.value == pytest.approx(0.2)
    assert packed.precision_reference == "small--v--bfloat16--direct"
    assert (packed.by_size.value, packed.size_reference) == (pytest.approx(0.4), served)
    assert told["served", "auto"].by_size is None
    without = {(line.model, line.precision): line for line in results(known(lab, served=None)).steps}
    # The largest of known size, in the same precision: 60 - 10, less 80 - 40.
    assert without["small", "4bit"].size_reference == "large--v--4bit--direct"
    assert without["small", "4bit"].by_size.value == pytest.approx(0.1)
    assert without["served", "auto"].size_reference is None


def test_how_far_a_model_is_below_the_largest_is_a_paired_difference(lab: LabConfig) -> None:
    lines = {(line.model, line.precision): line for line in results(known(lab)).scaling}
    small = lines["small", "bfloat16"]
    # 9 and 8 of 10 against 6 and 3 of 10, over answers and rationales.
    assert (small.drop.value, small.n, small.parameters_m) == (pytest.approx(0.4), 80, 500)
    assert 0.25 < small.drop.low < 0.4 < small.drop.high < 0.55
    assert lines["served", "auto"].drop.value == 0
    # One model has nothing to be below.
    one = dataclasses.replace(lab, models={"small": lab.models["small"]})
    assert results(known(one)).scaling == ()


def test_the_table_and_the_files_have_them(lab: LabConfig, tmp_path: Path) -> None:
    told = results(known(lab))
    text = as_markdown(told)
    (line,) = [line for line in text.splitlines() if line.startswith("| small · 4bit") and "served · auto" in line]
    assert "| 500 | 60.0 [" in line
    assert "+50.0 [" in line
    assert "+20.0 [" in line
    assert "(small · bfloat16 · direct)" in line
    assert "Q→A against Q→AR" in text
    assert "Single step against several" in page(told)
    write_results(told, tmp_path)
    written = {(row["model"], row["precision"]): row for row in csv.DictReader((tmp_path / "steps.csv").open())}
    assert float(written["small", "4bit"]["gap"]) == pytest.approx(0.5)
    assert float(written["small", "4bit"]["by_precision_low"]) > 0
    assert len(list(csv.DictReader((tmp_path / "scaling.csv").open()))) == 5


def test_the_figure_has_a_mark_for_every_difference_against_the_size(lab: LabConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(lab, modes=["direct", "blind"])
    cells_ = known(config)
    told = results(cells_)
    # Per precision: drop and gap of every sighted cell, the worth of seeing of every blind one.
    drawn = downscaling(told, ["v"])
    assert drawn is not None
    drop, seen, gap = drawn.figure.axes
    assert [axes.get_ylabel() for axes in (drop, seen, gap)] == [what for what, _ in _PANELS]
    marks = [line for line in drop.get_lines() if (line.get_gid() or "").startswith("says ")]
    assert sorted(round(float(line.get_ydata()[0]), 6) for line in marks) == [0, 15, 25, 40, 50]
    # The same answers with and without pictures: nothing is seen.
    marks = [line for line in seen.get_lines() if (line.get_gid() or "").startswith("says ")]
    assert [float(line.get_ydata()[0]) for line in marks] == [0] * 5
    assert "small · bfloat16 · direct" in str(drawn.svg(tips=True))
    write_results(told, tmp_path)
    assert (tmp_path / "downscaling.png").read_bytes().startswith(b"\x89PNG")
    assert "Smaller models</h3>" in (tmp_path / "index.html").read_text()
    # Of one model, or of models whose sizes nobody knows, there is nothing to draw.
    nothing = results(Cells(config))
    assert downscaling(nothing, ["v"]) is None
    write_results(nothing, tmp_path)
    assert not (tmp_path / "downscaling.png").exists()


def rows_of_every_benchmark(root: Path) -> dict[str, Any]:
    """Each benchmark of steps.yaml, of rows with the values that it publishes."""
    difficulties = [mmmu_row(n, topic_difficulty=value) for n, value in enumerate(("Easy", "Medium", "Hard"))]
    table(root / "mmmu" / "validation.parquet", difficulties)
    table(
        root / "pro" / "standard (10 options)" / "test-0.parquet", [{**row, "subject": "Math"} for row in difficulties]
    )
    grades = ("elementary school", "high school", "college", "not applicable")
    vista = [math_row(grade, decoded_image=picture(), metadata={"grade": grade}) for grade in grades]
    table(root / "vista" / "testmini-0.parquet", vista)
    six = (
        "coarse perception",
        "fine-grained perception",
        "instance reasoning",
        "logical reasoning",
        "math",
        "science & technology",
    )
    table(root / "star" / "mmstar.parquet", [star_row(n, "x", category=name) for n, name in enumerate(six)])
    return {
        "vcr": vcr(root / "vcr", [vcr_row()]).read("val"),
        "mmmu": load("mmmu", root / "mmmu").read("validation"),
        "mmmu_pro": load("mmmu_pro", root / "pro").read("test"),
        "mathvista": load("mathvista", root / "vista").read("testmini"),
        "mmstar": load("mmstar", root / "star").read("val"),
    }


def test_every_group_that_the_file_names_is_one_that_the_reader_gives(tmp_path: Path) -> None:
    read = rows_of_every_benchmark(tmp_path)
    assert set(read) == set(groupings())
    for task, (grouping, says) in groupings().items():
        assert says
        for side in (grouping.single, grouping.multi):
            there = {row.groups.get(side.group) for row in read[task].rows}
            assert set(side.values) <= there, (task, side.group, there)
            assert not side.pairs or all(row.pair for row in read[task].rows)


def test_the_grades_of_the_published_rows_are_those_that_the_file_names(shared_data: Path) -> None:
    published = json.loads((shared_data / "mathvista" / "testmini.json").read_text())
    grades = {row["metadata"]["grade"] for row in published.values()}
    grouping, _ = groupings()["mathvista"]
    assert {*grouping.single.values, *grouping.multi.values} == grades - {"not applicable"}
