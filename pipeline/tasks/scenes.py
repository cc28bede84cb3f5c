"""scenes: small drawn pictures in EmoSet's layout, the embedded default; the `emoset` task reads them like the real set.

Each picture shows a person in one of four scenes with one of three facial expressions. The emotion follows from the two
together, never from one alone, so that naming both before answering helps:

| scene    | smiling     | frowning |
|----------|-------------|----------|
| park     | amusement   | sadness  |
| mountain | awe         | fear     |
| room     | contentment | disgust  |
| street   | excitement  | anger    |

In a stated share of the pictures (`ambiguous`, 0.17) the face is neutral and the emotion is a coin toss between the scene's
two, so no reader of the picture can be right more often than ``1 - ambiguous / 2`` (0.915). Objects, arms, light and colour
vary freely and say nothing. Everything follows from `seed`; the pictures and rule are ours, the layout is EmoSet's.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import TaskOption, check_options, share, whole_from
from pipeline.data.task import Task
from pipeline.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Part of the cache key: raise it when the drawing changes."""
RULE = {
    ("park", "smiling"): "amusement",
    ("park", "frowning"): "sadness",
    ("mountain", "smiling"): "awe",
    ("mountain", "frowning"): "fear",
    ("room", "smiling"): "contentment",
    ("room", "frowning"): "disgust",
    ("street", "smiling"): "excitement",
    ("street", "frowning"): "anger",
}
SCENES = ("park", "mountain", "room", "street")
OBJECTS = ("ball", "kite", "lamp", "box")
AROUND = {"ball": (0, 0, 8, 8), "kite": (-1, -2, 9, 11), "lamp": (1, -8, 7, 10), "box": (0, 0, 9, 8)}
"""The box around each object, from the point it is drawn at."""
ACTIONS = ("standing", "waving")
FACES = {"smiling": (250, 215, 90), "frowning": (225, 120, 90), "neutral": (235, 200, 165)}
"""Face colours: a cue that a student from scratch can read within a few hundred steps."""
SPLITS = ("train", "val", "test")
PARTS = ("place", "face", "body", "object")
"""Of a picture: the emotion follows from the first two, the others say nothing."""
OPTIONS = {
    "seed": TaskOption(0, "what everything follows from"),
    "size": TaskOption(64, "pixels a side", check=whole_from(1)),
    "train": TaskOption(6000, "rows", check=whole_from(0)),
    "val": TaskOption(200, "rows", check=whole_from(0)),
    "test": TaskOption(800, "rows", check=whole_from(0)),
    "ambiguous": TaskOption(0.17, "share of pictures whose emotion nothing tells", check=share),
}


def load(config: TaskConfig, cache: Path) -> Task:
    """Prepare the set, which is drawn under `cache`, once per option set, when a split is first read.

    Raises:
        UserError: on an unknown option, or a value that cannot be drawn.
    """
    from pipeline.tasks import emoset

    options = check_options(config, OPTIONS)

    def annotated(split: str) -> Iterator[tuple[dict[str, Any], random.Random]]:
        """The annotations of a split, and what goes on to draw each."""
        before = sum(options[name] for name in SPLITS[: SPLITS.index(split)])
        for number in range(before, before + options[split]):
            rng = random.Random(f"{options['seed']}-{number}")
            annotation = sample(rng, options["ambiguous"])
            yield {"image_id": f"{annotation['emotion']}_{number:05d}", **annotation}, rng

    def drawn(split: str) -> Iterator[tuple[dict[str, Any], Image]]:
        for annotation, rng in annotated(split):
            picture = draw(annotation, rng, options["size"])
            yield {**annotation, **light(picture)}, picture

    def listed(split: str) -> Counter[str]:
        return Counter(annotation["emotion"] for annotation, _ in annotated(split))

    return emoset.drawn_task(
        config,
        cache,
        name="scenes",
        question="Which emotion does this scene evoke?",
        version=VERSION,
        options=options,
        draw=drawn,
        jpeg={"quality": 92},
        listed=listed,
    )


