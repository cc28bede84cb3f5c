"""shapes: drawn pictures of coloured balls, cubes and cones on a floor, with questions of five kinds in one set.

A picture has 4 × 4 fields, numbered from 1 in reading order, and an object on some of them. A lower row is nearer and its objects
are larger. Each picture is asked one question, and the kinds take turns:

| task | is asked | kind of answer |
|---|---|---|
| Count | how many there are of a shape or of a colour | number |
| Colour | which colour the only object of a shape has | text |
| Exists | whether there is a red ball; where not, something else is red and something else a ball | yes_no |
| Relation | whether an object is left or right of another, or above or below it | letter |
| Closer | which of two objects is nearer to the viewer | letter |

Answers take turns too, so that within a task none is more often right than another. The true reasoning of a row, its trace, lists
the objects in reading order until the answer is known, each as its row, its column, what it is, and what that means for the
question: how many have been counted, whether it is what is looked for, or which of two objects it is::

    1 2 red ball 1 2 3 blue cube 1 3 3 green ball 2

Of two objects it then writes their columns, or their rows, and what follows: "1 2 red ball first 2 3 blue cube second 2 3 left".

`kinds` asks some of the five alone. The number of objects that are listed is the group `listed`, which tables are split by. Every
row has one right answer, which the picture shows. Everything follows from `seed`.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import TaskOption, check_options, ends, some_of, true_or_false, whole_from
from pipeline.data.questions.prompting import asked_by_kind, lettered
from pipeline.data.task import Task
from pipeline.files import digest
from pipeline.scoring.kinds import chance, judge_kind
from pipeline.scoring.multiple_choice import letters
from pipeline.system.locks import exclusive
from pipeline.types import Question, Split

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Part of the cache key: raise it when the drawing or the questions change."""
COLOURS = {"red": (215, 50, 45), "green": (60, 160, 70), "blue": (60, 90, 200), "yellow": (240, 205, 50)}
SHAPES = {"ball": "balls", "cube": "cubes", "cone": "cones"}
"""The shapes and their plurals."""
SIDE = 4
"""Fields a side."""
FIELD = 16
"""Pixels of a field's side."""
TASKS = {"Count": "number", "Colour": "text", "Exists": "yes_no", "Relation": "letter", "Closer": "letter"}
"""What is asked, and the kind of its answer."""
MOST_COUNTED = 5
FEWEST, MOST = 2, 10
SPLITS = ("train", "val", "test")
OPTIONS = {
    "seed": TaskOption(0, "what everything follows from"),
    "kinds": TaskOption(
        list(TASKS), f"what is asked, of {', '.join(TASKS)}, in turns", check=some_of(tuple(TASKS), fewest=1)
    ),
    "train": TaskOption(6000, "rows", check=whole_from(0)),
    "val": TaskOption(200, "rows", check=whole_from(0)),
    "test": TaskOption(800, "rows", check=whole_from(0)),
    "mirror": TaskOption(
        False,
        "whether each picture of train is also shown in a mirror, with the answer that it then has",
        check=true_or_false,
    ),
    "objects": TaskOption(
        [2, 8],
        f"the fewest and the most objects of a picture, from {FEWEST} to {MOST}",
        check=ends("the fewest and the most objects", FEWEST, MOST),
    ),
}


