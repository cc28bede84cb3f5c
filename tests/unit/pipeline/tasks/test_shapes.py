"""The pictures and questions of `shapes`: what the pixels show is what a row says, and nothing else tells the answer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.tasks.shapes import COLOURS, FIELD, SIDE, TASKS, Asks, Thing, ask, reason
from pipeline.types import Question

ROWS = {"train": 200, "val": 20, "test": 60}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load_task(TaskConfig("shapes", options=dict(ROWS)), tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def rows(task: Task) -> list[Question]:
    return [row for split in ROWS for row in task.read(split).rows]


def seen_in(picture: Path) -> list[tuple[int, int, str, str]]:
    """(column, row, colour, shape) of the objects that the pixels show, in reading order; rows and columns from 0."""
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=float)
    found = []
    for row in range(SIDE):
        for column in range(SIDE):
            field = pixels[row * FIELD : (row + 1) * FIELD, column * FIELD : (column + 1) * FIELD]
            vivid = (field.max(axis=2) - field.min(axis=2)) > 60
            if vivid.sum() < 4:
                continue
            ink = np.median(field[vivid], axis=0)
            colour = min(COLOURS, key=lambda name: float(np.abs(ink - COLOURS[name]).sum()))
            # A cube has a white rim and a cone a black one.
            white, black = (field.min(axis=2) > 200).sum(), (field.max(axis=2) < 75).sum()
            shape = "cube" if white > 8 else "cone" if black > 8 else "ball"
            if shape == "cone":
                # It is narrow above.
                down, _ = np.nonzero(vivid)
                middle = (down.min() + down.max()) / 2
                assert (down < middle).sum() < 0.7 * (down > middle).sum()
            found.append((column, row, colour, shape))
    return found


def answered(row: Question, seen: list[tuple[int, int, str, str]]) -> str:
    """The answer to a row's question, from the words of the question and the picture alone."""
    first = row.text.partition("\n")[0]
    options = dict(re.findall(r"^\((\w)\) (.*)$", row.text, re.MULTILINE))
    if match := re.fullmatch(r"How many (\w+?)s? are there\?", first):
        return str(sum(shape == match[1] for *_, shape in seen))
    if match := re.fullmatch(r"How many (\w+) objects are there\?", first):
        return str(sum(colour == match[1] for _, _, colour, _ in seen))
    if match := re.fullmatch(r"Which colour is the (\w+)\?", first):
        (colour,) = [colour for _, _, colour, shape in seen if shape == match[1]]
        return colour
    if match := re.fullmatch(r"Is there a (\w+) (\w+)\?", first):
        return "yes" if any((colour, shape) == match.groups() for _, _, colour, shape in seen) else "no"
    where = {f"{colour} {shape}": (column, row) for column, row, colour, shape in seen}
    if match := re.fullmatch(r"Where is the (\w+ \w+) relative to the (\w+ \w+)\?", first):
        (x, y), (other_x, other_y) = where[match[1]], where[match[2]]
        true = {"left": x < other_x, "right": x > other_x, "above": y < other_y, "below": y > other_y}
        (letter,) = [letter for letter, side in options.items() if true[side]]
        return letter
    assert first == "Which object is closer to you?"
    return max(options, key=lambda letter: where[options[letter]][1])


