"""Questions from boxes: what is asked is true of the annotations, what is drawn is where they say, nothing tells the answer."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.data.spatial.ask import BoxQuestion, ask
from pipeline.data.spatial.files import read_file
from pipeline.data.spatial.pictures import BoxedPicture
from pipeline.errors import UserError
from pipeline.types import Question, Split

NAMES = ["cup", "dog", "lamp", "wine glass"]
SIZE = (200, 160)
INK = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
# Name and (left, top, width, height) in pixels: two cups, a dog right of both, a lamp below the dog.
TABLE = [("cup", (10, 20, 30, 40)), ("cup", (60, 30, 30, 40)), ("dog", (120, 10, 60, 50)), ("lamp", (130, 90, 40, 60))]


def put_coco(
    root: Path, pictures: list[list[tuple[str, tuple[int, ...]]]], split: str = "train2017", **extra: Any
) -> Path:
    """COCO's layout: each object a grey rectangle of its own shade on white."""
    images, annotations = [], []
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, objects in enumerate(pictures):
        picture = Image.new("RGB", SIZE, "white")
        pen = ImageDraw.Draw(picture)
        for shade, (name, (left, top, width, height)) in enumerate(objects):
            pen.rectangle((left, top, left + width - 1, top + height - 1), fill=(60 + 20 * shade,) * 3)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": NAMES.index(name),
                    "bbox": [left, top, width, height],
                }
                | {"iscrowd": 0}
                | extra
            )
        picture.save(root / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(whole))
    return file


def read(root: Path | None, split: str = "train", cache: str = "cache", **options: Any) -> Split:
    place = (root or Path()).parent / cache
    options = {"held_share": 0, **options}
    return load_task(TaskConfig("spatial", path=str(root) if root else None, options=options), place).read(split)


def boxed(question: Question) -> dict[str, tuple[int, int, int, int]]:
    """{colour: (left, top, right, bottom)} of what the coloured lines of a question's picture enclose."""
    pixels = np.asarray(Image.open(question.images[0]).convert("RGB"))
    found = {}
    for colour, ink in INK.items():
        rows, columns = np.nonzero((pixels == ink).all(axis=2))
        if len(rows):
            # The line is one pixel wide and stands just outside.
            found[colour] = (columns.min() + 1, rows.min() + 1, columns.max(), rows.max())
    return found


def right(question: Question) -> str:
    return question.options["ABCD".index(question.answer or "")]


def reasons(split: Split) -> dict[str, int]:
    return split.problem_counts


# ---- one picture by hand


def test_a_picture_by_hand_is_asked_what_its_boxes_say(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE])
    found = read(tmp_path / "set", questions=20, balanced=False)
    counts = {row.text.partition("\n")[0]: right(row) for row in found.rows if row.groups["task"] == "Count"}
    assert counts == {
        'How many instances of "cup" does the picture show?': "2",
        'How many instances of "dog" does the picture show?': "1",
        'How many instances of "lamp" does the picture show?': "1",
    }
    relations = [row for row in found.rows if row.groups["task"] == "Relation"]
    # Six pairs, of which no two boxes overlap on both axes.
    assert len(relations) == 6
    by_box = {(left, top, left + width, top + height): name for name, (left, top, width, height) in TABLE}
    for row in relations:
        marks = boxed(row)
        said = {colour: name for name, colour in re.findall(r"the (cup|dog|lamp) \((red|blue) box\)", row.text)}
        assert {colour: by_box[box] for colour, box in marks.items()} == said
        red, blue = marks["red"], marks["blue"]
        middle = [(box[0] + box[2], box[1] + box[3]) for box in (red, blue)]
        if set(row.options) == {"left", "right"}:
            assert right(row) == ("left" if middle[0][0] < middle[1][0] else "right")
        else:
            assert right(row) == ("above" if middle[0][1] < middle[1][1] else "below")
        assert row.text.endswith(f"\n(A) {row.options[0]}\n(B) {row.options[1]}")
        assert row.cluster == "COCO-0"
        assert row.groups == {"type": "2D", "task": "Relation", "source": "COCO"}
    # The dog is not beside the lamp.
    ends = [row for row in relations if {"dog", "lamp"} <= set(re.findall("dog|lamp", row.text))]
    assert [set(row.options) for row in ends] == [{"above", "below"}]
    assert reasons(found) == {"without_depth": 2}


