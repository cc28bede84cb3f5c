"""A picture with its boxed objects, and what a mirror or a crop makes of them.

Boxes are (left, top, right, bottom) in pixels from the upper left corner. Points are (x, y, z) in metres from the camera: x to
the right, y down, z into the picture, as Omni3D has them.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Box = tuple[float, float, float, float]
Point = tuple[float, float, float]
DEPTH_ALONE = "depth of the box"
"""Where points come from that tell how far away an object is, and not in which direction."""


@dataclass(frozen=True)
class BoxedObject:
    """One annotated object.

    Args:
        name: what it is.
        box: where it lies, in pixels.
        crowd: whether the box stands for an unknown number of them.
        points: corners of its 3-D box, the one point it stands on, or one straight ahead that is as far away; empty where its
            place in space is not known.
        hidden: whether nobody sees it, or its data say to ignore it.
    """

    name: str
    box: Box
    crowd: bool = False
    points: tuple[Point, ...] = ()
    hidden: bool = False

    @property
    def area(self) -> float:
        """Square pixels of its box."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    @property
    def centre(self) -> Point:
        """The mean of its points."""
        x, y, z = (sum(axis) / len(self.points) for axis in zip(*self.points, strict=True))
        return x, y, z


@dataclass(frozen=True)
class BoxedPicture:
    """A picture and its objects.

    Args:
        id: unique within its split.
        image: the file.
        size: (width, height) in pixels, which the boxes are in.
        objects: all that is annotated, in the data's order.
        source: the data it is of, such as COCO; tables are split by it.
        counted: whether the annotations hold every object of each kind they name, so that a count is true.
        depth_from: where the objects' points come from, in a word or two; "" where there are none.
    """

    id: str
    image: Path
    size: tuple[int, int]
    objects: tuple[BoxedObject, ...]
    source: str
    counted: bool = True
    depth_from: str = ""


def mirrored(picture: BoxedPicture) -> BoxedPicture:
    """Return what a mirror shows: left is right, above stays above, and nothing comes nearer."""
    width = picture.size[0]

    def turned(one: BoxedObject) -> BoxedObject:
        left, top, right, bottom = one.box
        points = tuple((-x, y, z) for x, y, z in one.points)
        return dataclasses.replace(one, box=(width - right, top, width - left, bottom), points=points)

    return dataclasses.replace(picture, objects=tuple(map(turned, picture.objects)))


def crop_window(picture: BoxedPicture, kept: Iterable[int]) -> Box | None:
    """Return a part of a picture, from three quarters to nine tenths of both sides, the same each time.

    Args:
        picture: to be cropped.
        kept: numbers of the objects that must be wholly in it; None is returned where it has no room for them.
    """
    rng = random.Random(f"{picture.id}/{sorted(kept)}")
    boxes, share = [picture.objects[number].box for number in kept], rng.uniform(0.75, 0.9)
    window = []
    for axis, size in enumerate(picture.size):
        length = share * size
        first = max(0.0, max(box[axis + 2] for box in boxes) - length)
        last = min(size - length, min(box[axis] for box in boxes))
        if first > last:
            return None
        start = rng.uniform(first, last)
        window.append((start, start + length))
    (left, right), (top, bottom) = window
    return left, top, right, bottom


def cropped(picture: BoxedPicture, window: Box) -> BoxedPicture:
    """Return what a window of the picture shows, scaled to the picture's size.

    Objects keep their numbers, and those outside it their boxes, which then lie outside the picture: ask about none of them.
    """
    left, top, right, bottom = window
    across, down = picture.size[0] / (right - left), picture.size[1] / (bottom - top)

    def scaled(one: BoxedObject) -> BoxedObject:
        x0, y0, x1, y1 = one.box
        box = ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down)
        return dataclasses.replace(one, box=box)

    return dataclasses.replace(picture, objects=tuple(map(scaled, picture.objects)))


def overlap(one: Box, other: Box) -> float:
    """Return the share of the smaller box that the other covers, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / smaller


def nearer(first: BoxedObject, second: BoxedObject, to: BoxedObject | None, margin: float) -> bool | None:
    """Return whether the first is nearer than the second, to a third object or to the camera; None where that is not plain.

    It is plain when the centres say so by the margin and the nearest points do not say otherwise.

    Args:
        first, second: with points.
        to: the third, with points; None for the camera.
        margin: by what share of the larger distance the smaller must be less.
    """
    goal = to.points if to else ((0.0, 0.0, 0.0),)
    goal_centre = to.centre if to else goal[0]
    a, b = (math.dist(one.centre, goal_centre) for one in (first, second))
    if abs(a - b) < margin * max(a, b):
        return None
    closest = [min(math.dist(point, end) for point in one.points for end in goal) for one in (first, second)]
    # Of two boxes the one with the nearer centre may reach less far.
    if (a < b) != (closest[0] < closest[1]):
        return None
    return a < b


def ground_point(box: Box, size: tuple[int, int]) -> tuple[Point, ...]:
    """Return where an object stands if it stands on level ground, in heights of the camera; () where the box cannot say.

    A guess from the lower edge alone: the horizon is taken to lie at half the picture's height, and the focal length to be the
    picture's width. An edge above the horizon is not on the ground; one at the picture's rim may be cut off.
    """
    width, height = size
    below = box[3] - height / 2
    if below < 0.02 * height or box[3] > height - 2:
        return ()
    return (((box[0] + box[2] - width) / 2 / below, 1.0, width / below),)
