"""Options in other orders: text, letters and gold answer move together, nothing else moves, and the figures are by hand."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab_fakes import Lab, Scripted, record, rows

from pipeline.config.evaluation import LabTask, cells
from pipeline.config.schema import TaskConfig
from pipeline.data.questions.prompting import asked_for_letter, lettered
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.metrics.intervals import rate
from pipeline.sweeps.files import as_markdown, write_results
from pipeline.sweeps.page import page
from pipeline.sweeps.results import Cells, results
from pipeline.types import Question
from stages.evaluation.rotation import option_places, own, rotate
from tests.unit.pipeline.tasks.test_benchmarks import (
    cv_bench,
    load,
    math_row,
    mmmu_row,
    picture,
    star_row,
    table,
    vcr,
    vcr_row,
)


def question(*options: str, answer: str | None = "A", text: str = "Which?", **more: Any) -> Question:
    return Question("q", (), f"{text}\n{lettered(options)}" if options else text, options, answer, **more)


def turned(one: Question, orders: int = 26) -> list[Question]:
    return list(rotate([one], orders, lambda row: asked_for_letter(row, "direct"))[0])


def test_text_order_and_gold_letter_move_together() -> None:
    first, second, third = turned(question("red", "blue", "green", answer="B", text="Is it (A) red?"))
    assert (first.id, second.id, third.id) == ("q", "q#1", "q#2")
    assert second.text == "Is it (A) red?\n(A) blue\n(B) green\n(C) red"
    assert third.text == "Is it (A) red?\n(A) green\n(B) red\n(C) blue"
    assert [(row.options, row.answer) for row in (second, third)] == [
        (("blue", "green", "red"), "A"),
        (("green", "red", "blue"), "C"),
    ]
    assert {row.cluster for row in (first, second, third)} == {"q"}
    assert [row.facts["rotation"] for row in (first, second, third)] == [0, 1, 2]
    # Nothing of the question is lost where nothing is asked for.
    assert rotate([first], 1, lambda row: row.text) == ((first,), {})


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Question("q", (), "How many?", answer="3"), "no_options"),
        (Question("q", (), "Which emotion?", ("awe", "fear"), "awe", kind="label"), "no_options"),
        (question("a cat", "a dog", "None of the above"), "options_name_each_other"),
        (question("1 m", "2 m", "Both A and B"), "options_name_each_other"),
        (question("1 m", "2 m", "(A) or (B)"), "options_name_each_other"),
        (Question("q", (), "Answer what the picture asks.", ("cat", "dog"), "A"), "options_not_in_text"),
    ],
)
def test_a_question_that_has_one_order_is_asked_once_and_counted(one: Question, reason: str) -> None:
    asked, once = rotate([one], 4, lambda row: row.text)
    assert once == {reason: 1}
    assert [(row.text, row.options, row.answer, row.cluster) for row in asked] == [
        (one.text, one.options, one.answer, "")
    ]


def test_words_for_places_in_a_picture_are_no_places_in_a_list() -> None:
    assert len(turned(question("above", "below", "A. left of it", "to the right of person A"))) == 4


def test_an_id_that_a_rotated_row_would_share_is_refused() -> None:
    other = dataclasses.replace(question("x", "y"), id="q#1")
    with pytest.raises(UserError, match="'q#1' would be the id of two rows"):
        rotate([question("x", "y"), other], 2, lambda row: row.text)


def test_options_are_found_where_they_are_listed_last() -> None:
    text = "Is (A) 3 more than (B) 2?\nA: 3, B: 2; c. C: 1"
    assert [text[start:end] for start, end in option_places(text, ["3", "2", "C: 1"]) or ()] == ["3", "2", "C: 1"]
    assert (option_places(text, ["3", "2", "C: 1"]) or [(0, 0)])[0][0] > text.index("\n")
    assert option_places("(A) 12 (B) 3", ["1", "3"]) is None


def benchmarks(root: Path) -> dict[str, tuple[Any, str, dict[str, int]]]:
    """Each lettered benchmark from files of its own layout, its split, and what of it is asked once."""
    vcr_rows = [vcr_row(number, img_id=f"val-{number}") for number in range(2)]
    table(
        root / "mmmu" / "validation.parquet", [mmmu_row(1), mmmu_row(2, question_type="open", options="[]", answer="7")]
    )
    ten = {**mmmu_row(1), "subject": "Math", "options": str([f"no. {n}" for n in range(10)]), "answer": "J"}
    table(root / "pro" / "standard (10 options)" / "test-0.parquet", [ten])
    seen = {"id": "test_Math_1", "image": picture(9), "options": "['1', '2', '3']", "answer": "C", "subject": "Math"}
    table(root / "pro" / "vision" / "test-0.parquet", [seen])
    choices = {"choices": ["5", "7", "9"], "question_type": "multi_choice", "answer_type": "text", "answer": "7"}
    vista = [math_row("1", decoded_image=picture(), **choices), math_row("2", decoded_image=picture())]
    table(root / "vista" / "testmini-0.parquet", vista)
    table(root / "star" / "mmstar.parquet", [star_row(1, "geometry"), star_row(2, "geometry", answer="A")])
    return {
        "cv_bench": (cv_bench(root / "cv"), "test", {}),
        "vcr": (vcr(root / "vcr", vcr_rows), "val", {}),
        "mmmu": (load("mmmu", root / "mmmu"), "validation", {"no_options": 1}),
        "mmmu_pro": (load("mmmu_pro", root / "pro"), "test", {}),
        "mmmu_pro vision": (load("mmmu_pro", root / "pro", setting="vision"), "test", {"options_not_in_text": 1}),
        "mathvista": (load("mathvista", root / "vista"), "testmini", {"no_options": 1}),
        "mmstar": (load("mmstar", root / "star"), "val", {}),
    }


def test_every_lettered_benchmark_rotates_and_is_judged_by_the_letter_that_has_moved(tmp_path: Path) -> None:
    for name, (benchmark, split, expected) in benchmarks(tmp_path).items():
        for style in ("direct", "think"):
            published = {row.id: row for row in benchmark.read(split).rows}
            asked, once = rotate(tuple(published.values()), 3, functools.partial(benchmark.prompt, style=style))
            assert once == expected, name
            orders = Counter(own(row).id for row in asked)
            assert sorted(orders.values()) == [1] * sum(expected.values()) + [3] * (
                len(published) - sum(expected.values())
            )
            for row in asked:
                before, rotation = published[own(row).id], row.facts["rotation"]
                if not rotation:
                    assert (row.text, row.options, row.answer) == (before.text, before.options, before.answer)
                    continue
                prompt = benchmark.prompt(row, style)
                assert [prompt[start:end] for start, end in option_places(prompt, row.options) or ()] == [
                    *row.options
                ], name
                gold = row.options["ABCDEFGHIJ".index(row.answer or "")]
                assert gold == before.options["ABCDEFGHIJ".index(before.answer or "")]
                said = {"direct": "({})", "think": "<think>so</think><answer>{}</answer>"}[style]
                assert benchmark.judge(row, said.format(row.answer), style).correct, name
                assert not benchmark.judge(row, said.format(before.answer), style).correct, name
                # All else stands as it stood.
                assert sorted(row.text.split()) == sorted(before.text.split()) or name == "mmstar"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Eight questions of CV-Bench with five options; the gold answer is A, "3"."""
    cv_bench(tmp_path / "data")

    def say(ask: Any) -> str:
        number = int(ask.id.partition("#")[0])
        # Two rows know the text, three always say A, one says A and then nothing, the others are wrong in every order.
        if number in (0, 1):
            return "3"
        if number in (2, 3, 10):
            return "(A)"
        return ("(A)" if "#" not in ask.id else "I cannot tell.") if number == 4 else "4"

    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(say)}, rotate_options=3)
    lab.config = dataclasses.replace(
        lab.config, tasks={"cv": LabTask(TaskConfig("cv_bench", str(tmp_path / "data")), "test")}
    )
    return lab