def test_only_what_is_asked_for_is_asked_and_it_is_told_where_depth_is_missing(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE])
    assert {row.groups["task"] for row in read(tmp_path / "set", kinds=["relation"]).rows} == {"Relation"}
    found = read(tmp_path / "set", kinds=["depth"])
    assert (found.rows, [problem.id for problem in found.problems]) == ((), ["train-depth"])
    assert "task.options.lower_edge=true" in found.problems[0].detail


def test_a_guess_from_lower_edges_is_marked_and_is_what_level_ground_gives(tmp_path: Path) -> None:
    # All stand below the horizon at 80: at 100, 120 and 140.
    ground = [("cup", (10, 60, 20, 40)), ("dog", (90, 60, 20, 60)), ("lamp", (150, 60, 20, 80))]
    put_coco(tmp_path / "set", [ground])
    found = read(tmp_path / "set", kinds=["depth", "distance"], questions=9, lower_edge=True)
    depth = [row for row in found.rows if row.groups["task"] == "Depth"]
    order = ["lamp", "dog", "cup"]
    assert len(depth) == 3
    for row in depth:
        assert right(row) == min(row.options, key=order.index)
        assert row.groups["depth_from"] == row.facts["depth_from"] == "lower edge"
        assert row.groups["type"] == "3D"
    # In heights of the camera: z = 200 / (lower edge - 80), x = (middle - 100) / (lower edge - 80).
    stand = {"cup": (-4.0, 10.0), "dog": (0.0, 5.0), "lamp": (1.0, 200 / 60)}
    (distance,) = [row for row in found.rows if row.groups["task"] == "Distance"]
    goal, first, second = re.findall(r"the ([a-z]+) \((?:red|blue|green) box\)", distance.text)
    far = {name: np.hypot(*np.subtract(stand[name], stand[goal])) for name in (first, second)}
    assert right(distance) == min(far, key=far.__getitem__)


# ---- 3-D boxes


def put_omni3d(root: Path, centres: dict[str, tuple[float, float, float]], **extra: Any) -> None:
    root.mkdir(parents=True)
    Image.new("RGB", SIZE, "white").save(root / "a.png")
    rows = []
    for number, (name, centre) in enumerate(centres.items()):
        box = [10 + 45 * number, 40, 40 + 45 * number, 90]
        rows.append(
            {"id": number, "image_id": 7, "category_id": number, "category_name": name, "valid3D": True}
            | {
                "bbox2D_tight": [-1, -1, -1, -1],
                "bbox2D_trunc": box,
                "center_cam": centre,
                "dimensions": [0.2, 0.4, 0.2],
            }
            | {"behind_camera": False}
            | extra
        )
    images = [
        {
            "id": 7,
            "file_path": "a.png",
            "width": SIZE[0],
            "height": SIZE[1],
            "K": [[200, 0, 100], [0, 200, 80], [0, 0, 1]],
        }
    ]
    (root / "KITTI_train.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": []}))


