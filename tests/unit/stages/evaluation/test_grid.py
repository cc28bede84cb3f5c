"""The table and the maps of perceivers against reasoners."""

from __future__ import annotations

import csv
import json

import pytest
from lab_fakes import ROWS, Lab, Scripted

from pipeline.config.evaluation import cells
from pipeline.metrics.intervals import clustered_rate
from stages.evaluation.grid import GRID_MODES, write_grid


@pytest.fixture
def lab(tmp_path, monkeypatch):
    def eyes(ask):
        return "A park." if ask.images and "Describe" in ask.text else "awe"

    def brain(ask):
        return "Answer: awe"

    models = {
        "small": Scripted(eyes),
        "large": Scripted(eyes),
        "thinker": Scripted(brain),
        "poet": Scripted(lambda _: "La"),
    }
    return Lab(tmp_path, monkeypatch, models, reasoners=["thinker", "poet"], modes=list(GRID_MODES))


def test_every_pair_and_every_perceiver_alone_stand_in_the_table(lab):
    for number in range(len(cells(lab.config))):
        lab.run(number)
    files = {file.suffix: file for file in write_grid(lab.config)}
    table = json.loads(files[".json"].read_text())
    assert len(table) == 2 * (1 + 1 + 4 * 2)
    assert {row["accuracy"] for row in table if row["reasoner"] == "poet"} == {0}
    awe = next(row["accuracy"] for row in table if row["reasoner"] == "thinker")
    assert awe == next(row["accuracy"] for row in table if row["mode"] == "direct") == table[0]["correct"] / ROWS
    lines = files[".md"].read_text().splitlines()
    assert f"| perceiver | reasoner | {' | '.join(GRID_MODES)} |" in lines
    pair = next(line for line in lines if line.startswith("| large | thinker |"))
    # Direct and the two-step modes; "awe" alone is no thought.
    assert pair.count(f"{100 * awe:.1f} [") == 5
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader(files[".csv"].open()))) == len(table)


def test_rows_that_share_a_picture_widen_the_interval(lab):
    folder = lab.run()
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # Two pictures, of one of which all answers are right.
    rows = [row | {"correct": n % 2 == 0, "cluster": f"picture {n % 2}"} for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = json.loads(next(file for file in write_grid(lab.config) if file.suffix == ".json").read_text())
    found = clustered_rate([row["correct"] for row in rows], [row["cluster"] for row in rows])
    assert (line["accuracy"], line["low"], line["high"]) == (found.value, found.low, found.high)
    assert (found.low, found.high) == (0, 1)


def test_a_pair_that_is_not_answered_yet_is_left_blank(lab):
    wanted = [cell.id for cell in cells(lab.config)]
    lab.run(wanted.index("small--scenes--auto--caption-think--thinker"))
    files = {file.suffix: file for file in write_grid(lab.config)}
    assert "| small | thinker | – | – |" in files[".md"].read_text()
    assert len(json.loads(files[".json"].read_text())) == 1
    assert ".png" in files