def test_a_cell_tells_accuracy_over_orders_and_how_often_an_option_is_chosen_in_all(lab: Lab) -> None:
    folder = lab.run()
    found = rows(folder)
    assert len(found) == 8 * 3
    assert [row["rotation"] for row in found] == [0] * 8 + [1] * 8 + [2] * 8
    figures = record(folder)
    told = figures["rotations"]
    # Own order: 0, 1, 2, 3, 10 and 4; moved: the two that know the text.
    assert (figures["rows"], figures["accuracy"]) == (24, (6 + 2 + 2) / 24)
    assert [order["count"] for order in told["by_order"]] == [6, 2, 2]
    assert (told["orders"], told["questions"], told["once"]) == (3, 8, {})
    # Consistent: two right, two wrong (5 and 11 say "4"); the three that say A choose three texts.
    assert (told["consistent"]["count"], told["consistent"]["n"]) == (4, 8)
    assert (told["all_right"]["count"], told["all_right"]["value"]) == (2, 0.25)
    assert (told["consistent"]["low"], told["consistent"]["high"]) == (rate(4, 8).low, rate(4, 8).high)
    # Over all orders rows of a question are no independent ones: the interval is wider than that of 24 rows.
    assert told["accuracy"]["clusters"] == 8
    assert told["accuracy"]["low"] < rate(10, 24).low
    # As published: every question once, in its own order.
    assert figures["official"]["micro"] == 75


def test_a_killed_rotation_goes_on_row_by_row_and_another_number_is_another_cell(lab: Lab) -> None:
    model = lab.models["m"]
    model.dies_after = 10
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    model.dies_after, model.asked = None, []
    lab.run()
    assert len(model.asked) == 24 - 10
    assert len({row["id"] for row in rows(lab.folder())}) == 24
    lab.config = dataclasses.replace(lab.config, rotate_options=2)
    with pytest.raises(UserError, match="rotate_options: 3 -> 2"):
        lab.run()


def test_a_sweep_shows_it_beside_its_cells(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    told = results(Cells(lab.config))
    (line,) = told.rotations
    assert (line.orders, line.questions, line.once, line.own_order.value, line.all_right.value) == (3, 8, 0, 0.75, 0.25)
    text = as_markdown(told)
    assert "| m · auto · direct | 8 | 3 | 0 | 75.0 [" in text
    assert "Options in other orders" in page(told)
    write_results(told, tmp_path)
    (written,) = csv.DictReader((tmp_path / "rotations.csv").open())
    assert (written["questions"], written["own_order"], written["all_right"]) == ("8", "0.75", "0.25")
    assert float(written["consistent_low"]) == line.consistent.low
    # The row of the table has them all, and its interval knows they are eight.
    assert (told.cells[0].n, told.cells[0].correct) == (24, 10)
    write_json(lab.folder() / "evaluation.json", {**record(lab.folder()), "rotations": {"orders": 3, "once": {"x": 8}}})
    assert results(Cells(lab.config)).rotations == ()


def test_a_set_without_letters_is_asked_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(lambda ask: "awe")}, rotate_options=4)
    told = record(lab.run())
    assert told["rotations"] == {"orders": 4, "once": {"no_options": 10}}
    assert told["rows"] == 10
    assert len(cells(lab.config)) == 1
