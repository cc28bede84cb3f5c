"""Putting the answers of several processes together, none lost, none twice, also after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.derived import Pass, passes
from pipeline.config.schema import EvaluationConfig, RunConfig, StageConfig, TaskConfig
from pipeline.data.load import load_task
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir
from pipeline.scoring.labels import LabelSet
from pipeline.types import Judgement, Split, labelled_image
from stages.evaluation import phase
from stages.evaluation.phase import mend_parts, merge
from stages.processes.work import Work

STAGE = "stage1_sft"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="run",
        output_dir=str(tmp_path),
        task=TaskConfig(name="scenes", options={"train": 1, "val": 1, "test": 10, "size": 32}),
        stages={STAGE: StageConfig(algorithm="sft", init_from="base", data="cot")},
        baselines={"labels": StageConfig(algorithm="sft", init_from="base", data="labels", prompt="direct")},
        evaluation=EvaluationConfig(batch_size=4, samples=2),
    )


@pytest.fixture
def work(config: RunConfig) -> Work:
    work = Work(config, STAGE, RunDir(config.output_dir, config.name))
    work.folder.mkdir(parents=True)
    return work


class FixedAnswerer:
    """Answers without a model, and counts what it is asked."""

    asked = 0

    def __init__(self, *_: Any) -> None:
        pass

    def each(self, batches: Iterable[tuple[str, Any, int, bool, int]]) -> Iterator[list[tuple[str, int]]]:
        for _, examples, _, _, seed in batches:
            FixedAnswerer.asked += len(examples)
            yield [(f"<think>{seed}</think><answer>awe</answer>", 5) for _ in examples]


def answer_as(monkeypatch: pytest.MonkeyPatch, work: Work, rank: int, world: int) -> None:
    import sys
    import types

    # No torch here.
    monkeypatch.setitem(sys.modules, "stages.models.generate", types.SimpleNamespace(Answerer=FixedAnswerer))
    monkeypatch.setattr("stages.models.generate", sys.modules["stages.models.generate"], raising=False)
    monkeypatch.setattr(phase, "checkpoint_folder", lambda run, name: run.final(name))
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    phase.answer_all(work)


def merged(work: Work) -> list[dict[str, Any]]:
    merge(work.config, work.run, work.name, load_task(work.config.task, work.run.cache))
    return list(read_jsonl(work.folder / "predictions.jsonl"))


def test_a_phase_is_asked_in_the_style_it_was_trained_on(config):
    think = [Pass("think", "greedy"), Pass("think", "sample", 0), Pass("think", "sample", 1)]
    assert passes(config, STAGE) == think
    assert [one.style for one in passes(config, "baseline")] == ["direct"] * 3
    assert passes(config, "base") == [*think, Pass("direct", "greedy")]


def test_processes_that_start_one_after_the_other_share_the_rows_without_a_gap(work, monkeypatch):
    """The second finds answers of the first already written, which must not change its own share."""
    FixedAnswerer.asked = 0
    for rank in range(3):
        answer_as(monkeypatch, work, rank, 3)
    assert len(list(work.folder.glob("predictions.part*.jsonl"))) == 3
    rows = merged(work)
    assert FixedAnswerer.asked == len(rows) == 10 * 3


def test_answers_do_not_depend_on_how_many_processes_gave_them(work, monkeypatch):
    answer_as(monkeypatch, work, 0, 1)
    alone = merged(work)
    (work.folder / "predictions.part0.jsonl").unlink()
    for rank in (1, 0):
        answer_as(monkeypatch, work, rank, 2)
    assert merged(work) == alone


def test_a_torn_last_line_is_taken_away_and_answered_again(work, monkeypatch):
    answer_as(monkeypatch, work, 0, 1)
    part = work.folder / "predictions.part0.jsonl"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    mend_parts(work.folder)
    kept = part.read_bytes()
    assert kept.endswith(b"\n")
    assert whole.startswith(kept)
    FixedAnswerer.asked = 0
    answer_as(monkeypatch, work, 0, 1)
    assert 0 < FixedAnswerer.asked < 30
    rows = merged(work)
    assert "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode() == whole


def test_a_part_torn_inside_its_first_line_becomes_empty(work):
    part = work.folder / "predictions.part0.jsonl"
    part.write_text('{"id": "a')
    mend_parts(work.folder)
    assert part.read_text() == ""


def test_missing_answers_are_refused_and_counted(work, monkeypatch):
    answer_as(monkeypatch, work, 0, 2)
    with pytest.raises(UserError, match=r"14 of 30 answers are missing"):
        merged(work)
    assert not (work.folder / "predictions.jsonl").exists()


def test_rows_whose_gold_answers_were_mended_are_asked_anew(work, monkeypatch, caplog):
    """Between a kill and the same command, and after the evaluation was complete."""
    caplog.set_level("INFO")
    golds = {"now": "awe"}
    told = load_task(work.config.task, work.run.cache)

    def read(split: str) -> Split:
        found = told.read(split)
        return dataclasses.replace(
            found, rows=tuple(dataclasses.replace(row, answer=golds["now"]) for row in found.rows)
        )

    monkeypatch.setattr(phase, "load_run_task", lambda config, run: dataclasses.replace(told, read=read))
    monkeypatch.setattr(type(work.run), "record", lambda run, name: {"weights": "w", "status": "complete"})
    ranks = iter([(0, 2), (0, 1), (0, 1)])
    monkeypatch.setattr(phase, "_run_workers", lambda work: answer_as(monkeypatch, work, *next(ranks)))
    with pytest.raises(UserError, match="answers are missing"):
        phase._answer(work, verified=True)
    golds["now"] = "fear"
    for _ in range(2):
        phase._answer(work, verified=True)
        assert {row["gold"] for row in read_jsonl(work.folder / "predictions.jsonl")} == {"fear"}
    assert caplog.text.count("test has other questions or answers now, so they are asked anew") == 1
    golds["now"] = "awe"
    phase._answer(work, verified=True)
    rows = list(read_jsonl(work.folder / "predictions.jsonl"))
    assert {(row["gold"], row["correct"]) for row in rows} == {("awe", True)}


@pytest.mark.parametrize(
    ("think", "style", "exact"),
    [
        ("13 up 8 awe", "think", True),
        ("13 awe", "think", False),
        (None, "think", False),
        ("13 up 8 awe", "direct", None),
    ],
)
def test_a_prediction_says_whether_its_steps_are_the_true_ones(think: str | None, style: str, exact: bool | None):
    row = labelled_image("a", Path("a.png"), "awe", groups={"walk": "1"}, trace="13 up 8 awe")
    found = phase.told_beside(scenes(), row, Judgement("awe", True, think=think), style)
    assert found["groups"] == {"label": "awe", "walk": "1"}
    assert found.get("exact_trace") is exact


def test_a_prediction_of_a_task_without_groups_or_steps_stays_as_it_was():
    row = labelled_image("a", Path("a.png"), "awe")
    assert phase.told_beside(scenes(), row, Judgement("awe", True, think="a park"), "think") == {}


def scenes() -> Task:
    return labelled_task("t", LabelSet.of(["awe", "fear"]), "Which?", ("test",), lambda _: Split(()))


def test_the_rows_of_a_traced_task_are_written_with_both(work: Work, monkeypatch: pytest.MonkeyPatch):
    task = TaskConfig(name="trails", options={"train": 1, "val": 1, "test": 8})
    walked = Work(dataclasses.replace(work.config, task=task), STAGE, work.run)
    answer_as(monkeypatch, walked, 0, 1)
    rows = list(read_jsonl(work.folder / "predictions.part0.jsonl"))
    assert {row["exact_trace"] for row in rows} == {False}
    assert {tuple(row["groups"]) for row in rows} == {("label", "walk")}