def test_depth_and_distance_come_from_3d_boxes(tmp_path: Path) -> None:
    # From the camera: chair 2 m, table 4 m, door 8.06 m. The table is 2 m from the chair, and 4.12 m from the door.
    put_omni3d(tmp_path / "set", {"chair": (0, 0, 2), "table": (0, 0, 4), "door": (1, 0, 8)})
    found = read(tmp_path / "set", questions=9)
    depth = {tuple(sorted(row.options)): right(row) for row in found.rows if row.groups["task"] == "Depth"}
    assert depth == {("chair", "table"): "chair", ("chair", "door"): "chair", ("door", "table"): "table"}
    distance = {}
    for row in found.rows:
        if row.groups["task"] == "Distance":
            distance[re.findall(r"nearer to the (\w+) \(red box\)", row.text)[0]] = right(row)
            assert set(boxed(row)) == {"red", "blue", "green"}
    # One triple, and any of the three in red.
    assert len(distance) == 1
    assert distance.items() <= {"chair": "table", "table": "chair", "door": "table"}.items()
    assert {row.groups.get("depth_from", "") for row in found.rows} == {"", "3-D boxes"}
    # Omni3D is not annotated to the last object.
    assert {row.groups["task"] for row in found.rows} == {"Relation", "Depth", "Distance"}


def test_several_data_sets_in_one_folder_are_one_set(tmp_path: Path) -> None:
    put_omni3d(tmp_path / "set", {"chair": (0, 0, 2), "table": (0, 0, 4)})
    put_coco(tmp_path / "set", [TABLE])
    (tmp_path / "set" / "annotations" / "captions_train2017.json").write_text("[]")
    found = read(tmp_path / "set", kinds=["relation", "depth"])
    assert {(row.id, row.groups["source"]) for row in found.rows} >= {
        ("Omni3D-7-relation-0-1", "Omni3D"),
        ("Omni3D-7-depth-0-1", "Omni3D"),
    }
    assert {row.groups["source"] for row in found.rows} == {"Omni3D", "COCO"}


def test_equal_depths_are_refused_and_counted(tmp_path: Path) -> None:
    # 5 m and 5.5 m: the smaller is less by 9 %.
    put_omni3d(tmp_path / "set", {"chair": (0, 0, 5), "table": (0, 0, 5.5)})
    found = read(tmp_path / "set", kinds=["depth"])
    assert (found.rows, reasons(found)) == ((), {"equal_depth": 1})


def test_a_box_without_a_place_in_space_is_not_asked_for_it(tmp_path: Path) -> None:
    put_omni3d(tmp_path / "set", {"chair": (0, 0, 2), "table": (0, 0, 5)}, valid3D=False, bbox3D_cam=-1)
    assert reasons(read(tmp_path / "set", kinds=["depth"])) == {"without_depth": 1}


# ---- what is refused


@pytest.mark.parametrize(
    "told",
    [
        {"category_name": "dontcare"},
        {"category_name": "void", "valid3D": False},
        {"visibility": 0.0},
        {"truncation": 1.0},
        {"lidar_pts": 0},
        {"segmentation_pts": 0},
        {"depth_error": 0.6},
        {"dimensions": [-1, -1, -1]},
    ],
)
def test_what_omni3d_says_to_ignore_is_asked_about_by_no_question(tmp_path: Path, told: dict[str, Any]) -> None:
    known = {"visibility": -1, "truncation": -1, "lidar_pts": -1, "segmentation_pts": -1, "depth_error": -1}
    put_omni3d(tmp_path / "set", {"chair": (0, 0, 2), "table": (0, 0, 4), "door": (1, 0, 8)}, **known)
    file = tmp_path / "set" / "KITTI_train.json"
    whole = json.loads(file.read_text())
    whole["annotations"][2] |= told
    file.write_text(json.dumps(whole))
    found = read(tmp_path / "set", kinds=["relation", "depth"], questions=9)
    assert {row.id for row in found.rows} == {"Omni3D-7-relation-0-1", "Omni3D-7-depth-0-1"}
    assert reasons(found) == {"hidden": 2}


