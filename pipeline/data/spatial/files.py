"""Readers of boxes: COCO's JSON, Omni3D's, and parquet files whose rows hold a picture and its objects (ADE20K).

What is read of each, and nothing else:

| form | a picture | an object |
|---|---|---|
| COCO | id, file_name, width, height | image_id, category_id, bbox [left, top, width, height], iscrowd, depth |
| Omni3D | id, file_path, width, height | image_id, category_name, behind_camera, bbox2D_tight, _trunc or _proj [left, top, right,
bottom]; where valid3D: bbox3D_cam, or center_cam, dimensions and R_cam; what says to ignore it, see `_is_hidden` |
| parquet | image, id or filename | objects: a list of {name, box or bbox or polygon, depth}, or {bbox: […], category: […]} |

`depth` is how far an object is from the camera, in any unit; neither COCO nor ADE20K has one, and an object may lack it.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.images import ImageError, paths_inside, upright_size
from pipeline.data.parquet_images import BATCH_ROWS, missing_shards, open_parquet, place
from pipeline.data.spatial.pictures import DEPTH_ALONE, Box, BoxedObject, BoxedPicture, Point
from pipeline.errors import UserError
from pipeline.types import Problem

WHAT = (
    "boxes: a folder with COCO's annotations/instances_*.json or Omni3D's *.json beside the pictures, or parquet files with the "
    "columns image and objects (name, box), or one such file"
)
SPLITS = ("train", "val", "test")
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|id|idation)?(?:[^a-z]|$)")
_OTHERS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
"""What COCO keeps beside the files of boxes."""
_NAMES = ("name", "category", "category_name", "label")
_BOXES = {"box": False, "bbox": True}
"""Whether (width, height) come last, as COCO has them, and not the lower right corner."""
_IGNORED = ("dontcare", "ignore", "void")
"""Omni3D's names of regions that are not annotated."""
_BOXES_2D = ("bbox2D_tight", "bbox2D_trunc", "bbox2D_proj")
Found = BoxedPicture | Problem
PlacedRow = tuple[str, Path, tuple[int, int], Any]
"""Id, picture, its size and the cell of its objects."""


def find_files(root: Path) -> dict[str, list[Path]]:
    """Return the files of annotations of each split; those whose name tells none stand under "".

    Args:
        root: a folder, or one file.
    """
    if root.is_file():
        return {"": [root]}
    listed = sorted(path for folder in ("", "annotations", "data") for path in (root / folder).glob("*.json"))
    found = [path for path in listed if not path.name.startswith(_OTHERS)]
    found = found or sorted(path for folder in ("", "data") for path in (root / folder).glob("*.parquet"))
    splits: dict[str, list[Path]] = {}
    for path in found:
        match = _SPLIT.search(path.stem.lower())
        splits.setdefault(match[1] if match else "", []).append(path)
    return splits


def read_file(file: Path, root: Path, images: Path | None, cache: Path) -> Iterator[Found]:
    """Yield the pictures of one file, each with its objects, and a problem for each that cannot be used.

    Args:
        file: JSON or parquet.
        root: the data's folder.
        images: the folder of the pictures; None to look for them.
        cache: pictures out of parquet files are kept in it.

    Raises:
        UserError: when the file is of no form that is read.
    """
    if file.suffix == ".parquet":
        yield from _of_parquet(file, root, cache)
    else:
        yield from _of_json(file, root, images)


# ---- COCO and Omni3D


