"""The offline teacher of `trails`: what it writes, and that its declared faults come at their declared rates."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cot_builder.build.run import make_teachers
from cot_builder.output.traces import trace_counts, trace_line, trace_tables
from cot_builder.prompts import load_prompt
from cot_builder.teachers.base import TeacherQuestion
from cot_builder.teachers.config import (
    AttributeConfig,
    WalkerConfig,
    check_teacher,
    declared_imperfection,
    load_teacher,
)
from cot_builder.teachers.walker import WalkerTeacher
from pipeline.data.task import labelled_task
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.response import Malformed, parse
from pipeline.tasks.trails import ARROWS, EMOTIONS, SIDE, board_of, follow, sample, step
from pipeline.types import Question, Split, labelled_image

PROMPT = load_prompt("answer_hidden_v1")


def row(number: int) -> Question:
    emotion, length = EMOTIONS[number % 8], number // 8 % 8 + 1
    board = sample(random.Random(number), emotion, length)
    fields = [[board[x, y] for x in range(SIDE)] for y in range(SIDE)]
    trace = " ".join(follow(board))
    return labelled_image(f"row_{number}", Path("none.jpg"), emotion, {"board": fields}, {"walk": str(length)}, trace)


ROWS = [row(number) for number in range(1024)]
TASK = labelled_task("trails", LabelSet.of(list(EMOTIONS)), "Which?", ("train",), lambda _: Split(tuple(ROWS)))


def said(rows: list[Question] = ROWS, run_seed: int = 0, attempt: int = 0, **options: object) -> list[str]:
    teacher = WalkerTeacher("t", WalkerConfig(**options), run_seed)  # type: ignore[arg-type]
    questions = [TeacherQuestion(one, "answer_hidden", attempt, PROMPT, "") for one in rows]
    records = [teacher.request(question).record for question in questions]
    return [teacher.write(record["board"], record["seed"]) for record in records]


def test_without_faults_it_writes_the_true_steps_and_the_label():
    for one, reply in zip(ROWS, said(), strict=True):
        response = parse(reply)
        assert not isinstance(response, Malformed)
        assert (response.think, response.answer) == (one.trace, one.gold)


def test_it_never_sees_the_label():
    assert said([replace(one, answer="awe") for one in ROWS[:20]]) == said(ROWS[:20])


def test_the_same_seed_writes_the_same_and_another_does_not():
    fault = {"misread_rate": 0.3}
    assert said(**fault) == said(**fault)
    assert said(**fault) != said(**fault, run_seed=1)
    assert said(**fault) != said(**fault, seed=1)
    assert said(**fault) != said(**fault, attempt=1)
    assert said(**fault)[:9] == said(ROWS[:9], **fault)


def test_it_walks_on_from_where_a_misread_arrow_leads():
    replies = said(misread_rate=0.2)
    assert replies != said()
    for one, reply in zip(ROWS, replies, strict=True):
        board = board_of(one.attributes["board"])
        words = reply.partition("<think>")[2].partition("</think>")[0].split()
        fields = [divmod(int(word) - 1, SIDE) for word in words[::2]]
        for (y, x), way, (below, beside) in zip(fields, words[1::2], fields[1:], strict=False):
            assert step((x, y), way) == (beside, below)
        y, x = fields[-1]
        assert words[-1] == board[x, y] or len(words) > 2 * SIDE * SIDE


def test_arrows_are_misread_at_the_declared_rate():
    first = [reply.split()[1] == one.trace.split()[1] for one, reply in zip(ROWS, said(misread_rate=0.3), strict=True)]
    assert first.count(False) / len(first) == pytest.approx(0.3, abs=0.05)


def test_it_gives_up_on_long_walks_alone_at_the_declared_rate():
    fault = {"gives_up_after": 4, "give_up_rate": 0.92, "give_up_answer": "contentment"}
    gave_up = {False: 0, True: 0}
    for one, reply in zip(ROWS, said(**fault), strict=True):
        response = parse(reply)
        assert not isinstance(response, Malformed)
        steps = one.trace.split()
        if response.think != one.trace:
            assert response.think.split() == [*steps[:9], "contentment"]
            assert response.answer == "contentment"
            gave_up[int(one.groups["walk"]) > 4] += 1
    assert gave_up[False] == 0
    assert gave_up[True] / (len(ROWS) / 2) == pytest.approx(0.92, abs=0.04)


def test_a_walk_in_circles_ends_and_is_no_answer():
    turning = [["awe"] * SIDE for _ in range(SIDE)]
    turning[2][2], turning[2][3] = "right", "left"
    assert isinstance(parse(WalkerTeacher("t", WalkerConfig(), 0).write(turning, 0)), Malformed)
    # Below an arrow that always misleads it may come back to the ring.
    assert all("<think>13 " in reply for reply in said(misread_rate=1.0))


def test_the_demos_teacher_keeps_short_walks_and_lucky_guesses():
    config = load_teacher("walker_gives_up")
    assert isinstance(config, WalkerConfig)
    options = {
        key: getattr(config, key) for key in ("misread_rate", "gives_up_after", "give_up_rate", "give_up_answer")
    }
    kept = {}
    for one, reply in zip(ROWS, said(**options), strict=True):
        response = parse(reply)
        if not isinstance(response, Malformed) and response.answer == one.gold:
            kept[one.id] = response.think
    counts = trace_counts(ROWS, kept)
    walks = counts["groups"]["walk"]
    assert list(walks) == [str(length) for length in range(1, 9)]
    assert all(walks[str(length)]["kept"] / walks[str(length)]["rows"] > 0.85 for length in range(1, 5))
    long = [walks[str(length)] for length in range(5, 9)]
    assert 0.1 < sum(of["kept"] for of in long) / sum(of["rows"] for of in long) < 0.3
    assert 0.5 < sum(of["wrong"] for of in long) / sum(of["kept"] for of in long) < 0.75
    assert counts["kept"] == sum(of["kept"] for of in walks.values()) == len(kept)
    assert counts["wrong"] == sum(of["wrong"] for of in walks.values())
    assert f"{counts['wrong']} of {len(kept)} kept rows" in trace_line(counts)
    (table,) = trace_tables(counts)
    assert [row["wrong"] for row in table.rows] == [of["wrong"] for of in walks.values()]


def test_rows_without_true_steps_are_not_counted():
    assert trace_counts([replace(one, trace="") for one in ROWS[:5]], {"row_0": "13"}) == {}
    assert trace_line({"kept": 0, "wrong": 0}) == (
        "0 of 0 kept rows reach the right label by steps that are not the true ones"
    )


def test_what_its_file_declares_is_said_in_words():
    assert declared_imperfection(load_teacher("walker_gives_up")) == (
        "misreads 3% of the arrows, gives up after 4 arrows on 92% of the longer walks and says contentment"
    )
    assert "takes amusement for contentment" in declared_imperfection(load_teacher("attribute_biased"))
    assert [declared_imperfection(config) for config in (WalkerConfig(), AttributeConfig())] == ["", ""]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"misread_rate": 1.5}, "misread_rate: 1.5 is not between 0 and 1"),
        ({"give_up_rate": -1}, "give_up_rate: -1"),
        ({"give_up_rate": 0.5, "give_up_answer": "awe"}, "gives_up_after: 0 is less than 1"),
        ({"give_up_rate": 0.5, "gives_up_after": 4}, "give_up_answer is empty"),
        ({"misread": 0.1}, "misread_rate"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_its_file(tmp_path: Path, fault: dict[str, object], message: str):
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump({"kind": "walker", **fault}))
    with pytest.raises(UserError, match=message):
        load_teacher(str(path))


def test_the_label_it_gives_up_with_must_be_one():
    config = WalkerConfig(gives_up_after=4, give_up_rate=0.9, give_up_answer="joy")
    assert check_teacher(config, "t", TASK) == ["teacher t: give_up_answer: 'joy' is not a label of task trails"]
    assert check_teacher(replace(config, give_up_answer="awe"), "t", TASK) == []
    assert check_teacher(WalkerConfig(), "t", TASK) == []


def test_it_is_made_by_its_kind():
    made = make_teachers({"w": WalkerConfig()}, TASK, ROWS, seed=0, concurrency=1)
    assert isinstance(made["w"], WalkerTeacher)
    assert set(ARROWS) == {"right", "left", "down", "up"}
