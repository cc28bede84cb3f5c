"""Peaks of maps are counted by the part of the picture they lie in, beside what a random cell would earn."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from benchmarks import occlusion_peaks
from benchmarks.occlusion_peaks import KNOWN, cell_parts, draw_walk, lines_of, main
from pipeline.errors import UserError
from pipeline.tasks.scenes import sample

OPTIONS = {"seed": 0, "size": 64}
NUMBER = 6001
ROW = {"id": f"{sample(random.Random(f'0-{NUMBER}'), 0.17)['emotion']}_{NUMBER:05d}"}
SCENES, TRAILS = KNOWN["scenes"], KNOWN["trails"]


def mapped(peak: tuple[int, int] | None, correct: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"style": "direct", "correct": correct, "pictures": [{"peak": peak}]}, ROW


def test_cells_are_of_the_part_that_most_of_their_pixels_show() -> None:
    parts = cell_parts(SCENES, ROW, OPTIONS)
    # The face is 32 pixels wide around a point that is never nearer to an edge than 24: these cells are always in it.
    assert {parts[line][column] for line in (2, 3, 4) for column in (3, 4)} == {"face"}
    assert parts[0][0] == parts[0][7] == "place"
    assert parts[6][4] == "body"
    assert any("object" in (line[0], line[1], line[6], line[7]) for line in parts[5:])


def test_the_walk_of_a_board_is_the_fields_from_the_ring_to_the_face() -> None:
    board = [["up"] * 5 for _ in range(5)]
    # From the middle one field to the right, then up to the face in the corner of the upper right quarter.
    board[2][2], board[2][3], board[1][3] = "right", "up", "fear"
    drawn = draw_walk({"attributes": {"board": board}}, {})
    assert drawn.size == (80, 80)
    on = {(x, y) for x in range(80) for y in range(80) if drawn.getpixel((x, y)) == 0}
    assert on == {(x, y) for x in range(32, 64) for y in range(32, 48)} | {
        (x, y) for x in range(48, 64) for y in range(16, 32)
    }
    parts = cell_parts(TRAILS, {"attributes": {"board": board}}, {})
    assert [(line, column) for line in range(8) for column in range(8) if parts[line][column] == "walk"] == [
        *((2, column) for column in (5,)),
        *((3, column) for column in (3, 4, 5)),
        *((4, column) for column in (3, 4, 5)),
    ]


def test_peaks_are_counted_by_part_with_chance_and_those_of_wrong_answers_apart() -> None:
    every = [part for line in cell_parts(SCENES, ROW, OPTIONS) for part in line]
    found = [mapped((3, 3)), mapped((3, 4)), mapped((0, 0)), mapped(None), mapped((6, 4), correct=False)]
    right, wrong = lines_of("stage", SCENES, found, OPTIONS)
    face, place = (f"{100 * every.count(part) / 64:.1f}" for part in ("face", "place"))
    assert right[:6] == ["stage", "direct", "right", "4", f"50.0 [15.0, 85.0], {face}", f"25.0 [4.6, 69.9], {place}"]
    assert (right[6][:3], right[7]) == ("0.0", "1")
    assert wrong[2:4] == ["wrong", "1"]
    assert wrong[6].startswith("100.0 [20.7, 100.0], ")


def test_a_run_of_another_task_and_a_page_without_its_marks_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occlusion_peaks.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    (tmp_path / "run").mkdir()
    (page := tmp_path / "page.md").write_text("no marks")
    for name, why in (
        ("shapes", "which part decides is not known of the task 'shapes'"),
        ("scenes", "has no place for the table"),
    ):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"name": "run", "task": {"name": name}}))
        with pytest.raises(UserError, match=why):
            main([str(tmp_path / "run"), "--into", str(page)])


def test_the_figure_has_a_line_of_maps_for_each_phase(tmp_path: Path) -> None:
    files = []
    for number, colour in enumerate(("red", "lime", "blue")):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (320, 160), colour).save(files[-1])
    sheet = Image.open(io.BytesIO(occlusion_peaks.Sheet({"stage1": files[:2], "stage3": files[2:]}).png()))
    assert sheet.size == (6 + 2 * 206, 6 + 2 * 206)
    # A wide picture keeps its shape, at the top of its place.
    assert [sheet.getpixel(at) for at in ((100, 50), (300, 50), (100, 260), (300, 260), (100, 150))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]