@pytest.mark.parametrize(
    ("objects", "extra", "kind", "expected"),
    [
        (TABLE, {"iscrowd": 1}, "count", {"crowd": 3}),
        # 11 x 11 of 200 x 160 pixels are 0.38 %.
        ([("cup", (10, 10, 11, 11)), ("dog", (80, 80, 40, 40))], {}, "count", {"tiny_box": 1}),
        ([("cup", (10, 10, 11, 11)), ("dog", (80, 80, 40, 40))], {}, "relation", {"tiny_box": 1, "few_objects": 1}),
        ([("cup", (10, 10, 60, 60)), ("dog", (20, 20, 40, 40))], {}, "relation", {"overlapping_boxes": 1}),
        # They overlap on both axes, by less than half.
        ([("cup", (10, 10, 60, 60)), ("dog", (50, 50, 60, 60))], {}, "relation", {"overlapping_boxes": 1}),
        ([("cup", (10 * (n % 13), 30 * (n // 13), 10, 30)) for n in range(13)], {}, "count", {"too_many": 1}),
    ],
)
def test_what_people_would_dispute_is_refused_and_counted(
    tmp_path: Path, objects: Any, extra: dict[str, Any], kind: str, expected: dict[str, int]
) -> None:
    put_coco(tmp_path / "set", [objects], **extra)
    found = read(tmp_path / "set", kinds=[kind], balanced=False)
    told = Counter({problem.reason: int(problem.detail.split()[0]) for problem in found.problems})
    assert told == expected


def test_pictures_that_cannot_be_asked_about_are_problems(tmp_path: Path) -> None:
    file = put_coco(tmp_path / "set", [TABLE, TABLE, TABLE, TABLE])
    whole = json.loads(file.read_text())
    whole["images"][0]["width"] = 999
    whole["images"][1]["file_name"] = "../../etc/passwd"
    whole["annotations"][8]["bbox"] = [1, 2]
    whole["images"].append(dict(whole["images"][3]))
    file.write_text(json.dumps(whole))
    found = read(tmp_path / "set", kinds=["relation"])
    assert reasons(found) == {"another_size": 1, "missing_image": 1, "malformed_row": 1, "duplicate_id": 1}
    assert [row.cluster for row in found.rows] == ["COCO-3"]


def test_boxes_of_parquet_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("RGB", SIZE, "white").save(tmp_path / "one.png")
    picture = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    square = {"x": [100, 150, 150, 100], "y": [40, 40, 90, 90]}
    ade = [
        {"name": "person, individual, someone", "polygon": square, "parts": {"part_level": 0}},
        {"name": "head", "polygon": square, "parts": {"part_level": 1}},
        {"name": "wall", "polygon": {"x": [0, 40, 40], "y": [0, 0, 60]}, "parts": {"part_level": 0}},
    ]
    pq.write_table(
        pa.Table.from_pylist([{"image": picture, "filename": "a.jpg", "objects": ade}]),
        tmp_path / "set/train-0.parquet",
    )
    (row,) = read(tmp_path / "set", kinds=["relation"]).rows
    # A box at the rim has its line within the picture.
    assert (set(boxed(row).values()), row.groups["source"]) == ({(100, 40, 150, 90), (1, 1, 40, 60)}, "ADE20K")
    assert sorted(re.findall(r"the (\w+) \(", row.text)) == ["person", "wall"]
    # The form of detection sets: lists of boxes and of class numbers, whose names are in the metadata.
    detected = {"bbox": [[100.0, 40.0, 50.0, 50.0], [0.0, 0.0, 40.0, 60.0]], "category": [1, 0]}
    table = pa.Table.from_pylist([{"image": picture, "image_id": 5, "objects": detected}])
    names = {"info": {"features": {"objects": {"category": {"names": ["wall", "person"], "_type": "ClassLabel"}}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "set/val-0.parquet")
    (other,) = read(tmp_path / "set", "val", kinds=["relation"]).rows
    assert set(boxed(other).values()) == {(100, 40, 150, 90), (1, 1, 40, 60)}
    assert other.cluster == "ADE20K-5"


@pytest.mark.parametrize(
    ("boxes", "corners"),
    [
        # (left, top, width, height) would leave the picture, which is 200 x 160.
        ([[100, 40, 150, 90], [0, 0, 40, 60]], True),
        # A pixel outside is rounding.
        ([[100, 40, 101, 121], [0, 0, 40, 60]], False),
        # Neither form fits: cut off by the picture's rim, as boxes of persons in films are.
        ([[120, 40, 100, 50], [0, 0, 40, 60]], False),
        ([[20, 20, 60, 60], [100, 100, 110, 120], [0, 0, 199, 10]], True),
    ],
)
@pytest.mark.parametrize("form", ["lists", "structs"])
def test_a_files_boxes_are_corners_where_they_fit_its_pictures_only_so(
    boxes: list[list[int]], corners: bool, form: str, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    Image.new("RGB", SIZE, "white").save(tmp_path / "one.png")
    picture = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    names = ["cup", "dog", "lamp"][: len(boxes)]
    objects: Any = {"bbox": boxes, "category": names}
    if form == "structs":
        objects = [{"bbox": box, "category": name} for box, name in zip(boxes, names, strict=True)]
    row = {"image": picture, "image_id": 1, "objects": objects}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "set/train.parquet")
    found = list(read_file(tmp_path / "set/train.parquet", tmp_path / "set", None, tmp_path / "cache"))
    assert isinstance(found[0], BoxedPicture)
    wanted = [tuple(box) if corners else (box[0], box[1], box[0] + box[2], box[1] + box[3]) for box in boxes]
    assert [one.box for one in found[0].objects] == wanted


def put_depths(root: Path, split: str = "train", **objects: float | None) -> None:
    """A picture of objects beside each other, each as far away as is said, in a parquet file."""
    root.mkdir(exist_ok=True)
    Image.new("RGB", SIZE, "white").save(root.parent / "white.png")
    boxes = [
        {"name": name, "box": [10 + 45 * n, 40, 40 + 45 * n, 90], "depth": depth}
        for n, (name, depth) in enumerate(objects.items())
    ]
    row = {"id": 1, "image": {"bytes": (root.parent / "white.png").read_bytes(), "path": None}, "objects": boxes}
    pq.write_table(pa.Table.from_pylist([row]), root / f"{split}-0.parquet")


def test_depths_of_boxes_order_objects_and_tell_no_distance(tmp_path: Path) -> None:
    # The door is one twentieth nearer than the table, which people would dispute.
    put_depths(tmp_path / "set", chair=2.0, table=4.0, door=3.8, lamp=None)
    found = read(tmp_path / "set", questions=9)
    depth = {tuple(sorted(row.options)): right(row) for row in found.rows if row.groups["task"] == "Depth"}
    assert depth == {("chair", "table"): "chair", ("chair", "door"): "chair"}
    assert {row.groups["task"] for row in found.rows} == {"Relation", "Depth"}
    assert {row.groups.get("depth_from", "") for row in found.rows} == {"", "depth of the box"}
    assert (reasons(found)["equal_depth"], reasons(found)["without_depth"]) == (1, 1)
    # As lists, the form of detection sets.
    lists = {"bbox": [[10, 40, 30, 50], [55, 40, 30, 50]], "category": ["chair", "table"], "depth": [9.0, None]}
    rows = pq.read_table(tmp_path / "set/train-0.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**rows[0], "objects": lists}]), tmp_path / "set/val-0.parquet")
    assert reasons(read(tmp_path / "set", "val", kinds=["depth"])) == {"without_depth": 1}


def test_depths_of_annotations_in_cocos_form_are_read(tmp_path: Path) -> None:
    file = put_coco(tmp_path / "set", [TABLE])
    whole = json.loads(file.read_text())
    for number, row in enumerate(whole["annotations"]):
        row["depth"] = 2.0 * (1 + number)
    file.write_text(json.dumps(whole))
    found = read(tmp_path / "set", kinds=["depth"], questions=9)
    assert {right(row) for row in found.rows if set(row.options) == {"dog", "lamp"}} == {"dog"}
    assert all(row.facts["depth_from"] == "depth of the box" for row in found.rows)


@pytest.mark.parametrize("depth", [0.0, -1.0, float("nan"), float("inf")])
def test_a_depth_that_is_none_is_a_problem_of_its_picture(tmp_path: Path, depth: float) -> None:
    put_depths(tmp_path / "set", chair=depth, table=4.0)
    found = read(tmp_path / "set")
    assert (found.rows, reasons(found)) == ((), {"malformed_row": 1})
    assert "the depth" in found.problems[0].detail


# ---- balance, splits, stability


def grid(cups: int, dogs: int) -> list[tuple[str, tuple[int, ...]]]:
    names = ["cup"] * cups + ["dog"] * dogs
    return [(name, (30 * (n % 6), 50 * (n // 6), 20, 30)) for n, name in enumerate(names)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many") / "set"
    put_coco(root, [grid(cups, dogs) for cups, dogs in itertools.product(range(1, 10), range(1, 5))] * 4)
    return root


def test_no_answer_and_no_letter_is_commoner_than_another(many: Path) -> None:
    found = read(many, questions=2)
    relations = Counter((right(row), row.answer) for row in found.rows if row.groups["task"] == "Relation")
    for one, other in (("left", "right"), ("above", "below")):
        cells = [relations[side, letter] for side in (one, other) for letter in "AB"]
        assert min(cells) > 10
        assert max(cells) - min(cells) <= 1
    counts: dict[tuple[str, ...], Counter[str]] = {}
    letters: dict[tuple[str, ...], Counter[str]] = {}
    for row in found.rows:
        if row.groups["task"] == "Count":
            window = tuple(sorted(row.options, key=int))
            counts.setdefault(window, Counter())[right(row)] += 1
            letters.setdefault(window, Counter())[str(row.answer)] += 1
    # 9 cups are 16 times right and 10 never, so that 9 to 12 are not offered.
    assert set(counts) == {("1", "2", "3", "4"), ("5", "6", "7", "8")}
    for window, told in counts.items():
        assert len(set(told.values())) == 1
        assert set(told) == set(window)
        assert max(letters[window].values()) - min(letters[window].values()) <= 4
    assert reasons(found)["unbalanced_answer"] > 0
    assert all(count <= 2 for count in Counter((row.cluster, row.groups["task"]) for row in found.rows).values())


def test_balance_can_be_given_up_for_more_rows(many: Path) -> None:
    kept, all_of_them = (
        len(read(many, kinds=["count"], questions=2, balanced=balanced).rows) for balanced in (True, False)
    )
    # 144 pictures with two names each.
    assert all_of_them == 288
    assert kept < all_of_them


def test_splits_share_no_picture_and_follow_the_files_names(many: Path, tmp_path: Path) -> None:
    # One file that names no split: a hash of the picture's id divides it.
    file = next((many / "annotations").glob("*.json"))
    task = load_task(
        TaskConfig("spatial", path=str(file), options={"images": str(many / "train2017")}), tmp_path / "cache"
    )
    of = {split: {row.cluster for row in task.read(split).rows} for split in task.splits}
    assert list(of) == ["train", "val", "test"]
    assert all(of.values())
    assert len(set.union(*of.values())) == sum(map(len, of.values()))
    # A file of val's own: nothing of train's goes there.
    put_coco(tmp_path / "set", [TABLE] * 40)
    put_coco(tmp_path / "set", [TABLE[1:]] * 2, "val2017")
    task = load_task(TaskConfig("spatial", path=str(tmp_path / "set")), tmp_path / "cache")
    of = {split: len({row.cluster for row in task.read(split).rows}) for split in task.splits}
    assert of["val"] == 2
    assert of["train"] + of["test"] == 40
    assert of["test"] > 0
    (tmp_path / "set" / "annotations" / "instances_train2017.json").unlink()
    assert load_task(TaskConfig("spatial", path=str(tmp_path / "set")), tmp_path / "cache").splits == ("val",)


def test_a_second_read_gives_the_same_rows_and_draws_nothing(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE, TABLE[1:]])
    first = read(tmp_path / "set", questions=9, balanced=False)
    stamps = {path: path.stat().st_mtime_ns for row in first.rows for path in row.images}
    assert read(tmp_path / "set", questions=9, balanced=False) == first
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    again = read(tmp_path / "set", cache="another", questions=9, balanced=False)
    for one, other in zip(first.rows, again.rows, strict=True):
        assert one.id == other.id
        assert one.images[0].read_bytes() == other.images[0].read_bytes()
    ids = [row.id for row in first.rows]
    assert len(set(ids)) == len(ids)
    # Counts are asked of the picture itself.
    assert {row.images[0].parent.name for row in first.rows if row.groups["task"] == "Count"} == {"train2017"}


def test_a_copy_that_a_power_cut_left_empty_is_drawn_again(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE])
    (row,) = read(tmp_path / "set", kinds=["relation"]).rows
    whole = row.images[0].read_bytes()
    row.images[0].write_bytes(b"")
    read(tmp_path / "set", kinds=["relation"])
    assert row.images[0].read_bytes() == whole


def test_gold_is_right_and_the_other_letter_wrong(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE])
    task = load_task(TaskConfig("spatial", path=str(tmp_path / "set"), options={"held_share": 0}), tmp_path / "cache")
    (row,) = [row for row in task.read("train").rows if row.kind == "letter" and row.groups["task"] == "Relation"]
    other = "B" if row.answer == "A" else "A"
    assert task.judge(row, f"<think>x</think><answer>{row.answer}</answer>", "think").correct
    assert task.judge(row, right(row), "direct").correct
    assert not task.judge(row, f"<think>x</think><answer>{other}</answer>", "think").correct
    assert task.prompt(row, "direct").startswith(row.text)
    assert task.chance(row) == 0.5


# ---- augmentation


def mirrored_set(root: Path, pictures: list[Any]) -> list[BoxedPicture]:
    """The same pictures, mirrored by hand and annotated anew."""
    turned = [
        [(name, (SIZE[0] - left - width, top, width, height)) for name, (left, top, width, height) in objects]
        for objects in pictures
    ]
    file = put_coco(root, turned)
    return [one for one in read_file(file, root, None, root) if isinstance(one, BoxedPicture)]


def test_a_mirrored_copy_is_asked_what_a_mirrored_picture_would_be(tmp_path: Path) -> None:
    pictures = [TABLE, TABLE[::-1], TABLE[1:]]
    put_coco(tmp_path / "set", pictures)
    found = read(tmp_path / "set", questions=9, balanced=False, augment=["mirror"])
    rows = {row.id: row for row in found.rows}
    by_hand = {picture.id: picture for picture in mirrored_set(tmp_path / "mirrored", pictures)}
    copies = [row for row in found.rows if row.groups["picture"] == "mirror"]
    assert len(copies) * 2 == len(found.rows)
    for copy in copies:
        original = rows[copy.id.removesuffix("-mirror")]
        assert (copy.text, copy.cluster) == (original.text, original.cluster)
        assert (copy.answer != original.answer) == ("left" in copy.options)
        turned = by_hand[copy.cluster]
        plain = Image.open(tmp_path / "mirrored" / "train2017" / f"{copy.cluster.removeprefix('COCO-')}.png")
        if copy.groups["task"] == "Count":
            assert np.array_equal(np.asarray(Image.open(copy.images[0])), np.asarray(plain))
            continue
        # The objects in the order of the colours, found by where they stand in the mirrored picture.
        marks = boxed(copy)
        numbers = tuple([one.box for one in turned.objects].index(marks[colour]) for colour in ("red", "blue"))
        again = ask(
            turned, BoxQuestion("relation", numbers, copy.options), copy.id, copy.images[0], {"picture": "mirror"}
        )
        assert again == copy


def test_a_crop_keeps_what_is_asked_about_and_the_rest_is_counted(tmp_path: Path) -> None:
    pictures = [TABLE, TABLE[1:], [("cup", (0, 0, 20, 30)), ("dog", (180, 130, 20, 30))]]
    put_coco(tmp_path / "set", pictures)
    found = read(tmp_path / "set", questions=9, balanced=False, augment=["crop"])
    rows = {row.id: row for row in found.rows}
    copies = [row for row in found.rows if row.groups["picture"] == "crop"]
    dropped = [problem for problem in found.problems if problem.reason == "left_the_crop"]
    # The cup and the dog of the third picture stand in opposite corners.
    assert "COCO-2-relation" in {problem.id for problem in dropped}
    originals = len(found.rows) - len(copies)
    assert len(copies) + sum(int(problem.detail.split()[0]) for problem in dropped) == originals
    assert len(copies) > 6
    shades = {name: 60 + 20 * place for place, (name, _) in enumerate(TABLE)}
    for copy in copies:
        original = rows[copy.id.removesuffix("-crop")]
        assert (copy.text, copy.answer) == (original.text, original.answer)
        assert Image.open(copy.images[0]).size == SIZE
        if copy.groups["task"] == "Relation" and copy.cluster == "COCO-0":
            pixels = np.asarray(Image.open(copy.images[0]).convert("L"))
            said = re.findall(r"the (dog|lamp) \((red|blue) box\)", copy.text)
            for name, colour in said:
                left, top, right_edge, bottom = boxed(copy)[colour]
                inside = pixels[top + 3 : bottom - 3, left + 3 : right_edge - 3]
                assert abs(int(np.median(inside)) - shades[name]) <= 2
                # Nothing of the object lies outside its box.
                assert (inside > 250).mean() < 0.02


def test_val_and_test_are_never_augmented_and_nothing_is_by_default(tmp_path: Path) -> None:
    put_coco(tmp_path / "set", [TABLE], "val2017")
    put_coco(tmp_path / "set", [TABLE])
    plain = read(tmp_path / "set", "val")
    assert [row.id for row in read(tmp_path / "set", "val", augment=["mirror", "crop"]).rows] == [
        row.id for row in plain.rows
    ]
    assert all("picture" not in row.groups for row in read(tmp_path / "set").rows)


# ---- the drawn set, and what is refused at the door


def test_without_a_path_pictures_are_drawn_with_all_four_kinds(tmp_path: Path) -> None:
    found = read(None, cache=str(tmp_path), drawn=[40, 4, 4], balanced=False)
    assert {row.groups["task"] for row in found.rows} == {"Count", "Relation", "Depth", "Distance"}
    for row in found.rows:
        if row.groups["task"] == "Depth":
            # A lower row is nearer.
            nearer = max(boxed(row).items(), key=lambda item: item[1][3])[0]
            assert row.answer == {"red": "A", "blue": "B"}[nearer]


def test_every_wrong_option_is_told_at_once(tmp_path: Path) -> None:
    wrong = {"kinds": ["counting"], "questions": 0, "balanced": "yes", "augment": "mirror", "held_share": 0.7}
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig("spatial", options={**wrong, "drawn": [1], "images": str(tmp_path / "none")}), tmp_path)
    assert len(caught.value.problems) == 7
    assert "task.options.kinds: ['counting'] names 'counting', which is none of them" in str(caught.value)


@pytest.mark.parametrize(("text", "said"), [("[1]", "has no lists images and annotations"), ("{", "not JSON")])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="holds neither"):
        read(tmp_path / "set")
    (tmp_path / "set" / "train.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "set")