@dataclass(frozen=True)
class Thing:
    """An object: its field, from 1 in reading order, its colour and its shape."""

    field: int
    colour: str
    shape: str

    @property
    def column(self) -> int:
        """Counted from 1 at the left."""
        return (self.field - 1) % SIDE + 1

    @property
    def row(self) -> int:
        """Counted from 1 at the top, which is farthest away."""
        return (self.field - 1) // SIDE + 1

    @property
    def words(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Asks:
    """What a row asks.

    Args:
        task: of `TASKS`.
        target: what is looked for: a shape, a colour, or colour and shape; of Relation and Closer the first object.
        other: of Relation and Closer the second object.
        options: of Relation the two sides; of Closer the two objects.
    """

    task: str
    target: str
    other: str = ""
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The question, with its options."""
        if self.task == "Count":
            said = f"How many {SHAPES.get(self.target, f'{self.target} objects')} are there?"
        elif self.task == "Colour":
            said = f"Which colour is the {self.target}?"
        elif self.task == "Exists":
            said = f"Is there a {self.target}?"
        elif self.task == "Relation":
            said = f"Where is the {self.target} relative to the {self.other}?"
        else:
            said = "Which object is closer to you?"
        return f"{said}\n{lettered(self.options)}" if self.options else said


def load(config: TaskConfig, cache: Path) -> Task:
    """Prepare the set, whose pictures are drawn under `cache`, once per option set, when a split is first read.

    Raises:
        UserError: on an unknown option, or a value that cannot be drawn.
    """
    options = check_options(config, OPTIONS)
    root = cache / f"drawn-{digest([VERSION, options])[:12]}"

    def read(split: str) -> Split:
        with exclusive(root):
            if not root.exists():
                _write(root, options)
        rows = (row(split, number, options, root, mirror) for number, mirror in _shown(split, options))
        return Split(tuple(rows))

    def listed(split: str) -> Counter[str]:
        kinds = options["kinds"]
        return Counter(kinds[number % len(kinds)] for number, _ in _shown(split, options))

    return Task("shapes", SPLITS, read, prompt=asked_by_kind, judge=judge_kind, chance=chance, listed=listed)


def _write(root: Path, options: Mapping[str, Any]) -> None:
    """Draw all pictures; `root` appears only when it is whole."""
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in SPLITS:
        (partial / split).mkdir(parents=True)
        for number, mirror in _shown(split, options):
            things, _, boxes, rng = _sampled(split, number, options)
            picture = draw(things, boxes, rng)
            (_turned(picture) if mirror else picture).save(_picture(partial, split, number, mirror))
    partial.replace(root)


def _shown(split: str, options: Mapping[str, Any]) -> Iterator[tuple[int, bool]]:
    """(number, whether in a mirror) of each row of a split."""
    for number in range(options[split]):
        yield number, False
        if split == "train" and options["mirror"]:
            yield number, True


def _turned(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(picture)


def _picture(root: Path, split: str, number: int, mirror: bool) -> Path:
    return root / split / f"{number:05d}{'-mirror' if mirror else ''}.png"


# ---- rows


def row(split: str, number: int, options: Mapping[str, Any], root: Path, mirror: bool = False) -> Question:
    """Return one row of a split; it follows from the options' seed and range of objects alone.

    Args:
        split, number: which row.
        options: of the task.
        root: where its picture is drawn.
        mirror: whether the picture is shown in a mirror.
    """
    things, asks, boxes, _ = _sampled(split, number, options)
    name, picture = f"{split}-{number:05d}", _picture(root, split, number, mirror)
    if not mirror:
        return ask(name, things, boxes, asks, picture)
    pairs = sorted(zip(map(_mirrored, things), boxes, strict=True), key=lambda pair: pair[0].field)
    width = SIDE * FIELD
    turned = [(width - right, top, width - left, bottom) for _, (left, top, right, bottom) in pairs]
    copy = ask(f"{name}-mirror", [one for one, _ in pairs], turned, asks, picture)
    # So that a slice takes a picture with its mirror image.
    return dataclasses.replace(copy, cluster=name, pair=name)


def _sampled(split: str, number: int, options: Mapping[str, Any]) -> tuple[list[Thing], Asks, list[Any], random.Random]:
    rng = random.Random(f"{options['seed']}-{split}-{number}")
    things, asks = sample(rng, number, options["kinds"], *options["objects"])
    return things, asks, boxes(things, rng), rng


def ask(id: str, things: Sequence[Thing], boxes: Sequence[Sequence[float]], asks: Asks, image: Path) -> Question:
    """Return the question about these objects, with its answer and its true reasoning."""
    words, answer, listed = reason(things, asks)
    return Question(
        id=id,
        images=(image,),
        text=asks.text,
        options=asks.options,
        answer=answer,
        kind=TASKS[asks.task],
        groups={"task": asks.task, "listed": str(listed)},
        cluster=id,
        pair=id,
        attributes={
            "objects": [[one.field, one.colour, one.shape] for one in things],
            # As annotated sets name what a picture shows: who describes pictures by that key describes these.
            "object": list(dict.fromkeys(one.words for one in things)),
            "boxes": [list(box) for box in boxes],
            "asks": dataclasses.asdict(asks),
        },
        trace=" ".join(words),
    )


def things_of(objects: Sequence[Sequence[Any]]) -> list[Thing]:
    """Return the objects an annotation holds as [field, colour, shape]."""
    return [Thing(int(field), str(colour), str(shape)) for field, colour, shape in objects]


def _mirrored(one: Thing) -> Thing:
    return dataclasses.replace(one, field=one.field + SIDE + 1 - 2 * one.column)


def reason(things: Sequence[Thing], asks: Asks, looks_at: int | None = None) -> tuple[list[str], str, int]:
    """Return the words of a reasoning, the answer it comes to, and how many objects it lists.

    Args:
        things: what is seen, in reading order.
        asks: the question.
        looks_at: objects after which it stops looking and answers from what it has seen; None to look at all that are needed.
    """
    words: list[str] = []
    seen: list[Thing] = []
    for one in things[:looks_at]:
        seen.append(one)
        words += [str(one.row), str(one.column), one.colour, one.shape, _mark(one, seen, asks)]
        if words[-1] == "yes":
            return words, "yes" if asks.task == "Exists" else one.colour, len(seen)
        if asks.other and {asks.target, asks.other} <= {each.words for each in seen}:
            where, told = _compared(seen, asks)
            return [*words, *where, *told.split()], letters(len(asks.options))[asks.options.index(told)], len(seen)
    if asks.task == "Count":
        answer = words[-1]
    elif asks.task == "Exists":
        answer = "no"
    else:
        # What was looked for has not been seen, so this is a guess.
        answer = letters(len(asks.options))[0] if asks.options else seen[-1].colour
    return words, answer, len(seen)


def _mark(one: Thing, seen: Sequence[Thing], asks: Asks) -> str:
    """What the last object seen means for the question."""
    if asks.task == "Count":
        return str(sum(asks.target in (each.colour, each.shape) for each in seen))
    if asks.other:
        return {asks.target: "first", asks.other: "second"}.get(one.words, "no")
    return "yes" if asks.target in (one.shape, one.words) else "no"


def _compared(seen: Sequence[Thing], asks: Asks) -> tuple[list[str], str]:
    """The two objects' columns or rows, whichever decide, and the option that is true."""
    first, second = (next(one for one in seen if one.words == name) for name in (asks.target, asks.other))
    sideways = "left" in asks.options
    places = (first.column, second.column) if sideways else (first.row, second.row)
    if asks.task == "Closer":
        told = first.words if first.row > second.row else second.words
    elif sideways:
        told = "left" if first.column < second.column else "right"
    else:
        told = "above" if first.row < second.row else "below"
    return list(map(str, places)), told


# ---- drawing lots


def sample(rng: random.Random, number: int, kinds: Sequence[str], fewest: int, most: int) -> tuple[list[Thing], Asks]:
    """Draw the objects of a picture and what is asked of it, until all the rules hold.

    Args:
        rng: the row's.
        number: of the row in its split: tasks and answers take turns by it.
        kinds: tasks that take turns.
        fewest, most: objects.
    """
    task, turn = kinds[number % len(kinds)], number // len(kinds)
    while True:
        objects = _objects(rng, rng.randint(fewest, most))
        asks = _asked(rng, task, turn, objects, most)
        if asks is not None:
            return objects, asks


def _objects(rng: random.Random, count: int) -> list[Thing]:
    fields = sorted(rng.sample(range(1, SIDE * SIDE + 1), count))
    return [Thing(field, rng.choice(list(COLOURS)), rng.choice(list(SHAPES))) for field in fields]


def _asked(rng: random.Random, task: str, turn: int, things: Sequence[Thing], most: int) -> Asks | None:
    """What is asked of these objects so that the answer is the one whose turn it is; None where they have no such question."""
    if task == "Count":
        right = turn % (min(MOST_COUNTED, most) + 1)
        found = [
            word for word in (*COLOURS, *SHAPES) if sum(word in (one.colour, one.shape) for one in things) == right
        ]
        return Asks(task, rng.choice(found)) if found else None
    if task == "Colour":
        colour = list(COLOURS)[turn % len(COLOURS)]
        only = [shape for shape in SHAPES if [one.colour for one in things if one.shape == shape] == [colour]]
        return Asks(task, rng.choice(only)) if only else None
    seen = [one.words for one in things]
    if task == "Exists":
        if turn % 2 == 0:
            return Asks(task, rng.choice(seen))
        # Something has the colour and something the shape, so that both have to be seen at one object.
        lures = sorted({f"{one.colour} {other.shape}" for one in things for other in things} - set(seen))
        return Asks(task, rng.choice(lures)) if lures else None
    return _asked_of_two(rng, task, turn, [one for one in things if seen.count(one.words) == 1])


def _asked_of_two(rng: random.Random, task: str, turn: int, single: Sequence[Thing]) -> Asks | None:
    if len(single) < 2:
        return None
    first, second = rng.sample(list(single), 2)
    letter = turn % 2
    if task == "Closer":
        if first.row == second.row:
            return None
        nearer, farther = sorted((first, second), key=lambda one: -one.row)
        options = (nearer.words, farther.words) if letter == 0 else (farther.words, nearer.words)
        return Asks(task, *options, options)
    # Turns 0 to 7: all four sides, each at both letters.
    side = ("left", "right", "above", "below")[turn // 2 % 4]
    axis = "column" if side in ("left", "right") else "row"
    if getattr(first, axis) == getattr(second, axis):
        return None
    if (getattr(first, axis) < getattr(second, axis)) != (side in ("left", "above")):
        first, second = second, first
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[side]
    return Asks(task, first.words, second.words, (side, opposite) if letter == 0 else (opposite, side))


# ---- drawing


def place(one: Thing) -> tuple[float, float, float]:
    """Return where an object stands, in metres from the viewer: to the right, down and away. Rows are 1 m apart."""
    away = float(SIDE + 1 - one.row)
    # As wide as the picture is at that distance, with a focal length of one picture's width.
    return (one.column - (SIDE + 1) / 2) / SIDE * away, 1.0, away


def boxes(things: Sequence[Thing], rng: random.Random) -> list[tuple[float, float, float, float]]:
    """Return where the objects are drawn, in pixels: 8 wide at the top, 14 in front, a little off the middle of their fields."""
    found = []
    for one in things:
        reach = 3.0 + one.row
        room = FIELD / 2 - reach - 0.5
        x, y = ((at - 0.5) * FIELD + rng.uniform(-room, room) for at in (one.column, one.row))
        found.append((x - reach, y - reach, x + reach, y + reach))
    return found


def draw(things: Sequence[Thing], boxes: Sequence[Sequence[float]], rng: random.Random) -> Image:
    """Return the picture: RGB, `FIELD` pixels a field, every object in its box and a little off its colour."""
    from PIL import Image, ImageDraw

    # Twice as large, so that scaling down smooths the edges.
    unit = 2 * FIELD
    image = Image.new("RGB", (SIDE * unit, SIDE * unit))
    pen = ImageDraw.Draw(image)

    def jitter(colour: tuple[int, int, int], by: int) -> tuple[int, int, int]:
        red, green, blue = (max(0, min(255, channel + rng.randint(-by, by))) for channel in colour)
        return red, green, blue

    for line in range(SIDE):
        # The floor is lighter in front.
        grey = 105 + 14 * line
        pen.rectangle((0, line * unit, SIDE * unit, (line + 1) * unit), fill=jitter((grey, grey, grey), 6))
    for one, box in zip(things, boxes, strict=True):
        left, top, right, bottom = corners = tuple(2 * edge for edge in box)
        fill = jitter(COLOURS[one.colour], 14)
        # The rims are a cue that a student from scratch can read within a few hundred steps; outlines alone take it thousands.
        if one.shape == "ball":
            pen.ellipse(corners, fill=fill)
        elif one.shape == "cube":
            pen.rectangle(corners, fill=fill, outline=(245, 245, 245), width=3)
        else:
            points = [((left + right) / 2, top), (right, bottom), (left, bottom)]
            pen.polygon(points, fill=fill, outline=(15, 15, 20), width=3)
    return image.resize((SIDE * FIELD, SIDE * FIELD), Image.Resampling.BOX)
