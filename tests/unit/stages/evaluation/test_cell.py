"""One cell of the lab: nothing lost, nothing asked twice, nothing mixed, and every answer in the denominator."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from lab_fakes import ROWS, Lab, Scripted, record, rows

from pipeline.config.evaluation import LabTask
from pipeline.config.schema import TaskConfig
from pipeline.data.training_rows import write_rows
from pipeline.errors import UserError
from pipeline.reports.entries import read_folders
from pipeline.sweeps.results import Cells
from stages.evaluation.backends import checkpoint as backends
from stages.evaluation.backends.base import Generation
from stages.evaluation.cell_record import picture_digests
from stages.evaluation.grid import write_grid


def awe(ask):
    return "awe"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    return Lab(tmp_path, monkeypatch, {"m": Scripted(awe)})


def test_a_cell_has_a_row_for_every_question_in_the_split_s_order_and_its_figures(lab):
    folder = lab.run()
    from pipeline.data.load import load_task

    questions = load_task(lab.config.tasks["scenes"].task, Path(lab.config.output_dir) / ".cache").select("test").rows
    found = rows(folder)
    assert [row["id"] for row in found] == [question.id for question in questions]
    assert all(row["label"] == "awe" and row["correct"] == (row["gold"] == "awe") for row in found)
    figures = record(folder)
    assert figures["status"] == "complete"
    assert figures["rows"] == ROWS
    assert figures["accuracy"] == sum(row["correct"] for row in found) / ROWS
    assert figures["chance"] == 1 / 8
    assert figures["parsed"] == 1
    assert figures["tokens"] == {"prompt": 7 * ROWS, "completion": 5 * ROWS}
    assert figures["latency_p95_s"] == 0.5
    assert figures["peak_memory_bytes"] == 1000


@pytest.mark.parametrize("published", [0, 5])
def test_rows_whose_answer_is_not_published_are_neither_right_nor_wrong(lab, monkeypatch, published):
    from stages.evaluation import cell

    plain = cell.load_task

    def some_unpublished(config, cache):
        task = plain(config, cache)

        def read(split):
            found = task.read(split)
            kept = (row if n < published else dataclasses.replace(row, answer=None) for n, row in enumerate(found.rows))
            return dataclasses.replace(found, rows=tuple(kept))

        def official(rows):
            return {"micro": 100 * sum(row["correct"] for row in rows) / len(rows)}

        return dataclasses.replace(task, read=read, official=official)

    monkeypatch.setattr(cell, "load_task", some_unpublished)
    folder = lab.run()
    right = sum(row["correct"] for row in rows(folder))
    figures = record(folder)
    assert figures["rows"] == ROWS
    assert figures["accuracy"] == (right / published if published else None)
    assert figures["official"] == ({"micro": 100 * right / published} if published else {})
    (shown,) = Cells(lab.config).cells()
    row = Cells(lab.config).row(shown)
    assert (row.status, row.n, row.accuracy) == ("complete", published, figures["accuracy"])
    (line,) = json.loads(write_grid(lab.config)[-1].read_text())
    assert (line["n"], line["accuracy"]) == (published, figures["accuracy"])


def test_the_report_of_a_cell_knows_what_yes_or_no_earns_by_chance_and_by_the_commonest_answer(lab):
    shapes = TaskConfig(name="shapes", options={"train": 1, "val": 1, "test": ROWS, "kinds": ["Exists"]})
    lab.config.tasks["scenes"] = LabTask(shapes, "test")
    (entry,) = read_folders([lab.run()])
    assert entry.scores.chance == 0.5
    assert entry.scores.commonest.accuracy >= 0.5


def test_a_killed_cell_asks_only_what_is_missing(lab):
    model = lab.models["m"]
    model.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    assert len(rows(lab.folder())) == 4
    assert record(lab.folder())["status"] == "running"
    first, model.dies_after, model.asked = {ask.id for ask in model.asked}, None, []
    lab.run()
    assert len(model.asked) == ROWS - 4
    assert first.isdisjoint(ask.id for ask in model.asked)
    assert len(rows(lab.folder())) == ROWS


def test_a_half_line_is_taken_away_and_asked_again(lab):
    model = lab.models["m"]
    model.dies_after = 4
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    file = lab.folder() / "predictions.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    model.dies_after, model.asked = None, []
    lab.run()
    assert len(model.asked) == ROWS - 3
    assert len({row["id"] for row in rows(lab.folder())}) == ROWS


def test_a_complete_cell_asks_nothing(lab):
    lab.run()
    lab.models["m"].asked = []
    lab.run()
    assert lab.models["m"].asked == []


def test_a_changed_input_is_refused_and_named_and_clean_begins_anew(lab):
    lab.run()
    task = dataclasses.replace(lab.config.tasks["scenes"], split="test[:4]")
    lab.config = dataclasses.replace(lab.config, tasks={"scenes": task})
    with pytest.raises(UserError, match=r"split: 'test' -> 'test\[:4\]'") as caught:
        lab.run()
    assert "--clean" in str(caught.value)
    assert len(rows(lab.folder())) == ROWS
    lab.run(clean=True)
    assert len(rows(lab.folder())) == 4


def test_a_changed_picture_is_another_input(lab):
    lab.run()
    picture = Path(rows(lab.folder())[0]["image"])
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(UserError, match="rows: "):
        lab.run()


def test_another_cell_reads_no_picture_again_to_know_it(tmp_path, monkeypatch):
    questions = [dataclasses.make_dataclass("Question", ["images"])((tmp_path / f"{name}.jpg",)) for name in "ab"]
    (tmp_path / "a.jpg").write_bytes(b"a")
    read: list[Path] = []
    monkeypatch.setattr("pipeline.data.images.file_digest", lambda path: read.append(path) or str(len(read)))
    first = picture_digests(questions, tmp_path / ".cache")
    assert picture_digests(questions, tmp_path / ".cache") == first
    assert read == [tmp_path / "a.jpg"]
    assert first[tmp_path / "b.jpg"] == "missing"


def test_the_smoke_test_stops_before_the_rest_and_says_what_was_said(tmp_path, monkeypatch):
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(lambda ask: "As an AI I see things")}, smoke=2)
    with pytest.raises(UserError, match="As an AI I see things") as caught:
        lab.run()
    assert "not_a_label" in str(caught.value)
    assert len(lab.models["m"].asked) == 2


def test_one_readable_answer_passes_the_smoke_test_and_the_others_stay_in_the_denominator(tmp_path, monkeypatch):
    said = iter(["nonsense", "awe"])
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(lambda ask: next(said, "nonsense"))}, smoke=2)
    figures = record(lab.run())
    assert figures["parsed"] == 1 / ROWS
    assert figures["reasons"] == {"not_a_label": ROWS - 1}
    assert figures["accuracy"] <= 1 / ROWS


def test_a_picture_that_cannot_be_read_is_a_counted_wrong_row(tmp_path, monkeypatch):
    say = lambda ask: Generation(ask.id, "", failed="unreadable_image", detail="broken.jpg: unreadable_image")  # noqa: E731
    folder = Lab(tmp_path, monkeypatch, {"m": Scripted(say)}).run()
    assert record(folder)["reasons"] == {"unreadable_image": ROWS}
    assert {(row["correct"], row["detail"]) for row in rows(folder)} == {(False, "broken.jpg: unreadable_image")}


def test_blind_asks_the_same_words_without_the_picture_and_what_it_says_is_the_result(tmp_path, monkeypatch):
    lab = Lab(
        tmp_path,
        monkeypatch,
        {"m": Scripted(lambda ask: "awe" if ask.images else "I see no picture.")},
        modes=["direct", "blind"],
        smoke=2,
    )
    direct, blind = rows(lab.run(0)), rows(lab.run(1))
    assert [ask.images for ask in lab.models["m"].asked[ROWS:]] == [()] * ROWS
    assert [row["prompt"] for row in blind] == [row["prompt"] for row in direct]
    assert {row["style"] for row in blind} == {"direct"}
    assert {how.max_new_tokens for how in lab.models["m"].hows} == {32}
    assert record(lab.folder(1))["reasons"] == {"not_a_label": ROWS}
    assert record(lab.folder(1))["inputs"]["mode"] == "blind"


def test_marks_of_pictures_are_words_to_the_blind(tmp_path, monkeypatch):
    from stages.evaluation import cell

    whole = cell.load_task

    def marked(config, cache):
        benchmark = whole(config, cache)
        return dataclasses.replace(benchmark, prompt=lambda question, style: f"Look at <image 1>. {question.id}")

    monkeypatch.setattr(cell, "load_task", marked)
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(awe)}, modes=["direct", "blind"])
    found = rows(lab.run(1))
    assert all(row["prompt"] == f"Look at image 1. {row['id']}" for row in found)


def test_rows_a_server_left_make_the_cell_fail_and_go_on_later(lab):
    model = lab.models["m"]
    whole = model.answer
    model.answer = lambda asks, how: iter(list(whole(asks[:6], how)))
    with pytest.raises(UserError, match="4 of 10 rows are not answered"):
        lab.run()
    model.answer = whole
    lab.run()
    assert record(lab.folder())["status"] == "complete"


@pytest.mark.parametrize("mode", ["direct", "think", "caption-think"])
@pytest.mark.parametrize("reason", ["server_error", "no_reply", "moderated"])
def test_rows_a_server_failed_at_are_asked_again_when_wanted(tmp_path, monkeypatch, mode, reason):
    fails = True

    def say(ask):
        bad = fails and ask.images and ask.id in ("test-0", "test-7")
        return (
            Generation(ask.id, "", failed=reason, detail="HTTP 500") if bad else "<think>x</think><answer>awe</answer>"
        )

    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(say), "r": Scripted(say)}, reasoners=["r"], modes=[mode])
    bad = {row["id"] for row in rows(lab.run()) if row["reason"] == reason}
    before = rows(lab.folder())
    fails = False
    lab.run()
    assert rows(lab.folder()) == before
    lab.run(retry=True)
    after = rows(lab.folder())
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert [row for row in after if row["id"] not in bad] == [row for row in before if row["id"] not in bad]
    assert not [row for row in after if row["reason"] == reason]
    assert record(lab.folder())["status"] == "complete"
    asked = len(lab.models["m"].asked)
    lab.run(retry=True)
    assert len(lab.models["m"].asked) == asked


def test_a_picture_no_one_can_read_is_not_asked_again(tmp_path, monkeypatch):
    say = lambda ask: Generation(ask.id, "", failed="unreadable_image", detail="x")  # noqa: E731
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(say)})
    lab.run()
    lab.run(retry=True)
    assert len(lab.models["m"].asked) == ROWS


def test_a_direct_answer_is_short_and_a_thought_may_be_long(tmp_path, monkeypatch):
    think = "<think>the sky</think><answer>awe</answer>"
    model = Scripted(lambda ask: think if "Reason" in ask.text else "awe")
    lab = Lab(tmp_path, monkeypatch, {"m": model}, modes=["direct", "think"])
    lab.run(0)
    assert {how.max_new_tokens for how in lab.models["m"].hows} == {32}
    lab.models["m"].hows = []
    folder = lab.run(1)
    assert {how.max_new_tokens for how in lab.models["m"].hows} == {512}
    assert {row["think"] for row in rows(folder)} == {"the sky"}


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        (["What does it show?"], "What does it show?"),
        (["What does it show?", "asked"], None),
        (["asked"], None),
        ([], None),
        (None, None),
    ],
)
def test_a_checkpoint_that_is_asked_another_question_than_it_was_trained_with_is_told(
    trained, told, tmp_path, monkeypatch, caplog
):
    lab = Lab(tmp_path, monkeypatch, {"m": Scripted(awe)})
    stage = tmp_path / "stage"
    stage.mkdir()
    find = backends.find
    monkeypatch.setattr(
        backends, "find", lambda model, precision: dataclasses.replace(find(model, precision), folder=stage / "final")
    )
    first = record(lab.run())["inputs"]["prompt"]
    if trained is not None:
        texts = [first if text == "asked" else text for text in trained]
        turns = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in texts]
        write_rows(stage, {"id": [str(place) for place in range(len(texts))], "prompt": turns}, {})
    caplog.clear()
    found = record(lab.run(clean=True))
    assert found["trained_question"] == told
    assert ("was trained with another question" in caplog.text) == (told is not None)
    if told:
        assert told in caplog.text
        assert first in caplog.text
