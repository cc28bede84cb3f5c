"""Questions in CV-Bench's four kinds, and their answers, from a picture's boxes.

| kind | what is asked | options | the answer is from |
|---|---|---|---|
| count | how many of a name there are | four numbers that follow one another: 1–4, 5–8, 9–12 | the number of boxes |
| relation | where one object lies, of another | left and right, or above and below | boxes that do not overlap on that axis |
| depth | which of two is nearer to the camera | the two | their points |
| distance | which of two is nearer to a third | the two | their points |

The objects that are meant stand in red, blue and green boxes, drawn on a copy of the picture. The sentences are ours, the form is
CV-Bench's (Tong et al., arXiv 2406.16860).

Distractors leave nothing to read off the options: a relation's is its mirror image, both objects are options, and a number's are
its neighbours, of which each is right equally often. What people would dispute is refused: see `REFUSED`.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.questions.prompting import lettered
from pipeline.data.spatial.pictures import DEPTH_ALONE, Box, BoxedObject, BoxedPicture, nearer, overlap
from pipeline.files import hash_to_number
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Problem, Question

TASKS = {"count": "Count", "relation": "Relation", "depth": "Depth", "distance": "Distance"}
"""What CV-Bench calls the kinds; tables are split by it."""
MARKS = {"relation": ("red", "blue"), "depth": ("red", "blue"), "distance": ("red", "blue", "green")}
WINDOW = 4
"""Numbers that a count offers."""
MOST = 3 * WINDOW
"""More objects than this are not counted at a glance, and seldom annotated to the last."""
SMALLEST = 0.004
"""Share of the picture below which a box is tiny: 35 pixels a side in COCO's 640 x 480."""
MOST_OVERLAP = 0.5
"""Share of the smaller box that may be covered before it is unclear which object a box means."""
NEARER_BY = 0.15
"""Share by which the smaller distance must be less: about what people tell apart in a photograph (our choice)."""
_LOOKED_AT = 40
"""Pairs or triples of a picture that are tried before it is given up."""
_MOST_OBJECTS = 12
REFUSED = {
    "crowd": "an annotation stands for an unknown number of objects",
    "hidden": "it is out of sight, or a region that Omni3D says to ignore",
    "tiny_box": f"a box fills less than {SMALLEST:.1%} of the picture",
    "too_many": f"there are more than {MOST}",
    "overlapping_boxes": "the boxes overlap so far that the answer, or what they mean, is not plain",
    "equal_depth": f"neither is nearer by {NEARER_BY:.0%}, or its box's centre and nearest corner disagree",
    "without_depth": "no two objects' places in space are known",
    "few_objects": "fewer objects than the question needs can be boxed",
    "unbalanced_answer": "its answer would be given more often than the other options; task.options.balanced=false keeps it",
    "left_the_crop": "an object it asks about is not wholly in the crop",
}
"""Why a candidate is not asked. A problem stands for one picture, kind and reason."""


@dataclass(frozen=True)
class BoxQuestion:
    """A question to be written: which objects it is about, and in which order things are named.

    Args:
        kind: of `TASKS`.
        objects: their numbers: all that are counted; else in the order red, blue, green.
        options: their texts in order; empty where they are the objects' names.
    """

    kind: str
    objects: tuple[int, ...]
    options: tuple[str, ...] = ()


@dataclass
class Refusals:
    """Candidates of one split that were not asked, by picture, kind and reason."""

    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, picture: str, kind: str, reason: str, count: int = 1) -> None:
        """Count a refusal."""
        self.found[picture, kind, reason] += count

    def problems(self) -> list[Problem]:
        """Return a problem for each picture, kind and reason, with how many candidates it stands for."""
        return [
            Problem(f"{picture}-{kind}", reason, f"{count} of kind {kind}: {REFUSED[reason]}")
            for (picture, kind, reason), count in self.found.items()
        ]


def choose(
    pictures: Sequence[BoxedPicture], kinds: Sequence[str], most: int, balanced: bool, refusals: Refusals
) -> list[tuple[BoxedPicture, BoxQuestion]]:
    """Return what is asked of pictures: plain cases only, with every answer and letter equally often per kind.

    Args:
        pictures: of one split.
        kinds: of `TASKS`.
        most: questions of a kind on one picture.
        balanced: whether counts are left out whose answer is commoner than the other options.
        refusals: what is not asked is counted there.
    """
    # No order of the data's reaches the letters.
    ordered = sorted(pictures, key=lambda picture: hash_to_number(picture.id))
    chosen: list[tuple[BoxedPicture, BoxQuestion]] = []
    turns: Counter[tuple[str, ...]] = Counter()
    for kind in kinds:
        if kind == "count":
            chosen += _counts(ordered, most, balanced, refusals)
            continue
        for picture in ordered:
            for found in _plain(picture, kind, most, refusals):
                key = (kind, *found.options)
                chosen.append((picture, _turned(picture, found, turns[key])))
                turns[key] += 1
    return chosen


