"""The table and the figure of arms by kind of question say what made-up runs did."""

from __future__ import annotations

import dataclasses

from made_up import cells_of, entry

from benchmarks import kinds


def test_every_kind_of_question_is_compared_on_its_own_rows() -> None:
    rows = cells_of(kinds.table("arm", {"a": [entry([50, 50])], "b": [entry([50, 60])]}, [0]))
    assert [row["questions"] for row in rows] == ["all", "", "Closer", "", "Count", ""]
    assert [row["rows"] for row in rows[::2]] == ["200", "100", "100"]
    assert {row["commonest answer, %"] for row in rows[2::2]} == {"50.0"}
    assert rows[2]["accuracy, %"] == "50.0 [40.4, 59.6]"
    assert (rows[0]["against a, points"], rows[2]["per seed (p, Holm)"]) == ("", "")
    told = {row["accuracy, %"]: row["per seed (p, Holm)"] for row in rows[1::2]}
    # Ten rows that only b has right: p = 2 / 2**10, times the two tests that are left of three.
    assert rows[3]["against a, points"] == "+10.0"
    assert told["60.0 [50.2, 69.1]"] == "+10.0 (.006)"
    assert told["50.0 [40.4, 59.6]"] == "+0.0 (1.000)"


def test_over_seeds_intervals_cover_the_luck_of_training() -> None:
    runs = {"a": [entry([50, 50]), entry([50, 50])], "b": [entry([50, 60]), entry([50, 70])]}
    closer = cells_of(kinds.table("arm", runs, [0, 1]))[3]
    assert closer["accuracy, %"] == "65.0 [1.5, 100.0]"
    # 12.706 * 7.0711 / sqrt(2) = 63.5.
    assert closer["against a, points"] == "+15.0 [-48.5, +78.5]"


def test_labels_are_the_kinds_of_an_image_set_and_have_no_commonest_answer() -> None:
    rows = tuple({**row, "groups": {"label": row["gold"]}} for row in entry([50, 50]).predictions)
    labelled = dataclasses.replace(entry([50, 50]), predictions=rows)
    assert list(kinds.by_kind(labelled)) == ["all", "A", "B"]
    assert [
        row["commonest answer, %"]
        for row in cells_of(kinds.table("arm", {"a": [labelled], "b": [labelled]}, [0]))[2::2]
    ] == [*("–", "–")]


def test_the_figure_shows_every_kind_of_every_arm() -> None:
    chart = kinds.figure({"a": [entry([50, 50])], "b": [entry([50, 60])]}, [0])
    assert chart is not None
    assert chart.said.endswith("all: a, all: b, Closer: a, Closer: b, Count: a, Count: b")


def test_kinds_apart_have_lines_of_their_own_and_are_not_among_all() -> None:
    runs = {"a": [entry([50, 50])], "b": [entry([50, 60])]}
    rows = cells_of(kinds.table("arm", runs, [0], {"Closer"}))
    assert [row["questions"] for row in rows] == ["all but Closer", "", "Closer", "", "Count", ""]
    assert [row["rows"] for row in rows[::2]] == ["100", "100", "100"]
    assert [row["against a, points"] for row in rows[1::2]] == ["+0.0", "+10.0", "+0.0"]
    chart = kinds.figure(runs, [0], {"Closer"})
    assert chart is not None
    assert "all but Closer: a, all but Closer: b, Closer: a" in chart.said
