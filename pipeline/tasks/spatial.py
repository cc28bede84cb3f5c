"""spatial: questions of CV-Bench's four kinds (count, relation, depth, distance), written from the boxes of annotated pictures.

`path` is a folder with COCO's ``annotations/instances_*.json`` or Omni3D's ``*.json`` beside the pictures, or with parquet
files whose rows hold image and objects (ADE20K, and what detectors are trained on), or one such file;
pipeline/data/spatial/files.py has the forms. Without a path the pictures of `shapes` are drawn, whose boxes and depths are known.

pipeline/data/spatial/ask.py says what is asked, and what is refused as a case that people would dispute. Depth and distance come
from 3-D boxes where the data have them; where they do not, `lower_edge` guesses them: each box is taken to stand on level ground,
with the horizon at half the picture's height. Such rows have the group ``depth_from: lower edge``.

Splits are by picture and never by question: val and test are the files with that word in their names; where there is none, a
share of the others' pictures, by a hash of their ids. The boxes that a question names are drawn on a copy of the picture, in the
cache, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.image_sets import data_root
from pipeline.data.images import check_images
from pipeline.data.options import TaskOption, check_options, share_below, some_of, true_or_false, whole_from
from pipeline.data.spatial.ask import TASKS, BoxQuestion, Refusals, ask, choose, marks_of
from pipeline.data.spatial.copies import PictureCopy, make_copies
from pipeline.data.spatial.files import SPLITS, WHAT, Found, find_files, read_file, with_ids_of_their_own
from pipeline.data.spatial.pictures import (
    BoxedObject,
    BoxedPicture,
    crop_window,
    cropped,
    ground_point,
    mirrored,
)
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import hash_to_number
from pipeline.scoring.kinds import judge_kind
from pipeline.system.locks import exclusive
from pipeline.types import Problem, Question, Split

LOWER_EDGE = "lower edge"
AUGMENTED = ("mirror", "crop")


def _three_numbers(value: Any) -> str:
    right = isinstance(value, Sequence) and len(value) == 3 and not any(map(whole_from(0), value))
    return "" if right else "is not three numbers of pictures, such as [3000, 200, 600]"


def _a_folder(value: Any) -> str:
    return "" if Path(str(value)).expanduser().is_dir() else "is no folder"


OPTIONS = {
    "kinds": TaskOption(
        list(TASKS), "what is asked, of count, relation, depth, distance", check=some_of(tuple(TASKS), fewest=1)
    ),
    "questions": TaskOption(1, "most questions of one kind on one picture", check=whole_from(1)),
    "balanced": TaskOption(
        True, "leave out counts whose answer is commoner than the other options", check=true_or_false
    ),
    "lower_edge": TaskOption(
        False, "guess depth and distance from the boxes' lower edges where the data have neither", check=true_or_false
    ),
    "augment": TaskOption(
        [],
        "mirror, crop: further copies of the pictures of train, asked the same with their own answers",
        check=some_of(AUGMENTED),
    ),
    "images": TaskOption(None, "the pictures' folder, where it is not beside the annotations", check=_a_folder),
    "held_share": TaskOption(
        0.1,
        "share of the pictures in val, and in test, where no file has that word in its name",
        check=share_below(0.5),
    ),
    "drawn": TaskOption(
        [3000, 200, 600], "pictures of train, val and test, where they are drawn", check=_three_numbers
    ),
    "seed": TaskOption(0, "what drawn pictures follow from"),
}


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the files; pictures are read, and copies of them marked, when a split is.

    Raises:
        UserError: on an unknown option or value, or when the path holds no boxes.
    """
    options = check_options(config, OPTIONS)
    splits: tuple[str, ...] = SPLITS
    source = None
    if config.path is not None:
        root = data_root(config, WHAT)
        files = find_files(root)
        if not files:
            raise UserError(f"task.path: {config.path!r} holds neither .json nor .parquet files; put {WHAT}")
        if not files.keys() & {"", "train"}:
            splits = tuple(split for split in SPLITS if split in files)
        source = _Files(root, files, options, cache)

    def read(split: str) -> Split:
        found = list(source.read(split) if source else _drawn(options, split, cache))
        return _asked(found, split, options, cache)

    return Task("spatial", splits, read, judge=judge_kind)


# ---- pictures


