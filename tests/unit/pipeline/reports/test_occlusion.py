"""Occlusion maps as pictures, and where a report shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import __main__
from pipeline.errors import UserError
from pipeline.files import file_digest, json_lines, write_json
from pipeline.reports import write
from pipeline.reports.entries import read_folders, read_run
from pipeline.reports.looking import where_they_look
from pipeline.reports.occlusion import FALLS, cells, overlay, peak
from pipeline.reports.prediction_browser import browser
from pipeline.reports.summary import summarise
from tests.unit.pipeline.reports.test_write import LABELS, answers, write_phase

GREY_OF_RED = 76
"""What 255, 0, 0 is in grey: 0.299 of 255."""


def test_cells_cover_a_picture_without_a_gap_and_are_no_smaller_than_a_pixel() -> None:
    assert cells((64, 32))[1][2] == (16, 4, 24, 8)
    for width, height in ((100, 37), (3, 5), (1, 1)):
        grid = cells((width, height))
        assert (len(grid), len(grid[0])) == (min(8, height), min(8, width))
        covered = [(x, y) for line in grid for a, b, c, d in line for x in range(a, c) for y in range(b, d)]
        assert sorted(covered) == [(x, y) for x in range(width) for y in range(height)]


def test_a_peak_is_the_first_of_the_largest_falls_and_none_where_nothing_falls() -> None:
    assert peak([[0.0, 0.5], [0.5, -3.0]]) == (0, 1)
    assert peak([[0.0, 0.009], [-3.0, 0.0]]) is None


def test_colours_are_as_strong_as_falls_are_beside_the_largest_and_the_peak_is_framed() -> None:
    falls = [[0.0] * 8 for _ in range(8)]
    falls[0][1], falls[3][3], falls[7][7] = 2.0, 1.0, -2.0
    laid = overlay(Image.new("RGB", (64, 32), "red"), falls)
    assert laid.size == (320, 160)

    def middle(line: int, column: int) -> Any:
        return laid.getpixel((40 * column + 20, 20 * line + 10))

    assert middle(5, 5) == (GREY_OF_RED,) * 3
    strongest = tuple(round(GREY_OF_RED + (colour - GREY_OF_RED) * 190 / 255) for colour in FALLS)
    assert middle(0, 1) == pytest.approx(strongest, abs=1)
    assert middle(3, 3) == pytest.approx(tuple((GREY_OF_RED + one) / 2 for one in strongest), abs=1)
    red, _, blue = middle(7, 7)
    assert red < GREY_OF_RED < blue
    assert laid.getpixel((40, 0)) == (255, 255, 255)
    # What hardly falls does not look like much.
    faint = overlay(Image.new("RGB", (64, 64), "red"), [[0.01] + [0.0] * 7] + [[0.0] * 8] * 7)
    assert faint.getpixel((20, 20)) == pytest.approx(
        tuple(GREY_OF_RED + (one - GREY_OF_RED) / 10 for one in strongest), abs=2
    )


def write_maps(phase: Path, *ids: str, style: str = "think", left_out: dict[str, int] | None = None) -> None:
    """Maps of some of a phase's rows, as stages.explain writes them."""
    folder = phase / "occlusion"
    inputs = {"predictions": file_digest(phase / "predictions.jsonl")}
    write_json(
        folder / "occlusion.json", {"status": "complete", "inputs": inputs, "rows": 9, "left_out": left_out or {}}
    )
    lines = []
    for number, row_id in enumerate(ids):
        Image.new("RGB", (320, 320), (number, 90, 200)).save(folder / f"{style}-{number}.png")
        falls = [[0.25, -1.0], [1.5 + number, 0.0]]
        lines.append({"id": row_id, "style": style, "pictures": [{"overlay": f"{style}-{number}.png", "falls": falls}]})
    (folder / "maps.jsonl").write_text(json_lines(lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "demo"
    for name in ("base", "stage1_sft"):
        write_phase(root / name, answers(3, 1, 0), init_from=None if name == "base" else "base")
    (root / "data").mkdir()
    Image.new("RGB", (300, 200), "teal").save(root / "data" / "a.png")
    write_maps(root / "stage1_sft", "row1", "row3", left_out={"missing_image": 2})
    return root


def test_the_browser_has_each_map_beside_the_answer_it_is_of(run: Path) -> None:
    data = browser(read_run(run, ["base", "stage1_sft"], LABELS), run, run / "report")
    assert data is not None
    assert data["mapped"] == 2
    maps = {row["i"]: row["m"] for row in data["rows"] if "m" in row}
    assert {row_id: {entry: fall for entry, [[_, fall]] in of.items()} for row_id, of in maps.items()} == {
        "row1": {1: 1.5},
        "row3": {1: 2.5},
    }
    [[picture, _]] = maps["row1"][1]
    assert set(data["pictures"][picture]) == {"jpeg"}
    # The picture all rows share, and two maps.
    assert (data["inlined"], data["missing"]) == (3, 0)
    json.dumps(data)


def test_a_report_says_how_many_maps_there_are_what_they_are_and_what_has_none(run: Path) -> None:
    entries = read_run(run, ["base", "stage1_sft"], LABELS)
    (note,) = [one for one in summarise("Demo", entries, LABELS.names, None).warnings if "Occlusion" in one.text]
    assert (note.entry, note.level) == ("", "note")
    assert note.text.startswith("Occlusion maps of stage1_sft 2 rows: how far a grey patch")
    assert "what that probability hangs on, not why" in note.text
    assert note.text.endswith("Rows without a map: stage1_sft missing_image 2, all of base.")
    assert where_they_look(entries[:1]) is None


def test_a_report_of_folders_shows_them_too_and_none_of_answers_that_were_given_since(run: Path) -> None:
    (entry,) = read_folders([run / "stage1_sft"])
    assert entry.occlusion is not None
    assert set(entry.occlusion.rows) == {"row1", "row3"}
    write_phase(run / "stage1_sft", answers(4, 0, 0))
    (entry,) = read_folders([run / "stage1_sft"])
    assert entry.occlusion is None


def test_the_page_tells_how_to_read_a_map_only_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "report_charts", lambda summary, entries: {})
    for folder, told in ((run / "stage1_sft", True), (run / "base", False)):
        page = write.write_folder_report([folder]).read_text()
        assert ("2 answers have an occlusion map" in page) is told
        assert ('<option value="mapped">' in page) is told


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the children that a command starts, which do nothing and fail."""
    started: list[list[str]] = []

    def child(words: list[str], **_: Any) -> int:
        started.append(list(words[1:]))
        return 7

    monkeypatch.setattr(__main__, "run_child", child)
    return started


def test_explain_has_a_run_or_its_phases_mapped_first_and_ends_as_that_does(
    run: Path, children: list[list[str]]
) -> None:
    (run / "config.yaml").write_text("name: demo\n")
    common = ["--config", str(run / "config.yaml"), f"output_dir={run.parent}", "name=demo"]
    start = ["-m", "stages.explain", "--rows", "4"]
    assert __main__.main(["report", str(run), "--explain", "4"]) == 7
    assert __main__.main(["report", str(run / "base"), str(run / "stage1_sft"), "--explain", "4"]) == 7
    assert __main__.main(["report", str(run / "base"), str(run), "--explain", "4"]) == 7
    phases = ["--phase", "base", "--phase", "stage1_sft"]
    assert children == [[*start, *common], [*start, *phases, *common], [*start, *common]]
    assert not (run / "report").exists()


def test_explain_of_a_folder_whose_model_is_not_known_is_refused(run: Path, children: list[list[str]]) -> None:
    with pytest.raises(UserError) as told:
        __main__.main(["report", str(run), str(run / "base"), "--explain", "4"])
    assert len(told.value.problems) == 2
    assert all("is neither a run's folder nor a phase's in one" in problem for problem in told.value.problems)
    assert not children


@pytest.mark.parametrize("rows", ["0", "-1", "x"])
def test_explain_of_no_row_is_refused(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["report", f"--explain={rows}"])
    assert "is no whole number from 1" in capsys.readouterr().err