def _of_json(file: Path, root: Path, images: Path | None) -> Iterator[Found]:
    try:
        whole = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from error
    if not isinstance(whole, dict) or not all(isinstance(whole.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{file}: has no lists images and annotations, as COCO and Omni3D have them; put {WHAT}")
    try:
        names = {row["id"]: str(row["name"]) for row in whole.get("categories", ())}
        by_picture: dict[Any, list[dict[str, Any]]] = {}
        for row in whole["annotations"]:
            by_picture.setdefault(row["image_id"], []).append(row)
        solid = any("center_cam" in row or "bbox3D_cam" in row for row in whole["annotations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: a row of categories or annotations is malformed: {error!r}") from error
    find = _finder(file, root, images)
    source = "Omni3D" if solid else "COCO"
    for number, row in enumerate(whole["images"]):
        name = f"{file.stem}-{number}"
        try:
            # Both count their pictures from 1.
            name = f"{source}-{row['id']}"
            path = find(str(row["file_path" if "file_path" in row else "file_name"]))
            if path is None:
                yield Problem(name, "missing_image", f"{row.get('file_name') or row.get('file_path')} is not there")
                continue
            annotations = by_picture.get(row["id"], [])
            objects = [one for each in annotations if (one := _annotated(each, names, solid)) is not None]
            size = int(row["width"]), int(row["height"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            yield Problem(name, "malformed_row", f"{type(error).__name__}: {error}")
            continue
        depth_from = "3-D boxes" if solid else _depth_from(objects)
        # Omni3D is not annotated exhaustively, so that nothing in it can be counted.
        yield _whole(BoxedPicture(name, path, size, tuple(objects), source, not solid, depth_from))


def _finder(file: Path, root: Path, images: Path | None) -> Any:
    """(a picture's path as the file has it) -> where it is, or None."""
    inside = paths_inside(root)
    # instances_train2017.json is of train2017/.
    below = ("", "images", file.stem.rpartition("_")[2], f"images/{file.stem.rpartition('_')[2]}")

    def find(relative: str) -> Path | None:
        if images is not None:
            path = paths_inside(images)(relative)
            return path if path is not None and path.is_file() else None
        for folder in below:
            path = inside(f"{folder}/{relative}" if folder else relative)
            if path is not None and path.is_file():
                return path
        return None

    return find


def _annotated(row: Mapping[str, Any], names: Mapping[Any, str], solid: bool) -> BoxedObject | None:
    """The object of an annotation; None where it is not in the picture."""
    if row.get("behind_camera"):
        return None
    box = next((tuple(row[key]) for key in _BOXES_2D if key in row and row[key][0] >= 0), None) if solid else None
    if box is None and "bbox" in row:
        box = _corner_form(row["bbox"], sized=True)
    if box is None:
        return None
    left, top, right, bottom = map(float, box)
    name = str(row.get("category_name") or names[row["category_id"]])
    if solid:
        points = _corners(row) if row.get("valid3D", True) else ()
    else:
        points = _at_depth(row.get("depth"))
    if any(not math.isfinite(value) for value in itertools.chain((left, top, right, bottom), *points)):
        raise ValueError(f"the box of annotation {row.get('id')} is not finite")
    return BoxedObject(
        name, (left, top, right, bottom), bool(row.get("iscrowd")), points, solid and _is_hidden(row, name)
    )


def _is_hidden(row: Mapping[str, Any], name: str) -> bool:
    """Whether Omni3D's own reader leaves an annotation out, that has a box: no number of it is told by one below 0."""
    sure = row.get("valid3D", True)
    return (
        name in _IGNORED
        or 0 <= float(row.get("visibility", -1)) <= 0.01
        or float(row.get("truncation", -1)) >= 0.99
        or bool(sure and (row.get("lidar_pts") == 0 or row.get("segmentation_pts") == 0))
        or bool(sure and (float(row.get("depth_error", -1)) > 0.5 or min(row.get("dimensions") or [1]) <= 0))
    )


def _corners(row: Mapping[str, Any]) -> tuple[Point, ...]:
    """The eight corners of a 3-D box in metres: as given, or from centre, dimensions [width, height, length] and rotation."""
    if isinstance(row.get("bbox3D_cam"), list):
        return tuple((float(x), float(y), float(z)) for x, y, z in row["bbox3D_cam"])
    centre, (width, height, length) = row["center_cam"], row["dimensions"]
    turn = row.get("R_cam") or ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    corners = []
    for across, down, along in itertools.product((-0.5, 0.5), repeat=3):
        # Omni3D's boxes have their length along x and their width along z before they are turned.
        offset = (across * length, down * height, along * width)
        x, y, z = (float(centre[axis]) + sum(turn[axis][of] * offset[of] for of in range(3)) for axis in range(3))
        corners.append((x, y, z))
    return tuple(corners)


def _at_depth(depth: Any) -> tuple[Point, ...]:
    """A point as far away as an object; none where that is not told."""
    if depth is None:
        return ()
    if not 0 < float(depth) < math.inf:
        raise ValueError(f"the depth {depth} of an object is not above 0")
    return ((0.0, 0.0, float(depth)),)


def _depth_from(objects: Iterable[BoxedObject]) -> str:
    return DEPTH_ALONE if any(one.points for one in objects) else ""


def _corner_form(box: Sequence[float], sized: bool) -> Box:
    a, b, c, d = map(float, box)
    return (a, b, a + c, b + d) if sized else (a, b, c, d)


def _whole(picture: BoxedPicture) -> Found:
    """The picture, once it is as large as its boxes were drawn for, or why it cannot be used."""
    try:
        size = upright_size(picture.image)
    except ImageError as error:
        return Problem(picture.id, error.reason, str(picture.image))
    if size != picture.size:
        detail = f"{picture.image} is {size[0]} x {size[1]}, its boxes are of {picture.size[0]} x {picture.size[1]}"
        return Problem(picture.id, "another_size", detail)
    return picture


# ---- parquet


def _of_parquet(file: Path, root: Path, cache: Path) -> Iterator[Found]:
    with open_parquet(file) as parquet:
        classes = _class_names(parquet.schema_arrow)
    rows: list[Found | PlacedRow] = []
    for row in _placed_rows(file, root, cache):
        # Polygons are many numbers, and nothing has to be found out about them.
        if not isinstance(row, Problem) and not _boxes(row[3], "bbox"):
            rows.append(_boxed(row, classes))
        else:
            rows.append(row)
    asked = [row for row in rows if isinstance(row, tuple)]
    sized = not _are_corners((box, size) for _, _, size, objects in asked for box in _boxes(objects, "bbox"))
    yield from (_boxed(row, classes, sized) if isinstance(row, tuple) else row for row in rows)
    yield from missing_shards(sorted(file.parent.glob("*.parquet")), file.stem.partition("-")[0])


def _boxed(row: PlacedRow, classes: Sequence[str], sized: bool = True) -> Found:
    name, image, size, raw = row
    try:
        objects = tuple(_of_row(raw, classes, sized))
        return BoxedPicture(name, image, size, objects, "ADE20K", depth_from=_depth_from(objects))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Problem(name, "malformed_row", f"{type(error).__name__}: {error}")


def _placed_rows(file: Path, root: Path, cache: Path) -> Iterator[PlacedRow | Problem]:
    images = cache / "images"
    images.mkdir(parents=True, exist_ok=True)
    folder = root if root.is_dir() else root.parent
    number = 0
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
        if lost := [name for name in ("image", "objects") if name not in names]:
            raise UserError(f"{file}: has no column {', '.join(lost)}; it has {', '.join(names)}; put {WHAT}")
        wanted = [name for name in ("id", "image_id", "filename", "image", "objects") if name in names]
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            for row in batch.to_pylist():
                given = next((row[key] for key in ("id", "image_id", "filename") if row.get(key) is not None), None)
                name = f"ADE20K-{f'{file.stem}-{number}' if given is None else given}"
                number += 1
                where = place(folder, row["image"], images)
                if "reason" in where:
                    yield Problem(name, where["reason"], where["detail"])
                    continue
                image = images / where["file"] if "file" in where else folder / where["path"]
                try:
                    yield name, image, upright_size(image), row["objects"]
                except ImageError as error:
                    yield Problem(name, error.reason, str(image))


def _boxes(objects: Any, key: str) -> list[Any]:
    """What stands under a key of a row's objects, be they a list of structs or a struct of lists."""
    if isinstance(objects, Mapping):
        return list(objects.get(key) or ())
    return [row[key] for row in objects or () if isinstance(row, Mapping) and row.get(key) is not None]


def _are_corners(boxes: Iterable[tuple[Any, tuple[int, int]]]) -> bool:
    """Whether boxes of a form that has (width, height) last can only be corners: as corners all lie in their pictures, as sizes
    some leave them. The hub's copies of COCO are of both forms.

    Args:
        boxes: (the four numbers, the picture's size) of every box of a file.
    """
    leaves = False
    for box, size in boxes:
        try:
            a, b, c, d = map(float, box)
        except (TypeError, ValueError):
            # It is counted where the box is read.
            continue
        # Numbers are rounded, and a box may end a pixel outside.
        right, bottom = (1.01 * side + 1 for side in size)
        if not (a <= c <= right and b <= d <= bottom):
            return False
        leaves = leaves or a + c > right or b + d > bottom
    return leaves


def _class_names(schema: Any) -> list[str]:
    """The names of an integer category, from the metadata `datasets` writes beside the schema."""
    try:
        objects = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["objects"]
        # A list of structs is written as [{…}], as {"feature": {…}} or as the struct of its lists.
        struct = objects[0] if isinstance(objects, list) else objects.get("feature", objects)
        found = next(struct[key] for key in _NAMES if key in struct)
        return list(found.get("feature", found)["names"])
    except (KeyError, TypeError, ValueError, IndexError, StopIteration, AttributeError):
        return []


def _of_row(objects: Any, classes: Sequence[str], sized: bool) -> Iterator[BoxedObject]:
    if isinstance(objects, Mapping):
        keys = [key for key in (*_NAMES, *_BOXES, "depth") if objects.get(key) is not None]
        objects = [dict(zip(keys, values, strict=True)) for values in zip(*(objects[key] for key in keys), strict=True)]
    for row in objects or ():
        if int((row.get("parts") or {}).get("part_level") or 0) > 0:
            # A door's handle is a part of the door.
            continue
        named = next(row[key] for key in _NAMES if row.get(key) is not None)
        # ADE20K names an object by all its synonyms: "person, individual, someone".
        name = (classes[named] if isinstance(named, int) else str(named)).partition(",")[0].strip()
        key = next((key for key in _BOXES if row.get(key) is not None), None)
        if key is not None:
            box = _corner_form(row[key], _BOXES[key] and sized)
        else:
            across, down = row["polygon"]["x"], row["polygon"]["y"]
            box = (float(min(across)), float(min(down)), float(max(across)), float(max(down)))
        if not all(map(math.isfinite, box)):
            raise ValueError(f"the box of {name} is not finite")
        yield BoxedObject(name, box, bool(row.get("iscrowd")), _at_depth(row.get("depth")))


def with_ids_of_their_own(found: Iterable[Found]) -> Iterator[Found]:
    """Yield pictures and problems; a picture with the id of an earlier one is a problem."""
    seen: set[str] = set()
    for one in found:
        if isinstance(one, BoxedPicture):
            if one.id in seen:
                one = Problem(one.id, "duplicate_id", "an earlier picture has this id; that one is used")
            else:
                seen.add(one.id)
        yield one
