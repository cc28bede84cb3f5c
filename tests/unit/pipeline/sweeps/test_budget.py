"""Which model to take within a memory, from cells' folders that are written here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.errors import UserError
from pipeline.sweeps.budget import advise, choose, parse_budget
from pipeline.sweeps.results import Cells, Planned, results
from tests.unit.pipeline.sweeps.test_results import answer

RIGHT = {"tiny": 40, "small": 88, "middle": 90, "large": 99}
"""Of 100 rows; each answers rightly what the one before does."""
GIGABYTES = {"tiny": 1, "small": 2, "middle": 6, "large": 20}


@pytest.fixture
def lab(tmp_path: Path) -> LabConfig:
    """Four complete models, one that is not, and a server."""
    models = {name: LabModel(name_or_path=name) for name in (*RIGHT, "later")}
    models["served"] = LabModel(name_or_path="m", backend="openai", base_url="http://h/v1")
    config = LabConfig("trial", str(tmp_path), models=models, tasks={"t": LabTask(split="val")})
    for cell in cells(config):
        if cell.model != "later":
            right = RIGHT.get(cell.model, 70)
            peak = {"peak_memory_bytes": GIGABYTES[cell.model] * 10**9} if cell.model in RIGHT else {}
            pace = {"latency_p50_s": 0.25, "rows_per_second": 100.0 / GIGABYTES.get(cell.model, 1)}
            answer(config, cell, [True] * right + [False] * (100 - right), **peak, **pace)
    return config


def found(lab: LabConfig, **waiting: int) -> Cells:
    return Cells(lab, {cell.id: Planned(waiting.get(cell.model)) for cell in cells(lab)})


def test_the_most_accurate_that_fits_is_taken_and_what_cannot_be_told_apart_is_said(lab: LabConfig) -> None:
    told = results(found(lab, later=3 * 10**9))
    choice = choose(told, "t", parse_budget("8GB"))
    assert choice.best is not None
    assert choice.best.model == "middle"
    # 90 against 88 of 100: two rows of one side, p = 0.5; 90 against 40: p below 0.001.
    assert [row.model for row in choice.alike] == ["small"]
    assert [row.model for row in choice.worse] == ["tiny"]
    assert choice.above is not None
    assert choice.above.model == "large"
    assert [row.model for row in choice.waiting] == ["later"]
    assert [row.model for row in choice.unknown] == ["served"]
    lines = advise(told, ["t"], 8 * 10**9).splitlines()
    assert lines[:2] == [
        "t, within 8.0 GB:",
        "  take middle · auto · direct: 90.0 [82.6, 94.5] % of 100 rows right, 6.0 GB measured, 0.25 s a row (median), "
        "16.67 rows/s",
    ]
    assert lines[2:4] == [
        "  cannot be told apart from small · auto · direct",
        "    of these small · auto · direct takes the least memory, 2.0 GB measured, and is the fastest, 50.00 rows/s",
    ]
    assert "  with more memory: large · auto · direct, 99.0" in lines[4]
    assert "+9.0 points (beyond chance), 20.0 GB measured" in lines[4]
    assert lines[5:7] == [
        "  should fit, and are not complete: later · auto · direct",
        "  memory not known: served · auto · direct (70.0 [60.4, 78.1] %)",
    ]
    assert [line.split()[:2] for line in lines[10:]] == [
        ["middle", "(best)"],
        ["small", "(alike)"],
        ["tiny", "(worse)"],
    ]


def test_a_small_budget_has_a_best_that_may_be_no_good_or_none(lab: LabConfig) -> None:
    told = results(found(lab))
    assert choose(told, "t", parse_budget("1.5 GB")).alike == ()
    assert "it is not above chance, 50.0 %" in advise(told, ["t"], 15 * 10**8)
    none = advise(told, ["t"], 10**8)
    assert none.splitlines()[:2] == ["t, within 100 MB:", "  no complete cell fits"]
    assert "with more memory: large" in none


def test_blind_cells_are_no_way_to_use_a_model(lab: LabConfig) -> None:
    both = dataclasses.replace(lab, modes=["direct", "blind"])
    for cell in cells(both):
        if cell.mode == "blind" and cell.model in RIGHT:
            answer(both, cell, [True] * 100, peak_memory_bytes=10**9)
    choice = choose(results(found(both)), "t", 8 * 10**9)
    assert choice.best is not None
    assert (choice.best.model, choice.best.mode) == ("middle", "direct")


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("8", 8 * 10**9), ("24 GiB", 24 * 2**30), ("0.7gb", 7 * 10**8), ("700MB", 7 * 10**8)]
)  # fmt: skip
def test_a_budget_is_read_in_the_usual_units(text: str, size: int) -> None:
    assert parse_budget(text) == size


@pytest.mark.parametrize("text", ["", "8TB", "-1GB", "0GB", "lots", "8GB please"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write 8GB, 24GiB or 700MB"):
        parse_budget(text)