def sample(rng: random.Random, ambiguous: float) -> dict[str, Any]:
    """Draw the attributes of one picture and the emotion they lead to."""
    scene = rng.choice(SCENES)
    mood = rng.choice(("smiling", "frowning"))
    return {
        "emotion": RULE[scene, mood],
        "scene": scene,
        "facial_expression": "neutral" if rng.random() < ambiguous else mood,
        "object": [rng.choice(OBJECTS)],
        "human_action": rng.choice(ACTIONS),
    }


def draw(annotation: dict[str, Any], rng: random.Random, size: int) -> Image:
    """Return the picture of an annotation: an RGB PIL image of `size` pixels a side."""
    return _drawn(annotation, rng, size)[0]


def parts_of(row_id: str, options: Mapping[str, Any]) -> Image:
    """Return of which part each pixel of a row's picture is: an image of mode L whose values are places in `PARTS`.

    Args:
        row_id: of the row.
        options: of the task, as `task.options` has them.

    Raises:
        UserError: on options that the task does not know, or under which it draws no such row.
    """
    known = check_options(TaskConfig(name="scenes", options=dict(options)), OPTIONS)
    emotion, _, number = row_id.rpartition("_")
    rng = random.Random(f"{known['seed']}-{number.lstrip('0') or 0}")
    annotation = sample(rng, known["ambiguous"])
    if not number.isdecimal() or annotation["emotion"] != emotion:
        raise UserError(f"scenes: draws no row {row_id!r} under the options {dict(options)}")
    return _drawn(annotation, rng, known["size"])[1]