def ask(picture: BoxedPicture, asked: BoxQuestion, id: str, copy: Path, groups: Mapping[str, str]) -> Question:
    """Return the question, with the answer that the picture's boxes and points give.

    Args:
        picture: mirrored and cropped as it will be shown.
        asked: about which of its objects.
        id: the question's.
        copy: the file that is shown.
        groups: what tables are split by, beside the kind and the source.
    """
    objects = [picture.objects[number] for number in asked.objects]
    options = asked.options
    facts: dict[str, Any] = {}
    if asked.kind == "count":
        text = f'How many instances of "{objects[0].name}" does the picture show?'
        right = options.index(str(len(objects)))
    elif asked.kind == "relation":
        red, blue = objects
        text = f"Where in the picture is the {red.name} (red box), compared with the {blue.name} (blue box)?"
        right = options.index(_side(red, blue, horizontal="left" in options))
    else:
        *others, first, second = objects
        colours = MARKS[asked.kind][len(others) :]
        said = [f"{one.name} ({colour} box)" for one, colour in zip((first, second), colours, strict=True)]
        options = tuple(said) if first.name == second.name else (first.name, second.name)
        goal = f"to the {others[0].name} (red box)" if others else "to the camera"
        text = f"In the real scene, which is nearer {goal}: the {said[0]} or the {said[1]}?"
        # Only plain cases are chosen, and neither a mirror nor a crop moves points.
        right = 0 if nearer(first, second, others[0] if others else None, NEARER_BY) else 1
        facts["depth_from"] = picture.depth_from
        groups = {**groups, "depth_from": picture.depth_from}
    return Question(
        id=id,
        images=(copy,),
        text=f"{text}\n{lettered(options)}",
        options=options,
        answer=letters(len(options))[right],
        kind="letter",
        groups={
            "type": "2D" if asked.kind in ("count", "relation") else "3D",
            "task": TASKS[asked.kind],
            "source": picture.source,
            **groups,
        },
        cluster=picture.id,
        # So that a slice such as train[:4000] takes a picture with all its questions.
        pair=picture.id,
        facts=facts,
    )


def marks_of(picture: BoxedPicture, asked: BoxQuestion) -> tuple[tuple[str, Box], ...]:
    """Return the coloured boxes of a question: none for a count."""
    if asked.kind == "count":
        return ()
    return tuple(
        (colour, picture.objects[number].box) for colour, number in zip(MARKS[asked.kind], asked.objects, strict=True)
    )


# ---- counts


def _counts(
    pictures: Sequence[BoxedPicture], most: int, balanced: bool, refusals: Refusals
) -> Iterator[tuple[BoxedPicture, BoxQuestion]]:
    found: dict[int, list[tuple[BoxedPicture, tuple[int, ...]]]] = {}
    for picture in pictures:
        for numbers in _by_name(picture).values() if picture.counted else ():
            objects = [picture.objects[number] for number in numbers]
            reasons = (_unfit(picture, one) for one in objects)
            reason = next(filter(None, reasons), "") or ("too_many" if len(numbers) > MOST else "")
            if reason:
                refusals.add(picture.id, "count", reason)
            else:
                found.setdefault(len(numbers), []).append((picture, numbers))
    used: Counter[str] = Counter()
    # The rarest first, which are the largest: a picture is asked only so often.
    for first in range(MOST - WINDOW + 1, 0, -WINDOW):
        window = {count: found.get(count, []) for count in range(first, first + WINDOW)}
        limit = min(map(len, window.values())) if balanced else max(map(len, window.values()))
        kept: dict[int, list[tuple[BoxedPicture, tuple[int, ...]]]] = {}
        for count in sorted(window, key=lambda count: len(window[count])):
            kept[count] = []
            for picture, numbers in window[count]:
                if used[picture.id] == most:
                    continue
                if len(kept[count]) == limit:
                    refusals.add(picture.id, "count", "unbalanced_answer")
                    continue
                kept[count].append((picture, numbers))
                used[picture.id] += 1
        fewest = min(map(len, kept.values()))
        options = tuple(map(str, window))
        for rows in kept.values():
            for place, (picture, numbers) in enumerate(rows):
                if balanced and place >= fewest:
                    refusals.add(picture.id, "count", "unbalanced_answer")
                    continue
                # So each number is right at each letter equally often.
                turn = place % WINDOW
                yield picture, BoxQuestion("count", numbers, options[turn:] + options[:turn])