def test_every_answer_is_what_the_pixels_show(rows: list[Question]) -> None:
    assert len(rows) == 280
    for row in rows:
        seen = seen_in(row.images[0])
        told = [
            ((field - 1) % SIDE, (field - 1) // SIDE, colour, shape)
            for field, colour, shape in row.attributes["objects"]
        ]
        assert seen == told
        assert answered(row, seen) == row.answer


def test_an_object_lies_in_its_box_and_in_its_field(rows: list[Question]) -> None:
    for row in rows[:60]:
        pixels = np.asarray(Image.open(row.images[0]).convert("RGB"), dtype=float)
        vivid = (
            ((pixels.max(axis=2) - pixels.min(axis=2)) > 60) | (pixels.min(axis=2) > 200) | (pixels.max(axis=2) < 75)
        )
        for (field, _, _), (left, top, right, bottom) in zip(
            row.attributes["objects"], row.attributes["boxes"], strict=True
        ):
            x, y = (field - 1) % SIDE * FIELD, (field - 1) // SIDE * FIELD
            assert x <= left < right <= x + FIELD
            assert y <= top < bottom <= y + FIELD
            # Lower rows are nearer, and larger.
            assert right - left == pytest.approx(8 + 2 * ((field - 1) // SIDE))
            down, across = np.nonzero(vivid[y : y + FIELD, x : x + FIELD])
            assert abs(across.min() + x - left) < 2.5
            assert abs(across.max() + x + 1 - right) < 2.5
            assert abs(down.max() + y + 1 - bottom) < 2.5


def test_tasks_and_answers_take_turns(task: Task) -> None:
    found = task.read("train").rows
    told: dict[str, Counter[str]] = {}
    for row in found:
        told.setdefault(row.groups["task"], Counter())[str(row.answer)] += 1
    assert {name: sum(answers.values()) for name, answers in told.items()} == dict.fromkeys(TASKS, 40)
    assert told["Count"] == {"0": 7, "1": 7, "2": 7, "3": 7, "4": 6, "5": 6}
    assert told["Colour"] == dict.fromkeys(COLOURS, 10)
    assert told["Exists"] == {"yes": 20, "no": 20}
    assert told["Relation"] == told["Closer"] == {"A": 20, "B": 20}
    sides = Counter(row.options["AB".index(str(row.answer))] for row in found if row.groups["task"] == "Relation")
    assert sides == {"left": 10, "right": 10, "above": 10, "below": 10}
    assert {row.kind for row in found} == {"number", "text", "yes_no", "letter"}


def test_kinds_alone_take_turns_with_their_answers(tmp_path: Path) -> None:
    options = {**ROWS, "kinds": ["Closer", "Count"]}
    task = load_task(TaskConfig("shapes", options=options), tmp_path)
    found = task.read("train").rows
    told = {name: [row.answer for row in found if row.groups["task"] == name] for name in TASKS}
    assert {name: len(answers) for name, answers in told.items() if answers} == {"Closer": 100, "Count": 100}
    assert Counter(told["Closer"]) == {"A": 50, "B": 50}
    assert task.listed is not None
    assert task.listed("train") == {"Closer": 100, "Count": 100}
    with pytest.raises(UserError, match=r"options\.kinds: .*names 'Nearer'"):
        load_task(TaskConfig("shapes", options={"kinds": ["Nearer"]}), tmp_path)


def test_where_something_is_missing_its_colour_and_its_shape_are_there(rows: list[Question]) -> None:
    for row in rows:
        if row.groups["task"] == "Exists" and row.answer == "no":
            colour, shape = row.text.removeprefix("Is there a ").rstrip("?").split()
            assert colour in {each for _, each, _ in row.attributes["objects"]}
            assert shape in {each for _, _, each in row.attributes["objects"]}


THINGS = [Thing(2, "red", "ball"), Thing(7, "blue", "cube"), Thing(11, "green", "ball"), Thing(16, "red", "cone")]


@pytest.mark.parametrize(
    ("asks", "words", "answer", "listed"),
    [
        (Asks("Count", "ball"), "1 2 red ball 1 2 3 blue cube 1 3 3 green ball 2 4 4 red cone 2", "2", 4),
        (Asks("Count", "red"), "1 2 red ball 1 2 3 blue cube 1 3 3 green ball 1 4 4 red cone 2", "2", 4),
        (Asks("Count", "yellow"), "1 2 red ball 0 2 3 blue cube 0 3 3 green ball 0 4 4 red cone 0", "0", 4),
        (Asks("Colour", "cube"), "1 2 red ball no 2 3 blue cube yes", "blue", 2),
        (Asks("Exists", "green ball"), "1 2 red ball no 2 3 blue cube no 3 3 green ball yes", "yes", 3),
        (Asks("Exists", "blue ball"), "1 2 red ball no 2 3 blue cube no 3 3 green ball no 4 4 red cone no", "no", 4),
        (
            Asks("Relation", "blue cube", "red ball", ("left", "right")),
            "1 2 red ball second 2 3 blue cube first 3 2 right",
            "B",
            2,
        ),
        (
            Asks("Relation", "red ball", "green ball", ("above", "below")),
            "1 2 red ball first 2 3 blue cube no 3 3 green ball second 1 3 above",
            "A",
            3,
        ),
        (
            Asks("Closer", "red ball", "blue cube", ("red ball", "blue cube")),
            "1 2 red ball first 2 3 blue cube second 1 2 blue cube",
            "B",
            2,
        ),
    ],
)
def test_a_reasoning_by_hand(asks: Asks, words: str, answer: str, listed: int) -> None:
    assert reason(THINGS, asks) == (words.split(), answer, listed)
    row = ask("x", THINGS, [[0, 0, 1, 1]] * 4, asks, Path("x.png"))
    assert (row.trace, row.answer, row.groups) == (words, answer, {"task": asks.task, "listed": str(listed)})


def test_who_stops_looking_answers_from_what_was_seen() -> None:
    two_seen = ["1", "2", "red", "ball", "no", "2", "3", "blue", "cube", "no"]
    assert reason(THINGS, Asks("Count", "ball"), 2) == (
        ["1", "2", "red", "ball", "1", "2", "3", "blue", "cube", "1"],
        "1",
        2,
    )
    assert reason(THINGS, Asks("Exists", "green ball"), 2) == (two_seen, "no", 2)
    assert reason(THINGS, Asks("Colour", "cone"), 2) == (two_seen, "blue", 2)
    two = Asks("Relation", "green ball", "red ball", ("left", "right"))
    assert reason(THINGS, two, 2) == (["1", "2", "red", "ball", "second", "2", "3", "blue", "cube", "no"], "A", 2)


def test_a_mirror_swaps_left_and_right_in_answer_and_reasoning_and_nothing_else(tmp_path: Path) -> None:
    mirror = {**ROWS, "mirror": True}
    task = load_task(TaskConfig("shapes", options=mirror), tmp_path)
    found = {row.id: row for row in task.read("train").rows}
    assert len(found) == 2 * ROWS["train"]
    assert not any(row.id.endswith("mirror") for row in task.read("val").rows)
    swapped = {"left": "right", "right": "left"}
    for row in list(found.values())[::2][:100]:
        copy = found[f"{row.id}-mirror"]
        assert (copy.text, copy.options, copy.kind, copy.cluster) == (row.text, row.options, row.kind, row.id)
        pixels = np.asarray(Image.open(row.images[0]))
        assert np.array_equal(np.asarray(Image.open(copy.images[0])), pixels[:, ::-1])
        # Asked again of the mirrored pixels.
        seen = seen_in(copy.images[0])
        assert answered(copy, seen) == copy.answer
        assert [[SIDE * y + x + 1, colour, shape] for x, y, colour, shape in seen] == copy.attributes["objects"]
        if "left" in row.options:
            said = [one.options["AB".index(str(one.answer))] for one in (row, copy)]
            assert said[1] == swapped[said[0]]
            assert [one.trace.split()[-1] for one in (row, copy)] == said
        else:
            assert copy.answer == row.answer


def test_gold_and_true_reasoning_are_judged_right_and_another_answer_wrong(task: Task, rows: list[Question]) -> None:
    wrong = {"number": "9", "text": "purple", "letter": "C"}
    for row in rows[:25]:
        other = wrong.get(row.kind) or {"yes": "no", "no": "yes"}[str(row.answer)]
        for answer, expected in ((row.answer, True), (other, False)):
            assert task.judge(row, f"<think>{row.trace}</think><answer>{answer}</answer>", "think").correct is expected
            assert task.judge(row, str(answer), "direct").correct is expected


def test_another_seed_draws_other_pictures_and_the_same_seed_the_same(task: Task, tmp_path: Path) -> None:
    first = task.read("val").rows
    again, other = (
        load_task(TaskConfig("shapes", options={**ROWS, "seed": seed}), tmp_path).read("val").rows for seed in (0, 1)
    )
    assert [row.text for row in again] == [row.text for row in first]
    assert [row.images[0].read_bytes() for row in again] == [row.images[0].read_bytes() for row in first]
    assert [row.text for row in other] != [row.text for row in first]
    assert (
        load_task(TaskConfig("shapes", options={**ROWS, "train": 500}), tmp_path).read("val").rows[3].text
        == first[3].text
    )


@pytest.mark.parametrize(
    ("options", "said"), [({"train": -1, "objects": [5]}, 2), ({"objects": [8, 2]}, 1), ({"objects": [2, 11]}, 1)]
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, object], said: int, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig("shapes", options=dict(options)), tmp_path)
    assert len(caught.value.problems) == said