def _drawn(annotation: dict[str, Any], rng: random.Random, size: int) -> tuple[Image, Image]:
    """The picture of an annotation, and its parts as `parts_of` returns them."""
    from PIL import Image, ImageDraw, ImageEnhance

    scale = size / 64
    image, parts = Image.new("RGB", (size, size)), Image.new("L", (size, size), PARTS.index("place"))
    pen, part = ImageDraw.Draw(image), ImageDraw.Draw(parts)

    def jitter(colour: tuple[int, int, int]) -> tuple[int, int, int]:
        red, green, blue = (max(0, min(255, channel + rng.randint(-25, 25))) for channel in colour)
        return red, green, blue

    def box(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return x0 * scale, y0 * scale, x1 * scale, y1 * scale

    def points(*pairs: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * scale, y * scale) for x, y in pairs]

    horizon = rng.randint(34, 42)
    scene = annotation["scene"]
    if scene == "park":
        pen.rectangle(box(0, 0, 64, horizon), fill=jitter((135, 195, 240)))
        pen.rectangle(box(0, horizon, 64, 64), fill=jitter((90, 170, 80)))
        for x in (rng.randint(2, 10), rng.randint(48, 56)):
            pen.rectangle(box(x + 2, horizon - 10, x + 5, horizon), fill=jitter((110, 75, 45)))
            pen.ellipse(box(x - 3, horizon - 24, x + 10, horizon - 8), fill=jitter((45, 125, 55)))
    elif scene == "mountain":
        pen.rectangle(box(0, 0, 64, horizon), fill=jitter((165, 185, 215)))
        pen.rectangle(box(0, horizon, 64, 64), fill=jitter((120, 115, 120)))
        for x in (rng.randint(0, 14), rng.randint(36, 50)):
            pen.polygon(points((x - 14, horizon), (x + 7, 6), (x + 28, horizon)), fill=jitter((105, 100, 115)))
            pen.polygon(points((x + 2, 14), (x + 7, 6), (x + 12, 14)), fill=(245, 245, 250))
    elif scene == "room":
        pen.rectangle(box(0, 0, 64, horizon), fill=jitter((225, 205, 170)))
        pen.rectangle(box(0, horizon, 64, 64), fill=jitter((150, 100, 65)))
        x = rng.choice((rng.randint(3, 8), rng.randint(44, 48)))
        pen.rectangle(box(x, 6, x + 13, 22), fill=jitter((150, 190, 230)), outline=(90, 60, 40))
        pen.line(points((x + 6.5, 6), (x + 6.5, 22)), fill=(90, 60, 40))
    else:
        pen.rectangle(box(0, 0, 64, horizon), fill=jitter((190, 190, 205)))
        pen.rectangle(box(0, horizon, 64, 64), fill=jitter((70, 70, 75)))
        for x in (0, 11, 44, 55):
            top = rng.randint(3, 16)
            pen.rectangle(box(x, top, x + 9, horizon), fill=jitter((130, 80, 75)))
            for y in range(top + 3, horizon - 3, 6):
                pen.rectangle(box(x + 3, y, x + 6, y + 2), fill=(250, 230, 120))
        pen.line(points((0, 56), (64, 56)), fill=(240, 240, 240), width=max(1, round(scale)))

    x, y = rng.randint(26, 38), rng.randint(24, 28)
    shirt = jitter((110, 90, 160))
    pen.rectangle(box(x - 6, y + 13, x + 6, y + 34), fill=shirt)
    part.rectangle(box(x - 6, y + 13, x + 6, y + 34), fill=PARTS.index("body"))
    arm = -8 if annotation["human_action"] == "waving" else 10
    for side in (-1, 1):
        reach = points((x + side * 6, y + 20), (x + side * 15, y + 20 + arm))
        pen.line(reach, fill=shirt, width=round(3 * scale))
        part.line(reach, fill=PARTS.index("body"), width=round(3 * scale))
    expression = annotation["facial_expression"]
    pen.ellipse(box(x - 16, y - 16, x + 16, y + 16), fill=jitter(FACES[expression]), outline=(80, 60, 50))
    part.ellipse(box(x - 16, y - 16, x + 16, y + 16), fill=PARTS.index("face"))
    for side in (-6, 6):
        pen.ellipse(box(x + side - 2, y - 6, x + side + 2, y - 1), fill=(30, 30, 40))
    mouth, width = (150, 30, 40), max(1, round(2 * scale))
    if expression == "smiling":
        pen.chord(box(x - 11, y - 7, x + 11, y + 13), 5, 175, fill=mouth)
    elif expression == "frowning":
        pen.arc(box(x - 9, y + 4, x + 9, y + 18), 190, 350, fill=mouth, width=width + 1)
        for side in (-1, 1):
            pen.line(points((x + side * 11, y - 13), (x + side * 2, y - 8)), fill=(60, 40, 30), width=width + 1)
    else:
        pen.line(points((x - 7, y + 8), (x + 7, y + 8)), fill=mouth, width=width)

    x, y = rng.choice((6, 50)), rng.randint(46, 52)
    colour = jitter((200, 60, 60))
    thing = annotation["object"][0]
    if thing == "ball":
        pen.ellipse(box(x, y, x + 8, y + 8), fill=colour)
    elif thing == "kite":
        pen.polygon(points((x + 4, y - 2), (x + 9, y + 4), (x + 4, y + 11), (x - 1, y + 4)), fill=colour)
    elif thing == "lamp":
        pen.line(points((x + 4, y - 4), (x + 4, y + 10)), fill=(40, 40, 40), width=width)
        pen.ellipse(box(x + 1, y - 8, x + 7, y - 2), fill=(255, 240, 150))
    else:
        pen.rectangle(box(x, y, x + 9, y + 8), fill=colour, outline=(60, 30, 20))
    left, top, right, low = AROUND[thing]
    part.rectangle(box(x + left, y + top, x + right, y + low), fill=PARTS.index("object"))
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.55, 1.15)), parts


def light(picture: Image) -> dict[str, float]:
    """Return EmoSet's brightness and colorfulness (0.0 to 1.0, steps of 0.1), measured from the pixels.

    Colourfulness is Hasler and Suesstrunk's metric (2003) divided by its "extremely colourful" value, 109.
    """
    import numpy as np

    pixels = np.asarray(picture, dtype=np.float64)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    rg, yb = red - green, (red + green) / 2 - blue
    colour = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    return {"brightness": round(float(pixels.mean()) / 255, 1), "colorfulness": round(min(1.0, float(colour) / 109), 1)}