def _by_name(picture: BoxedPicture) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for number, one in enumerate(picture.objects):
        found[one.name] = (*found.get(one.name, ()), number)
    return found


# ---- pairs and triples


def _plain(picture: BoxedPicture, kind: str, most: int, refusals: Refusals) -> Iterator[BoxQuestion]:
    """Pairs or triples whose answer is plain, at most so many; those refused on the way are counted."""
    fit = []
    for number, one in enumerate(picture.objects):
        if reason := _unfit(picture, one):
            refusals.add(picture.id, kind, reason)
        else:
            fit.append(number)
    if kind != "relation":
        placed = [number for number in fit if picture.objects[number].points]
        if kind == "distance" and picture.depth_from == DEPTH_ALONE:
            placed = []
        if len(fit) > 1 and len(placed) < 2:
            refusals.add(picture.id, kind, "without_depth")
            return
        fit = placed
    needed = len(MARKS[kind])
    if len(fit) < needed:
        refusals.add(picture.id, kind, "few_objects")
        return
    rng = random.Random(f"{picture.id}/{kind}")
    rng.shuffle(fit)
    groups = list(itertools.combinations(sorted(fit[:_MOST_OBJECTS]), needed))
    rng.shuffle(groups)
    found = 0
    for group in groups[:_LOOKED_AT]:
        objects = list(group)
        rng.shuffle(objects)
        told = _reason(picture, kind, objects, rng)
        if isinstance(told, str):
            refusals.add(picture.id, kind, told)
            continue
        yield BoxQuestion(kind, tuple(objects), told)
        found += 1
        if found == most:
            return


def _unfit(picture: BoxedPicture, one: BoxedObject) -> str:
    """Why an object is neither boxed nor counted; "" where it is."""
    if one.crowd:
        return "crowd"
    if one.hidden:
        return "hidden"
    width, height = picture.size
    return "tiny_box" if one.area < SMALLEST * width * height else ""


def _reason(picture: BoxedPicture, kind: str, numbers: Sequence[int], rng: random.Random) -> str | tuple[str, ...]:
    """Why a pair or triple is refused; else its options, as far as they are not the objects' names."""
    objects = [picture.objects[number] for number in numbers]
    if any(overlap(one.box, other.box) > MOST_OVERLAP for one, other in itertools.combinations(objects, 2)):
        return "overlapping_boxes"
    if kind == "relation":
        first, second = objects
        axes = [axis for axis in (True, False) if _side(first, second, axis)]
        if not axes:
            return "overlapping_boxes"
        return ("left", "right") if rng.choice(axes) else ("above", "below")
    *others, first, second = objects
    return "equal_depth" if nearer(first, second, others[0] if others else None, NEARER_BY) is None else ()


def _side(one: BoxedObject, other: BoxedObject, horizontal: bool) -> str:
    """Where a box lies of another, "" where they overlap on that axis."""
    axis, words = (0, ("left", "right")) if horizontal else (1, ("above", "below"))
    if one.box[axis + 2] <= other.box[axis]:
        return words[0]
    return words[1] if other.box[axis + 2] <= one.box[axis] else ""


def _turned(picture: BoxedPicture, found: BoxQuestion, turn: int) -> BoxQuestion:
    """The same question with its objects and options in the order that turn by turn gives every answer at every letter."""
    objects = [picture.objects[number] for number in found.objects]
    if found.kind == "relation":
        # Turns 0 to 3: left at A, right at B, left at B, right at A.
        words = found.options
        wanted = words[turn % 2]
        swap = _side(objects[0], objects[1], "left" in words) != wanted
        order = found.objects[::-1] if swap else found.objects
        return BoxQuestion(found.kind, order, words if turn % 4 < 2 else words[::-1])
    *others, first, second = found.objects
    first_is_nearer = nearer(objects[-2], objects[-1], objects[0] if others else None, NEARER_BY)
    if first_is_nearer != (turn % 2 == 0):
        first, second = second, first
    return BoxQuestion(found.kind, (*others, first, second))
