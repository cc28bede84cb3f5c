"""What was read is told in one line: how many of how many, why not, and the first of each kind."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipeline.data.images import check_images, quick_look
from pipeline.data.usable_rows import pictures_line, usable_counts, usable_line
from pipeline.types import Problem, Split, labelled_image

ROWS = tuple(labelled_image(str(number), Path("x.png"), "a") for number in range(21))


def line(split: Split) -> str:
    return usable_line("train", usable_counts(split))


def test_every_reason_is_counted_the_commonest_first_and_named() -> None:
    lost = [Problem(f"n{number}", "not_an_image") for number in range(17)] + [Problem("big", "decompression_bomb")] * 2
    assert line(Split(ROWS, tuple(lost))) == (
        "warning: train: 21 of 40 pictures usable: not_an_image 17 (first: n0), decompression_bomb 2 (first: big)"
    )


def test_a_whole_set_and_rows_that_are_kept_are_no_warning() -> None:
    assert line(Split(ROWS)) == "train: all 21 pictures usable"
    assert line(Split(ROWS, (Problem("0", "unreadable_annotation"), Problem("1", "label_spelling")))) == (
        "train: all 21 pictures usable"
    )


def test_a_slice_is_told_of_its_whole_split_and_a_few_lost_are_no_warning() -> None:
    assert line(Split(ROWS[:2], (Problem("x", "empty_image"),), whole=21)) == (
        "train: 21 of 22 pictures usable: empty_image 1 (first: x)"
    )


def test_a_quick_look_decodes_few_pictures_and_says_how_many_it_left(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    paths[0].write_bytes(b"broken")
    with quick_look(3) as look:
        assert check_images(paths, tmp_path / "cache.json") == {}
    assert look.skipped == 4
    with quick_look(4) as look:
        assert check_images(paths, tmp_path / "cache.json") == {paths[0]: "unreadable_image"}
    assert look.skipped == 0
    paths[1].write_bytes(b"broken since")
    # What is known stays known.
    with quick_look(0) as look:
        assert check_images(paths, tmp_path / "cache.json") == {paths[0]: "unreadable_image"}
    assert look.skipped == 1


def test_of_rows_that_are_counted_elsewhere_the_pictures_alone_are_told() -> None:
    lost = [Problem("a", "missing_answer"), Problem("b", "missing_image"), Problem("c", "missing_image")]
    assert pictures_line("train", usable_counts(Split(ROWS, tuple(lost[:1])))) == "train: all pictures usable"
    assert pictures_line("train", usable_counts(Split(ROWS, tuple(lost)))) == (
        "warning: train: left out when they are read: missing_image 2 (first: b)"
    )
