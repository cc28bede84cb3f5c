"""A sweep's tables, tests and page, from cells' folders that are written here."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipeline.config.evaluation import Cell, LabConfig, LabModel, LabTask, cell_folder, cells
from pipeline.sweeps import page as page_module
from pipeline.sweeps import results as results_module
from pipeline.sweeps.files import as_csv, as_markdown, write_results
from pipeline.sweeps.page import page
from pipeline.sweeps.results import Cells, Planned, pareto, results
from pipeline.sweeps.rows import COLUMNS, GROUP_COLUMNS, CellRow
from pipeline.sweeps.table import best_first, differences


@pytest.fixture
def lab(tmp_path: Path) -> LabConfig:
    models = {name: LabModel(name_or_path=name) for name in ("good", "same", "bad")}
    return LabConfig("trial", str(tmp_path), models=models, tasks={"t": LabTask(split="val")})


def answer(config: LabConfig, cell: Cell, right: list[bool], cluster: Any = lambda i: "", **more: Any) -> None:
    folder = cell_folder(config, cell)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"r{i}", "label": "A" if value else None, "gold": "A", "correct": value, "decoding": "greedy",
         "groups": {"kind": "even" if i % 2 == 0 else "odd"}, "completion_tokens": 2, "truncated": False, "cluster": cluster(i)}
        for i, value in enumerate(right)
    ]  # fmt: skip
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"status": "complete", "accuracy": sum(right) / len(right), "chance": 0.5, "official": {"micro": 12.345}}
    (folder / "evaluation.json").write_text(json.dumps(record | more))


def three(config: LabConfig) -> dict[str, Cell]:
    found = {cell.model: cell for cell in cells(config)}
    answer(config, found["good"], [True] * 90 + [False] * 10, peak_memory_bytes=2_000_000_000)
    answer(config, found["same"], [True] * 89 + [False] * 11, peak_memory_bytes=1_000_000_000)
    answer(config, found["bad"], [False] * 60 + [True] * 40, peak_memory_bytes=3_000_000_000)
    return found


def test_every_row_stays_in_n_and_what_cannot_be_read_is_counted(lab: LabConfig) -> None:
    found = three(lab)
    row = Cells(lab, {found["good"].id: Planned(2_200_000_000)}).row(found["good"])
    assert (row.n, row.correct, row.accuracy, row.unparsable) == (100, 90, 0.9, 10)
    assert 0.82 < row.accuracy_low < 0.9 < row.accuracy_high < 0.95
    assert (row.official_score, row.official_value) == ("micro", 12.345)
    assert (row.memory_estimated_mb, row.memory_measured_mb, row.memory_error) == (2200.0, 2000.0, 0.1)


def test_a_price_tells_what_a_thousand_rows_cost(lab: LabConfig) -> None:
    found = three(lab)
    assert "cost" not in as_markdown(results(Cells(lab)))
    lab.models["good"] = LabModel(name_or_path="good", price={"prompt": 2.5, "completion": 10})
    answer(lab, found["good"], [True] * 50, tokens={"prompt": 40_000, "completion": 100})
    row = Cells(lab).row(found["good"])
    assert (row.tokens, row.prompt_tokens, row.tokens_per_row) == (100, 40_000, 2.0)
    assert (row.cost, row.cost_of_1000) == (0.101, pytest.approx(2.02))
    line = next(line for line in as_markdown(results(Cells(lab))).splitlines() if line.startswith("| good"))
    assert "| 2.00 (read 800) | 2.02 |" in line


def test_an_interval_knows_which_rows_share_a_picture(lab: LabConfig) -> None:
    found = three(lab)
    alone = Cells(lab).row(found["bad"])
    answer(lab, found["bad"], [False] * 60 + [True] * 40, cluster=lambda i: f"picture {i // 10}")
    together = Cells(lab).row(found["bad"])
    assert together.accuracy == alone.accuracy
    assert together.accuracy_low < alone.accuracy_low - 0.1
    assert together.accuracy_high > alone.accuracy_high + 0.1


def test_pairs_are_tested_on_the_same_rows_and_corrected_over_the_task(lab: LabConfig) -> None:
    found = three(lab)
    told = results(Cells(lab))
    tested = told.pairs["t"]
    assert len(tested.pairs) == 3
    by_pair = {(pair.a.split("--")[0], pair.b.split("--")[0]): pair for pair in tested.pairs}
    assert by_pair["good", "same"].p_holm == 1.0
    good_bad = by_pair["good", "bad"]
    assert (good_bad.result.only_a, good_bad.result.only_b, good_bad.result.difference) == (60, 10, 0.5)
    assert good_bad.result.p < good_bad.p_holm < 0.001
    assert tested.detectable.alpha == pytest.approx(0.05 / 3)
    assert 0 < tested.detectable.difference < 0.5
    assert [(line.value, line.n) for line in told.groups[:2]] == [("even", 50), ("odd", 50)]
    assert told.pareto["t"] == (found["same"].id, found["good"].id)


def test_what_seeing_is_worth_is_told_on_all_rows_and_per_group(lab: LabConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(lab, modes=["direct", "blind"], models={"m": LabModel(name_or_path="m")})
    direct, blind = cells(config)
    # Of 20 rows 16 are right with the picture, 4 of them and 1 more without it. Even rows: 10, 10 right, 4 blind.
    answer(config, direct, [i % 2 == 0 or i < 12 for i in range(20)], peak_memory_bytes=10**9)
    answer(config, blind, [i in (0, 2, 4, 6, 13) for i in range(20)], peak_memory_bytes=10**9)
    told = results(Cells(config))
    whole, even, odd = told.seeing
    assert (whole.n, whole.direct, whole.blind, whole.difference, whole.unparsable) == (20, 0.8, 0.25, 0.55, 15)
    # 12 rows only with, 1 only without: 2 · (1 + 13) / 2 ** 13.
    assert whole.p == whole.p_holm == round(28 / 2**13, 6)
    assert 0.2 < whole.difference_low < 0.55 < whole.difference_high < 0.85
    assert (even.group, even.value, even.n, even.direct, even.blind, even.unparsable) == ("kind", "even", 10, 1, 0.4, 6)
    # Six rows of one kind: 2 / 2 ** 6, the larger of two, so once; the other: 6 against 1, 2 · 8 / 2 ** 7, twice.
    assert (even.difference, even.p, even.p_holm) == (0.6, 0.03125, 0.0625)
    assert (odd.difference, odd.p, odd.p_holm) == (0.5, 0.125, 0.125)
    # Nobody chooses a model that sees nothing.
    assert told.pairs["t"].cells == told.pareto["t"] == (direct.id,)
    text = as_markdown(told)
    assert re.search(
        r"## t: What seeing is worth\n.*m · auto \| 20 \| 80.0 \| 25.0 \| 50.0 \| 15 \| \+55.0\* \[", text, re.S
    )
    assert "t: What seeing is worth, by kind" in text
    assert "direct − blind, points" in page(told)
    write_results(told, tmp_path)
    assert [line["value"] for line in csv.DictReader((tmp_path / "seeing.csv").open())] == ["", "even", "odd"]
    (cell_folder(config, direct) / "evaluation.json").unlink()
    assert results(Cells(config)).seeing == ()


def test_every_official_score_is_shown(lab: LabConfig, tmp_path: Path) -> None:
    found = three(lab)
    answer(lab, found["good"], [True] * 4, official={"Q→A": 60.0, "QA→R": 50.0, "Q→AR": 30.5})
    told = results(Cells(lab))
    lines = [line for line in as_markdown(told).splitlines() if "Q→AR" in line or "30.5" in line]
    assert lines[-2:] == ["| cell | Q→A | QA→R | Q→AR | micro |", "| good · auto · direct | 60.0 | 50.0 | 30.5 | – |"]
    assert "Q→AR" in page(told)
    write_results(told, tmp_path)
    scores = [
        (line["model"], line["score"], line["official"]) for line in csv.DictReader((tmp_path / "official.csv").open())
    ]
    assert scores[2:4] == [("good", "Q→AR", "30.5"), ("same", "micro", "12.345")]


def test_results_are_the_same_json_as_ever(lab: LabConfig, tmp_path: Path) -> None:
    found = three(lab)
    (cell_folder(lab, found["bad"]) / "evaluation.json").unlink()
    write_results(results(Cells(lab)), tmp_path)
    file = json.loads((tmp_path / "results.json").read_text())
    assert list(file) == [
        "name",
        "cells",
        "counts",
        "groups",
        "official",
        "rotations",
        "seeing",
        "steps",
        "scaling",
        "pareto",
        "pairs",
    ]
    assert [list(row) for row in file["cells"]] == [list(COLUMNS)] * 3
    assert [list(row) for row in file["groups"]] == [list(GROUP_COLUMNS)] * 4
    assert list(file["pairs"]["t"]) == ["cells", "n", "pairs", "detectable"]
    (pair,) = file["pairs"]["t"]["pairs"]
    test = "a b n clusters only_a only_b difference low high p detectable p_holm"
    assert list(pair) == test.split()
    assert list(file["pairs"]["t"]["detectable"]) == ["difference", "n", "discordant", "alpha", "power"]
    assert file["cells"][2]["status"] == "pending"
    assert file["cells"][2]["accuracy"] is None


def test_who_differs_from_whom_is_one_table_of_the_page_and_the_markdown(lab: LabConfig) -> None:
    three(lab)
    told = results(Cells(lab))
    rows = sorted(told.cells, key=best_first)
    table = differences(rows, told.pairs["t"])
    assert table is not None
    good, same, bad = rows
    assert [row["cell"] for row in table.rows] == [row.title for row in (good, same, bad)]
    gain, turned = table.rows[0][bad.cell], table.rows[2][good.cell]
    assert (gain.value, gain.only_a, gain.only_b) == (0.5, 60, 10)
    assert (turned.value, turned.low, turned.high) == (-0.5, -gain.high, -gain.low)
    assert (turned.only_a, turned.only_b, turned.p_holm) == (10, 60, gain.p_holm)
    assert table.rows[0][good.cell] is None
    assert re.search(r"\| 1 \| good · auto · direct \| – \| \+1\.0 \| \+50\.0\* \|", as_markdown(told))
    html = page(told)
    assert 'class="better" title="100 rows; right only here 60, only there 10; [+' in html
    assert html.count('class="worse" title="100 rows; right only here 10, only there 60; [−') == 1
    # One cell differs from none.
    assert differences(rows[:1], told.pairs["t"]) is None


def test_what_has_not_changed_is_neither_tested_nor_drawn_again(
    lab: LabConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.tasks["u"] = LabTask(split="test")
    for place, cell in enumerate(cells(lab)):
        answer(lab, cell, [True] * (50 + place) + [False] * 50, peak_memory_bytes=10**9)
    tested, drawn = Mock(wraps=results_module.paired), Mock(wraps=page_module.against)
    monkeypatch.setattr(results_module, "paired", tested)
    monkeypatch.setattr(page_module, "against", drawn)
    known = Cells(lab)
    write_results(results(known), tmp_path)
    assert (tested.call_count, drawn.call_count) == (6, 2)
    answer(lab, cells(lab)[0], [False] * 60, peak_memory_bytes=10**9)
    write_results(results(known), tmp_path)
    assert (tested.call_count, drawn.call_count) == (6 + 2, 2 + 1)
    again = results(Cells(lab))
    assert results(known) == again
    assert page(again) == (tmp_path / "index.html").read_text()


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    def row(cell: str, memory: float, accuracy: float) -> CellRow:
        known = {"cell": cell, "status": "complete", "accuracy": accuracy, "memory_measured_mb": memory}
        return CellRow(**{**dict.fromkeys(COLUMNS), **known, "memory_estimated_mb": 1.0})

    rows = [row("small", 1, 0.5), row("equal", 1, 0.5), row("worse", 2, 0.4), row("large", 3, 0.9), row("dear", 3, 0.8)]
    assert pareto(rows) == ("equal", "small", "large")


def test_a_cell_that_cannot_fit_and_one_whose_inputs_changed_are_not_complete(lab: LabConfig) -> None:
    found = three(lab)
    (cell_folder(lab, found["good"]) / "failure.json").write_text(json.dumps({"reason": "rows changed"}))
    (cell_folder(lab, found["bad"]) / "evaluation.json").unlink()
    known = Cells(lab, {found["bad"].id: Planned(10**12, "needs too much")})
    assert [known.row(found[name]).status for name in ("good", "same", "bad")] == ["failed", "complete", "refused"]
    told = results(known)
    assert told.counts == {"failed": 1, "complete": 1, "refused": 1}
    assert "refused: needs too much" in as_markdown(told)


def test_a_cell_that_is_not_above_chance_says_so_and_how_far_its_estimate_was_off(lab: LabConfig) -> None:
    found = three(lab)
    told = results(Cells(lab, {found["bad"].id: Planned(3_300_000_000)}))
    for text in (as_markdown(told), " ".join(re.sub("<[^>]*>", " ", page(told)).split())):
        assert re.search(r"bad .*40\.0 \[3\d\.\d, (49|50)\.\d\] \(not above chance\).* 3\s300 \(\+10 %\)", text)
        assert "90.0 [82.6, 94.5] (not" not in text


def test_a_spreadsheet_takes_no_cell_for_a_formula() -> None:
    row = CellRow(**{**dict.fromkeys(COLUMNS), "model": "=1+1", "reason": 'a "quoted",\nbroken line'})
    read = list(csv.DictReader(io.StringIO(as_csv([row], COLUMNS))))
    assert (read[0]["model"], read[0]["reason"]) == ("'=1+1", 'a "quoted", broken line')


def test_the_page_runs_no_script_but_its_own_and_shows_hostile_text_as_text(lab: LabConfig, tmp_path: Path) -> None:
    found = three(lab)
    hostile = '<img src=x onerror="alert(1)">'
    failure = {"reason": hostile + "\u202e"}
    (cell_folder(lab, found["bad"]) / "failure.json").write_text(json.dumps(failure))
    text = page(results(Cells(lab)))
    assert hostile not in text
    assert "\u202e" not in text
    assert "&lt;img src=x" in text
    assert len(re.findall("<script", text)) == 1
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "Pareto" not in text or text.count('class="front"') == 1
    write_results(results(Cells(lab)), tmp_path / "again")
    assert (tmp_path / "again" / "index.html").read_text() == text


def test_a_page_of_nothing_and_of_one_cell_is_written(lab: LabConfig) -> None:
    assert "No cell of this task is complete yet" in page(results(Cells(lab)))
    answer(lab, cells(lab)[0], [True, False], peak_memory_bytes=10**9)
    assert 'class="mark"' in page(results(Cells(lab)))


def test_a_page_of_cells_whose_memory_nobody_knows_does_not_call_them_incomplete(lab: LabConfig) -> None:
    # As of models behind a server.
    for cell in cells(lab):
        answer(lab, cell, [True, False])
    text = page(results(Cells(lab)))
    assert "Of no complete cell is it known how much memory" in text
    assert "No cell of this task is complete yet" not in text


def test_rows_whose_answer_is_not_published_are_in_no_figure(lab: LabConfig) -> None:
    for cell in cells(lab):
        answer(lab, cell, [True] * 3 + [False] * 5)
        path = cell_folder(lab, cell) / "predictions.jsonl"
        told = [json.loads(line) for line in path.read_text().splitlines()]
        told = [row | ({"gold": None} if n >= 4 else {}) for n, row in enumerate(told)]
        path.write_text("".join(json.dumps(row) + "\n" for row in told))
    found = results(Cells(lab))
    assert {(row.n, row.correct, row.accuracy, row.unparsable) for row in found.cells} == {(4, 3, 0.75, 1)}
    assert {(one.value, one.n) for one in found.groups} == {("even", 2), ("odd", 2)}
    assert {pair.result.n for pair in found.pairs["t"].pairs} == {4}
