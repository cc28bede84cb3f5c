"""Pictures and names as people have them: phone formats, names that are no UTF-8, labels spelled in two ways, large texts."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from pipeline.config.schema import TaskConfig
from pipeline.data import image_sets
from pipeline.data.images import check_image, open_rgb
from pipeline.data.load import load_task
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import ROOT

RED = Image.fromarray(numpy.full((16, 16, 3), (200, 30, 40), numpy.uint8))


def folder(root: Path) -> Task:
    return load_task(TaskConfig("imagefolder", str(root)), root.parent / "cache")


def put(path: Path | bytes, image: Image.Image = RED) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        image.save(file, "PNG")


@pytest.mark.parametrize("suffix", [".avif", ".tif", ".tiff", ".jfif", ".jpe", ".JPG", ".webp", ".bmp", ".gif"])
def test_every_format_a_camera_or_a_browser_writes_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "data" / "train" / "red" / f"a{suffix}"
    path.parent.mkdir(parents=True)
    RED.save(path, {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG"}.get(suffix))
    (row,) = folder(tmp_path / "data").read("train").rows
    assert open_rgb(row.images[0]).getpixel((3, 3))[0] > 150


def test_avif_and_tiff_within_parquet_are_read(tmp_path: Path) -> None:
    paths = [tmp_path / "a.avif", tmp_path / "b.tiff"]
    for path in paths:
        RED.save(path)
    table = {"image": [path.read_bytes() for path in paths], "label": ["red", "red"]}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(table), tmp_path / "data" / "train.parquet")
    split = load_task(TaskConfig("parquet", str(tmp_path / "data")), tmp_path / "cache").read("train")
    assert (len(split.rows), split.problems) == (2, ())


def test_heic_without_its_plug_in_is_counted_with_the_cure(tmp_path: Path) -> None:
    if image_sets.HEIC:
        pytest.skip("the plug-in is here")
    put(tmp_path / "data" / "train" / "red" / "a.png")
    (tmp_path / "data" / "train" / "red" / "b.HEIC").write_bytes(b"x")
    (problem,) = folder(tmp_path / "data").read("train").problems
    assert problem.reason == "not_an_image"
    assert "pip install pillow-heif" in problem.detail


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("stray.png", "without_label"),
        ("IMG 1.JPG", "without_label"),
        ("lake/a.heif.txt", "not_an_image"),
        ("lake/a.raw", "not_an_image"),
        ("lake/notes.docx", "not_an_image"),
        (".DS_Store", None),
        ("__MACOSX/._a.jpg", None),
        ("empty/", None),
        ("readme.txt", None),
        (".thumbnails/a.png", None),
    ],
)
@pytest.mark.parametrize("splits", [False, True])
def test_what_lies_beside_the_labels_is_told_or_is_no_data(
    tmp_path: Path, extra: str, reason: str | None, splits: bool
) -> None:
    for split in ("train/", "test/") if splits else ("",):
        for name in ("red", "blue"):
            put(tmp_path / "data" / f"{split}{name}" / "a.png")
    if extra.endswith("/"):
        (tmp_path / "data" / extra).mkdir()
    else:
        put(tmp_path / "data" / extra)
    task = folder(tmp_path / "data")
    assert sorted(task.labels.names) == ["blue", "red"]
    found = [problem for split in task.splits for problem in task.read(split).problems]
    assert [(problem.id, problem.reason) for problem in found] == ([(extra, reason)] if reason else [])


def test_pictures_without_any_label_are_counted_in_the_refusal(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    put(tmp_path / "data" / "b.png")
    with pytest.raises(UserError, match="the 2 pictures directly in it have no label"):
        folder(tmp_path / "data")


def test_heic_is_read_by_its_plug_in(tmp_path: Path) -> None:
    # A stand-in that reads BMP under HEIF's name. In a process of its own, for what is installed is looked at once, at import.
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import BmpImagePlugin, Image\n"
        "class Heif(BmpImagePlugin.BmpImageFile):\n"
        "    format = 'HEIF'\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Heif, lambda prefix: prefix.startswith(b'BM'))\n"
    )
    for name in ("a.heic", "b.HEIF"):
        put(tmp_path / "data" / "train" / "red" / "x.png")
        RED.save(tmp_path / "data" / "train" / "red" / name, "BMP")
    (tmp_path / "data" / "train" / "red" / "x.png").unlink()
    (tmp_path / "data" / "train" / "red" / "c.heic").write_bytes(b"BM, and then nothing")
    code = (
        "import sys; from pathlib import Path; from pipeline.config.schema import TaskConfig\n"
        "from pipeline.data.load import load_task; from PIL import Image\n"
        # Else Pillow's own reader takes it.
        "Image.preinit(); Image.ID.remove('BMP')\n"
        "split = load_task(TaskConfig('imagefolder', sys.argv[1]), Path(sys.argv[2])).read('train')\n"
        "print([row.id for row in split.rows], split.problem_counts)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "['train/red/a.heic', 'train/red/b.HEIF'] {'truncated_image': 1}", done.stderr


@pytest.mark.parametrize("kind", ["text", "international", "profile", "behind the pixels"])
def test_a_png_whose_text_unpacks_to_megabytes_is_read(tmp_path: Path, kind: str) -> None:
    path, long = tmp_path / "a.png", "x" * 3_000_000
    info = PngImagePlugin.PngInfo()
    if kind == "text":
        info.add_text("prompt", long, zip=True)
    elif kind == "international":
        info.add_itxt("prompt", long, zip=True)
    RED.save(path, pnginfo=info, icc_profile=long.encode() if kind == "profile" else None)
    if kind == "behind the pixels":
        data = path.read_bytes()
        body = b"zTXtprompt\0\0" + zlib.compress(long.encode())
        chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
        path.write_bytes(data[:-12] + chunk + data[-12:])
    assert path.stat().st_size < 100_000
    assert check_image(path) is None
    assert open_rgb(path).getpixel((3, 3)) == (200, 30, 40)


@pytest.mark.parametrize("damage", [9, 20, 45])
def test_a_damaged_png_is_still_damaged(tmp_path: Path, damage: int) -> None:
    put(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:damage])
    assert check_image(tmp_path / "a.png") in ("unreadable_image", "truncated_image")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe.png", b"\xb0\xa1.png", b"a\x80b.png"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_file_name_that_is_not_utf8_is_a_row_with_a_cure_and_no_traceback(
    tmp_path: Path, name: bytes, split: str
) -> None:
    red = tmp_path / "data" / f"{split}red"
    for number in range(20):
        put(red / f"{number}.png")
    put(os.fsencode(red) + b"/" + name)
    splits = [folder(tmp_path / "data").select(name) for name in folder(tmp_path / "data").splits]
    problems = [problem for split in splits for problem in split.problems]
    assert [(problem.reason, problem.id.isascii() and "\\x" in problem.id) for problem in problems] == [
        ("unwritable_name", True)
    ]
    assert "rename it" in problems[0].detail
    assert sum(len(split.rows) for split in splits) == 20


def test_a_label_s_folder_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "data" / "train" / "red" / "a.png")
    put(os.fsencode(tmp_path / "data" / "train") + b"/caf\xe9/b.png")
    task = folder(tmp_path / "data")
    assert task.labels.names == ("red",)
    assert task.read("train").problem_counts == {"unwritable_name": 1}
    put(os.fsencode(tmp_path / "data") + b"/t\xe9st/red/b.png")
    with pytest.raises(UserError, match=r"t\\xe9st' is not UTF-8; rename it"):
        folder(tmp_path / "data")


def test_a_nested_folder_is_told_with_its_pictures(tmp_path: Path) -> None:
    put(tmp_path / "data" / "train" / "red" / "a.png")
    for number in range(3):
        put(tmp_path / "data" / "train" / "red" / "more" / "deep" / f"{number}.png")
    (problem,) = folder(tmp_path / "data").read("train").problems
    assert problem.detail.startswith("3 pictures in it are not read")


@pytest.mark.parametrize("odd", ["", " ", "---", "\t", "\u2003", None])
def test_one_blank_label_costs_one_row(tmp_path: Path, odd: str | None) -> None:
    put(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [data] * 3, "label": ["red", odd, "blue"]}), tmp_path / "train.parquet")
    task = load_task(TaskConfig("parquet", str(tmp_path / "train.parquet")), tmp_path / "cache")
    split = task.read("train")
    assert task.labels.names == ("blue", "red")
    assert (len(split.rows), len(split.problems)) == (2, 1)


@pytest.mark.parametrize(
    ("spelled", "labels"),
    [
        (["red", "red", "RED", "blue"], ("blue", "red")),
        (["hot dog", "hot_dog", "hot dog", "Hot-Dog"], ("hot dog",)),
        (["Rot", "rot ", "Rot"], ("Rot",)),
        (["ＲＥＤ", "red", "red"], ("red",)),
        # Letters are told apart by case.
        (["a", "A", "b"], ("A", "a", "b")),
    ],
)
def test_a_label_spelled_in_two_ways_is_one_label_the_commoner_and_said(
    tmp_path: Path, spelled: list[str], labels: tuple[str, ...]
) -> None:
    put(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [data] * len(spelled), "label": spelled}), tmp_path / "train.parquet")
    task = load_task(TaskConfig("parquet", str(tmp_path / "train.parquet")), tmp_path / "cache")
    split = task.read("train")
    assert task.labels.names == labels
    assert len(split.rows) == len(spelled)
    assert {row.gold for row in split.rows} == set(labels)
    odd = sum(label not in labels for label in spelled)
    assert split.problem_counts == ({"label_spelling": odd} if odd else {})


def test_folders_that_differ_in_case_are_one_label(tmp_path: Path) -> None:
    for name in ("red/1", "red/2", "RED/3", "blue/4"):
        put(tmp_path / "data" / "train" / f"{name}.png")
    task = folder(tmp_path / "data")
    assert task.labels.names == ("blue", "red")
    assert task.read("train").problem_counts == {"label_spelling": 1}
