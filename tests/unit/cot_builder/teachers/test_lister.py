"""The offline teacher of `shapes`: what it writes, and that its declared faults come at their declared rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cot_builder.build.run import make_teachers
from cot_builder.output.traces import trace_counts
from cot_builder.prompts import load_prompt
from cot_builder.teachers.base import TeacherQuestion
from cot_builder.teachers.config import ListerConfig, check_teacher, declared_imperfection, load_teacher
from cot_builder.teachers.lister import ListerTeacher
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.scoring.kinds import judge_kind
from pipeline.scoring.response import Malformed, parse
from pipeline.tasks.shapes import TASKS, row
from pipeline.types import Split

PROMPT = load_prompt("answer_hidden_v1")
OPTIONS = {"seed": 0, "objects": [2, 8], "kinds": list(TASKS)}
ROWS = [row("train", number, OPTIONS, Path("none")) for number in range(1000)]
TASK = Task("shapes", ("train",), lambda _: Split(tuple(ROWS)), judge=judge_kind)


def said(run_seed: int = 0, attempt: int = 0, rows=ROWS, **options: object) -> list[tuple[str, str]]:
    """(thought, answer) of each row."""
    teacher = ListerTeacher("t", ListerConfig(**options), run_seed)  # type: ignore[arg-type]
    told = []
    for one in rows:
        record = teacher.request(TeacherQuestion(one, "answer_hidden", attempt, PROMPT, "")).record
        response = parse(teacher.write(record["shown"], record["seed"]))
        assert not isinstance(response, Malformed)
        told.append((response.think, response.answer))
    return told


def test_without_faults_it_writes_the_true_steps_and_the_answer():
    assert said() == [(one.trace, one.answer) for one in ROWS]


def test_it_never_sees_the_answer():
    assert said(rows=[replace(one, answer="x", trace="") for one in ROWS[:50]]) == said(rows=ROWS[:50])


def test_the_same_seed_writes_the_same_and_another_does_not():
    fault = {"misread_rate": 0.3}
    assert said(**fault) == said(**fault)
    assert len({str(said(**fault, **other)) for other in ({}, {"run_seed": 1}, {"seed": 1}, {"attempt": 1})}) == 4


def test_it_stops_at_long_lists_alone_at_the_declared_rate():
    stopped = {False: 0, True: 0}
    for one, (think, answer) in zip(ROWS, said(looks_at=3, stop_rate=0.9), strict=True):
        long = int(one.groups["listed"]) > 3
        if think != one.trace:
            stopped[long] += 1
            # What it writes is how the true list begins.
            assert one.trace.startswith(think)
            assert answer in ("no", "A") or one.groups["task"] in ("Count", "Colour")
    long_rows = sum(int(one.groups["listed"]) > 3 for one in ROWS)
    assert stopped[False] == 0
    assert stopped[True] / long_rows == pytest.approx(0.9, abs=0.04)


def test_objects_are_misread_at_the_declared_rate():
    whole = [one for one in ROWS if one.groups["task"] == "Count"]
    told = said(misread_rate=0.2, rows=whole)
    wrong = total = 0
    for one, (think, _) in zip(whole, told, strict=True):
        true, seen = one.trace.split(), think.split()
        for at in range(0, len(true), 5):
            wrong += true[at : at + 4] != seen[at : at + 4]
            total += 1
            # One of the two is misread, and never the field.
            assert sum(a != b for a, b in zip(true[at : at + 4], seen[at : at + 4], strict=True)) <= 1
            assert true[at : at + 2] == seen[at : at + 2]
    assert wrong / total == pytest.approx(0.2, abs=0.03)


def test_the_demos_teacher_keeps_short_lists_and_lucky_ones():
    config = load_teacher("lister_stops_early")
    assert isinstance(config, ListerConfig)
    assert declared_imperfection(config) == (
        "misreads 2% of the objects, looks at 3 objects alone in 60% of the pictures of more and answers from those"
    )
    teacher = make_teachers({"t": config}, TASK, ROWS, seed=0, concurrency=1)["t"]
    assert isinstance(teacher, ListerTeacher)
    kept = {}
    for one in ROWS:
        record = teacher.request(TeacherQuestion(one, "answer_hidden", 0, PROMPT, "")).record
        judgement = judge_kind(one, teacher.write(record["shown"], record["seed"]), "think")
        if judgement.correct:
            kept[one.id] = judgement.think or ""
    counts = trace_counts(ROWS, kept)
    by_length = counts["groups"]["listed"]
    assert all(by_length[str(n)]["kept"] / by_length[str(n)]["rows"] > 0.85 for n in (1, 2, 3))
    long = [by_length[str(n)] for n in range(4, 9)]
    assert 0.5 < sum(one["kept"] for one in long) / sum(one["rows"] for one in long) < 0.75
    assert 0.3 < sum(one["wrong"] for one in long) / sum(one["kept"] for one in long) < 0.6


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"misread_rate": 1.5}, "misread_rate: 1.5 is not between 0 and 1"),
        ({"stop_rate": 0.5}, "looks_at: 0 is less than 1, and stop_rate is set"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_its_file(tmp_path: Path, fault: dict[str, object], message: str):
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump({"kind": "lister", **fault}))
    with pytest.raises(UserError, match=message):
        load_teacher(str(path))


def test_it_names_no_label_of_the_task():
    assert check_teacher(ListerConfig(looks_at=3, stop_rate=0.5), "t", TASK) == []
