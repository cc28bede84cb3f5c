"""trails: drawn boards of arrows that nobody reads in one glance, in EmoSet's layout and read by the `emoset` task.

A board has 5 × 5 fields: the eight emotions as coloured faces, each once, and 17 arrows. From the ringed field in the middle
one follows the arrows; the label is the emotion of the face that is reached. Where that is depends on every arrow of the walk,
so a reader who writes the walk down has one arrow to read at a time, and one who answers at once has all of them. Fields are
numbered from 1 in reading order, and the true reasoning of a row, its trace, names each field and what is on it::

    13 up 8 left 7 down 12 fear

Labels and lengths of walks are balanced in every split. A walk enters no field twice, and every face has an arrow that points
at it, so that neither a face nor its neighbours say where the walk ends. The rule decides every row: a reader can be right on
all. The length of the walk is the group `walk`, which tables are split by. Everything follows from `seed`; the pictures and the
rule are ours, the layout is EmoSet's.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import TaskOption, check_options, ends, whole_from
from pipeline.data.task import Task
from pipeline.types import Question, Split

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Part of the cache key: raise it when the drawing changes."""
FACES = {
    "amusement": (250, 215, 60),
    "awe": (110, 190, 250),
    "contentment": (120, 205, 110),
    "excitement": (250, 145, 40),
    "anger": (215, 50, 45),
    "disgust": (110, 120, 40),
    "fear": (140, 80, 175),
    "sadness": (60, 90, 170),
}
"""The labels, in EmoSet's order, and the colours of their faces; the first four smile."""
EMOTIONS = tuple(FACES)
ARROWS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
SIDE = 5
"""Fields a side."""
FIELD = 16
"""Pixels of a field's side."""
START = (SIDE // 2, SIDE // 2)
RING = (250, 60, 200)
LONGEST = 10
"""With more arrows on the walk, the others are fewer than the faces they must point at."""
SPLITS = ("train", "val", "test")
QUESTION = "Which face do the arrows lead to from the ring?"
OPTIONS = {
    "seed": TaskOption(0, "what everything follows from"),
    "train": TaskOption(6000, "rows", check=whole_from(0)),
    "val": TaskOption(200, "rows", check=whole_from(0)),
    "test": TaskOption(800, "rows", check=whole_from(0)),
    "walk": TaskOption(
        [1, 8],
        f"the shortest and the longest walk, at most {LONGEST}",
        check=ends("the shortest and the longest walk", 1, LONGEST),
    ),
}

Place = tuple[int, int]
Board = dict[Place, str]
"""What is on each field (column, row): an arrow's direction or an emotion."""


def load(config: TaskConfig, cache: Path) -> Task:
    """Prepare the set, which is drawn under `cache`, once per option set, when a split is first read.

    Raises:
        UserError: on an unknown option, or a value that cannot be drawn.
    """
    from pipeline.tasks import emoset

    options = check_options(config, OPTIONS)

    def drawn(split: str) -> Iterator[tuple[dict[str, Any], Image]]:
        shortest, longest = options["walk"]
        lengths = range(shortest, longest + 1)
        for number in range(options[split]):
            emotion, length = EMOTIONS[number % 8], lengths[number // 8 % len(lengths)]
            rng = random.Random(f"{options['seed']}-{split}-{number}")
            board = sample(rng, emotion, length)
            fields = [[board[x, y] for x in range(SIDE)] for y in range(SIDE)]
            image_id = f"{emotion}_{split}_{number:05d}"
            yield {"image_id": image_id, "emotion": emotion, "walk": length, "board": fields}, draw(board, rng)

    def listed(split: str) -> Counter[str]:
        return Counter(EMOTIONS[number % 8] for number in range(options[split]))

    task = emoset.drawn_task(
        config,
        cache,
        name="trails",
        question=QUESTION,
        version=VERSION,
        options=options,
        draw=drawn,
        # A ring of a pixel and a half would lose its colour where chroma is subsampled.
        jpeg={"quality": 95, "subsampling": 0},
        listed=listed,
        attributes=("board",),
    )

    def read(split: str) -> Split:
        found = task.read(split)
        return dataclasses.replace(found, rows=tuple(map(_with_trace, found.rows)))

    return dataclasses.replace(task, read=read)


def _with_trace(example: Question) -> Question:
    """A row with the group it is in and its true reasoning, both from its board."""
    words = follow(board_of(example.attributes["board"]))
    return dataclasses.replace(example, groups={"walk": str(len(words) // 2 - 1)}, trace=" ".join(words))


def board_of(rows: Sequence[Sequence[str]]) -> Board:
    """Return the board an annotation holds as rows of words."""
    return {(x, y): word for y, row in enumerate(rows) for x, word in enumerate(row)}


def step(place: Place, direction: str) -> Place:
    """Return the field an arrow points at."""
    dx, dy = ARROWS[direction]
    return place[0] + dx, place[1] + dy


def number_of(place: Place) -> str:
    """Return a field's number, from 1 in reading order, as a reasoning writes it."""
    return str(place[1] * SIDE + place[0] + 1)


def follow(board: Board) -> list[str]:
    """Return the true reasoning: field, arrow, field, arrow, …, field, face."""
    place, words = START, [number_of(START)]
    while board[place] in ARROWS:
        words.append(board[place])
        place = step(place, board[place])
        words.append(number_of(place))
    return [*words, board[place]]


def directions(place: Place) -> list[str]:
    """Return the arrows that do not point off the board."""
    return [name for name in ARROWS if all(0 <= part < SIDE for part in step(place, name))]


def sample(rng: random.Random, emotion: str, length: int) -> Board:
    """Draw a board whose walk of `length` arrows ends at `emotion`, until all the rules hold."""
    while True:
        path = _path(rng, length)
        if path and (rest := _rest(rng, path, [name for name in EMOTIONS if name != emotion])):
            arrows = {
                place: next(name for name in ARROWS if step(place, name) == after) for place, after in pairwise(path)
            }
            return {**rest, **arrows, path[-1]: emotion}


def _path(rng: random.Random, length: int) -> list[Place]:
    """A walk from the start that enters no field twice; empty where it ran into a corner."""
    path = [START]
    while len(path) <= length:
        free = [place for name in directions(path[-1]) if (place := step(path[-1], name)) not in path]
        if not free:
            return []
        path.append(rng.choice(free))
    return path


def _rest(rng: random.Random, path: Sequence[Place], faces: list[str]) -> Board:
    """The fields off the walk: a face each for `faces`, with an arrow that points at it, and arrows; empty where that fails."""
    free = [(x, y) for y in range(SIDE) for x in range(SIDE) if (x, y) not in path]
    rng.shuffle(free)
    rng.shuffle(faces)
    board = dict(zip(free, faces, strict=False))
    left = set(free[len(faces) :])
    for face in list(board):
        feeders = sorted(place for name in directions(face) if (place := step(face, name)) in left)
        if not feeders:
            return {}
        feeder = rng.choice(feeders)
        left.remove(feeder)
        board[feeder] = next(name for name in ARROWS if step(feeder, name) == face)
    return board | {place: rng.choice(directions(place)) for place in sorted(left)}


def draw(board: Board, rng: random.Random) -> Image:
    """Return the picture of a board: RGB, `FIELD` pixels a field, everything a little off its place and colour."""
    from PIL import Image, ImageDraw

    # Twice as large, so that scaling down smooths the edges.
    unit = 2 * FIELD
    image = Image.new("RGB", (SIDE * unit, SIDE * unit))
    pen = ImageDraw.Draw(image)

    def jitter(colour: tuple[int, int, int]) -> tuple[int, int, int]:
        red, green, blue = (max(0, min(255, channel + rng.randint(-12, 12))) for channel in colour)
        return red, green, blue

    for (x, y), word in sorted(board.items()):
        left, top = x * unit, y * unit
        box = (left, top, left + unit - 1, top + unit - 1)
        pen.rectangle(box, fill=jitter((128, 128, 128)), outline=(112, 112, 112))
        if (x, y) == START:
            pen.rectangle((left + 1, top + 1, left + unit - 2, top + unit - 2), outline=RING, width=3)
        middle = left + unit / 2 + rng.uniform(-1.4, 1.4), top + unit / 2 + rng.uniform(-1.4, 1.4)
        if word in ARROWS:
            _arrow(pen, middle, ARROWS[word], unit * 0.36, jitter((240, 240, 235)))
        else:
            _face(pen, middle, unit * 0.4, jitter(FACES[word]), smiles=EMOTIONS.index(word) < 4)
    return image.resize((SIDE * FIELD, SIDE * FIELD), Image.Resampling.BOX)


def _arrow(pen: Any, middle: tuple[float, float], way: Place, reach: float, ink: tuple[int, int, int]) -> None:
    (x, y), (dx, dy) = middle, way
    pen.line((x - dx * reach, y - dy * reach, x + dx * reach * 0.3, y + dy * reach * 0.3), fill=ink, width=5)
    side = reach * 0.75
    tip = (x + dx * reach, y + dy * reach)
    pen.polygon([tip, (x - dy * side, y + dx * side), (x + dy * side, y - dx * side)], fill=ink)


def _face(pen: Any, middle: tuple[float, float], size: float, colour: tuple[int, int, int], smiles: bool) -> None:
    x, y = middle
    ink = (20, 20, 30)
    pen.ellipse((x - size, y - size, x + size, y + size), fill=colour, outline=(40, 40, 40))
    for side in (-1, 1):
        eye = x + side * size * 0.4, y - size * 0.4
        pen.ellipse((eye[0] - size * 0.15, eye[1] - size * 0.15, eye[0] + size * 0.15, eye[1] + size * 0.15), fill=ink)
    top, bottom, begin, end = (-0.2, 0.65, 10, 170) if smiles else (0.15, 0.95, 190, 350)
    pen.arc((x - size * 0.55, y + size * top, x + size * 0.55, y + size * bottom), begin, end, fill=ink, width=2)