@dataclasses.dataclass(frozen=True)
class _Files:
    root: Path
    files: Mapping[str, Sequence[Path]]
    options: Mapping[str, Any]
    cache: Path

    def read(self, split: str) -> Iterator[Found]:
        """Pictures of a split, and why others cannot be used."""
        images = self.options["images"]
        folder = Path(str(images)).expanduser() if images is not None else None
        shared = [*self.files.get("train", ()), *self.files.get("", ())]
        own = self.files.get(split, ()) if split != "train" else ()
        found = (
            one
            for file in own or shared
            for one in read_file(file, self.root, folder, self.cache)
            if own or self._split_of(one.id) == split
        )
        yield from with_ids_of_their_own(found)

    def _split_of(self, id: str) -> str:
        """The split of a picture that no file's name puts into val or test."""
        place, share = hash_to_number(id) / 2**64, self.options["held_share"]
        held = "test" if place < share else "val" if place < 2 * share else ""
        return held if held and held not in self.files else "train"


def _drawn(options: Mapping[str, Any], split: str, cache: Path) -> Iterator[BoxedPicture]:
    """The pictures of `shapes`, drawn once, with their boxes and depths."""
    from pipeline.tasks import shapes

    config = TaskConfig("shapes", options={"seed": options["seed"], **dict(zip(SPLITS, options["drawn"], strict=True))})
    for row in shapes.load(config, cache / "shapes").read(split).rows:
        things = shapes.things_of(row.attributes["objects"])
        objects = tuple(
            BoxedObject(one.shape, tuple(box), points=(point,))
            for one, box, point in zip(things, row.attributes["boxes"], map(shapes.place, things), strict=True)
        )
        size = (shapes.SIDE * shapes.FIELD,) * 2
        yield BoxedPicture(row.id, row.images[0], size, objects, "shapes", depth_from="drawing")


# ---- questions


def _asked(found: Sequence[Found], split: str, options: Mapping[str, Any], cache: Path) -> Split:
    problems = [one for one in found if isinstance(one, Problem)]
    pictures = [one for one in found if isinstance(one, BoxedPicture)]
    broken = check_images((one.image for one in pictures), cache / "checked_images.json")
    problems += [Problem(one.id, broken[one.image], str(one.image)) for one in pictures if one.image in broken]
    pictures = [one for one in pictures if one.image not in broken]
    if options["lower_edge"]:
        pictures = list(map(_guessed, pictures))
    kinds, refusals = [kind for kind in TASKS if kind in options["kinds"]], Refusals()
    if pictures and not any(one.depth_from for one in pictures):
        lost = [kind for kind in kinds if kind in ("depth", "distance")]
        detail = "the data have no depth; give objects one, or let task.options.lower_edge=true guess it from their lower edges"
        problems += [Problem(f"{split}-{kind}", "without_depth", detail) for kind in lost]
        kinds = [kind for kind in kinds if kind not in lost]
    chosen = choose(pictures, kinds, options["questions"], options["balanced"], refusals)
    rows: list[tuple[Question, PictureCopy]] = []
    for picture, asked in chosen:
        rows += _with_copies(picture, asked, options["augment"] if split == "train" else (), refusals, cache / "copies")
    with exclusive(cache / "copies"):
        make_copies({question.images[0]: copy for question, copy in rows})
    return Split(tuple(question for question, _ in rows), (*problems, *refusals.problems()))


def _with_copies(
    picture: BoxedPicture, asked: BoxQuestion, augment: Sequence[str], refusals: Refusals, folder: Path
) -> Iterator[tuple[Question, PictureCopy]]:
    """The question, and the same about copies of the picture where all it asks about is still to be seen."""
    name = f"{picture.id}-{asked.kind}-{'-'.join(map(str, sorted(asked.objects)))}"
    shown = {"": (picture, PictureCopy(picture.image))}
    if "mirror" in augment:
        shown["mirror"] = mirrored(picture), PictureCopy(picture.image, mirror=True)
    if "crop" in augment:
        window = crop_window(picture, asked.objects)
        if window:
            shown["crop"] = cropped(picture, window), PictureCopy(picture.image, window=window)
        else:
            refusals.add(picture.id, asked.kind, "left_the_crop")
    for how, (seen, copy) in shown.items():
        copy = dataclasses.replace(copy, marks=marks_of(seen, asked))
        groups = {"picture": how or "original"} if augment else {}
        yield ask(seen, asked, f"{name}-{how}" if how else name, copy.path(folder), groups), copy


def _guessed(picture: BoxedPicture) -> BoxedPicture:
    """A picture without depth, with its objects where they stand if they stand on level ground."""
    if picture.depth_from:
        return picture
    objects = tuple(dataclasses.replace(one, points=ground_point(one.box, picture.size)) for one in picture.objects)
    return dataclasses.replace(picture, objects=objects, depth_from=LOWER_EDGE)
