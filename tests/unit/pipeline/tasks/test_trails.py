"""The boards of `trails`: the arrows lead where the label says, in the annotation and in the pixels, and nothing else tells."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.tasks.emoset import EMOTIONS
from pipeline.tasks.trails import ARROWS, FACES, FIELD, SIDE, START, Board, board_of, follow, sample, step
from pipeline.types import Question

ROWS = {"train": 128, "val": 16, "test": 64}


def trails(cache: Path, **options: object) -> Task:
    return load_task(TaskConfig(name="trails", options={**ROWS, **options}), cache)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return trails(tmp_path_factory.mktemp("trails"))


@pytest.fixture(scope="module")
def rows(task: Task) -> list[Question]:
    return [row for split in ROWS for row in task.read(split).rows]


def boards() -> list[tuple[str, int, Board]]:
    return [
        (emotion, length, sample(random.Random(f"{emotion}{length}"), emotion, length))
        for emotion in EMOTIONS
        for length in range(1, 11)
    ]


def seen_in(picture: Path) -> Board:
    """A board as its pixels show it: the colour in the middle tells a face, the broad end of what is light an arrow."""
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=float)
    board: Board = {}
    for y in range(SIDE):
        for x in range(SIDE):
            field = pixels[y * FIELD : (y + 1) * FIELD, x * FIELD : (x + 1) * FIELD]
            light = field.min(axis=2) > 190
            if light.sum() > 15:
                down, right = (np.argwhere(light) - np.argwhere(light).mean(axis=0)).T
                skew = {"right": (right**3).sum(), "down": (down**3).sum()}
                way = max(skew, key=lambda name: abs(skew[name]))
                # The head is broad and near the middle of the mass, so the thin end is the longer tail.
                opposite = {"right": "left", "down": "up"}
                board[x, y] = opposite[way] if skew[way] > 0 else way
            else:
                middle = np.median(field[4:-4, 4:-4].reshape(-1, 3), axis=0)
                board[x, y] = min(FACES, key=lambda name: np.abs(middle - FACES[name]).sum())
    return board


def test_the_arrows_of_the_annotation_lead_to_the_label(task: Task, rows: list[Question]) -> None:
    assert len(rows) == sum(ROWS.values())
    for row in rows:
        words = follow(board_of(row.attributes["board"]))
        assert words[-1] == row.gold
        assert row.trace == " ".join(words)
        assert row.groups == {"walk": str((len(words) - 2) // 2)}


def test_the_arrows_of_the_pixels_lead_there_too(rows: list[Question]) -> None:
    for row in rows:
        board = seen_in(row.images[0])
        assert board == board_of(row.attributes["board"])
        assert follow(board)[-1] == row.gold


def test_the_ring_is_around_the_field_in_the_middle_alone(rows: list[Question]) -> None:
    for row in rows[:40]:
        red, green, blue = np.asarray(Image.open(row.images[0]).convert("RGB"), dtype=float).transpose(2, 0, 1)
        # Of a field the pixels beside its edge, where the ring is and no face reaches far.
        edge = np.pad(np.zeros((FIELD - 4, FIELD - 4)), 1, constant_values=1)
        fields = np.pad((red + blue - 2 * green), 0).reshape(SIDE, FIELD, SIDE, FIELD)[:, 1:-1, :, 1:-1]
        pink = (fields * edge[None, :, None, :]).sum(axis=(1, 3)) / edge.sum()
        y, x = divmod(int(pink.argmax()), SIDE)
        assert (x, y) == START
        assert pink[y, x] > 2 * np.partition(pink.ravel(), -2)[-2]


def test_a_walk_enters_no_field_twice_and_every_face_is_pointed_at() -> None:
    for emotion, length, board in boards():
        words = follow(board)
        assert (words[-1], len(words)) == (emotion, 2 * length + 2)
        fields = words[::2]
        assert len(set(fields)) == len(fields)
        assert sorted(word for word in board.values() if word in FACES) == sorted(EMOTIONS)
        targets = {step(place, word) for place, word in board.items() if word in ARROWS}
        assert targets <= set(board), "an arrow points off the board"
        assert {place for place, word in board.items() if word in FACES} <= targets


def test_labels_and_lengths_are_balanced_in_every_split(task: Task) -> None:
    for split, count in ROWS.items():
        found = task.read(split).rows
        assert set(Counter(row.gold for row in found).values()) == {count // 8}
    test = task.read("test").rows
    assert Counter((row.gold, row.groups["walk"]) for row in test) == {
        (emotion, str(length)): 1 for emotion in EMOTIONS for length in range(1, 9)
    }


def test_no_board_is_drawn_twice(rows: list[Question]) -> None:
    assert len({json.dumps(row.attributes["board"]) for row in rows}) == len(rows)
    assert len({row.id for row in rows}) == len(rows)


def test_faces_and_the_other_arrows_are_no_cue() -> None:
    """The face that is reached lies as far from the ring, and has as many arrows at it, as the length of its walk allows;
    guessing the nearest face, or the one with most arrows at it, stays far from right."""
    right = Counter[str]()
    drawn = [
        (emotion, sample(random.Random(n), emotion, n % 8 + 1)) for n in range(800) for emotion in [EMOTIONS[n % 5]]
    ]
    for emotion, board in drawn:
        faces = {word: place for place, word in board.items() if word in FACES}
        near = min(faces, key=lambda word: sum(abs(a - b) for a, b in zip(faces[word], START, strict=True)))
        into = Counter(step(place, word) for place, word in board.items() if word in ARROWS)
        most = max(faces, key=lambda word: into[faces[word]])
        right.update({"near": near == emotion, "most": most == emotion})
    assert right["near"] < 0.45 * len(drawn)
    assert right["most"] < 0.3 * len(drawn)


def test_the_same_options_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    few = {"train": 4, "val": 2, "test": 2}
    files = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trails(tmp_path / name, **few, seed=seed).read("train")
        files[name] = {
            path.name: path.read_bytes() for path in (tmp_path / name).glob("trails-*/drawn-*/**/*") if path.is_file()
        }
    assert files["a"] == files["b"]
    assert files["a"].keys() == files["c"].keys()
    assert all(files["a"][name] != data for name, data in files["c"].items() if name.endswith(".jpg"))


def test_more_rows_leave_those_there_were_as_they_are(tmp_path: Path) -> None:
    few = trails(tmp_path, train=3, val=2, test=2).read("test").rows
    more = trails(tmp_path, train=9, val=2, test=5).read("test").rows
    assert [row.attributes for row in few] == [row.attributes for row in more[:2]]


def test_longer_walks_than_those_trained_on_can_be_asked_for(tmp_path: Path) -> None:
    found = trails(tmp_path, train=1, val=1, test=32, walk=[9, 10]).read("test").rows
    assert Counter(row.groups["walk"] for row in found) == {"9": 16, "10": 16}


@pytest.mark.parametrize("walk", [[0, 8], [8, 1], [1, 11], [1], 4, ["1", "8"], [1.0, 8], [True, 8], None])
def test_walks_that_the_board_cannot_hold_are_refused(tmp_path: Path, walk: object) -> None:
    with pytest.raises(UserError, match=r"task\.options\.walk"):
        trails(tmp_path, walk=walk)


def test_an_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="walk"):
        trails(tmp_path, walks=[1, 8])


def test_the_lab_splits_its_tables_by_the_walk_too(task: Task) -> None:
    question = task.select("test[:1]").rows[0]
    assert set(task.groups_of(question)) == {"label", "walk"}
    assert question.trace.startswith("13 ")


def test_the_rows_of_a_split_are_told_before_anything_is_drawn(tmp_path: Path) -> None:
    told = trails(tmp_path, train=11)
    assert told.listed
    counts = {split: told.listed(split) for split in told.splits}
    assert not list(tmp_path.rglob("*.jpg"))
    assert counts == {split: Counter(row.gold for row in told.read(split).rows) for split in told.splits}


@pytest.mark.parametrize("rows", [-1, 1.5, "6", True, None])
def test_rows_that_are_no_number_are_refused(tmp_path: Path, rows: object) -> None:
    with pytest.raises(UserError, match=r"task\.options\.val: .* whole number from 0"):
        trails(tmp_path, val=rows)
