"""Which picture files are usable, and what their pixels become."""

import errno
import json
import math
import os
import re
import struct
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from pipeline.data import images
from pipeline.data.images import (
    REASONS,
    ImageError,
    check_image,
    check_images,
    inside,
    open_rgb,
    paths_inside,
    picture_digest,
    picture_size,
    quick_look,
)
from tests.pictures import bomb


def picture(path: Path, size: tuple[int, int] = (32, 24), color: object = (200, 30, 30), **save: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **save)  # type: ignore[arg-type]
    return path


def noise(path: Path) -> Path:
    Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(path)
    return path


def cut(path: Path, keep: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tiff"])
def test_a_whole_picture_is_usable(tmp_path: Path, suffix: str) -> None:
    assert check_image(picture(tmp_path / f"a.{suffix}")) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_kind_of_broken_file_has_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    # Opening it would wait for ever.
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "drawing.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    # Pillow reads it; no image set needs it.
    Image.new("RGB", (9, 9)).save(tmp_path / "pixmap.ppm")
    reasons = {
        tmp_path / "none.jpg": "missing_image",
        tmp_path / "folder.jpg": "missing_image",
        tmp_path / "pipe.jpg": "missing_image",
        tmp_path / ("x" * 300): "missing_image",
        tmp_path / "empty.jpg": "empty_image",
        tmp_path / "text.jpg": "unreadable_image",
        tmp_path / "drawing.jpg": "unreadable_image",
        tmp_path / "pixmap.ppm": "unreadable_image",
        cut(noise(tmp_path / "cut.jpg"), 0.5): "truncated_image",
        cut(noise(tmp_path / "nearly.jpg"), 0.97): "truncated_image",
        cut(noise(tmp_path / "cut.png"), 0.5): "truncated_image",
        bomb(tmp_path / "bomb.png", 30_000): "decompression_bomb",
        bomb(tmp_path / "between.png", 10_000): "decompression_bomb",
    }
    assert {path: check_image(path) for path in reasons} == reasons
    assert set(reasons.values()) == set(REASONS)


def test_the_size_limit_is_tested_before_anything_is_decoded(tmp_path: Path) -> None:
    # Its pixels cannot be decoded, so any other order would say truncated_image.
    assert check_image(bomb(tmp_path / "a.png", 101), max_pixels=100 * 100) == "decompression_bomb"
    assert check_image(bomb(tmp_path / "b.png", 100), max_pixels=100 * 100) == "truncated_image"
    assert check_image(picture(tmp_path / "c.png", (100, 100)), max_pixels=100 * 100) is None


def test_the_size_of_a_picture_is_told_without_decoding_it(tmp_path: Path) -> None:
    cut = picture(tmp_path / "whole.jpg", size=(40, 30))
    cut.write_bytes(cut.read_bytes()[:-10])
    assert picture_size(cut) == (40, 30)
    with pytest.raises(ImageError, match="decompression_bomb"):
        picture_size(bomb(tmp_path / "bomb.png", 20_000))


def test_open_rgb_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"bomb\.png: decompression_bomb"):
        open_rgb(bomb(tmp_path / "bomb.png", 30_000))


def test_a_phone_photograph_comes_out_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "black")
    # The left half as stored is the top half as taken.
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = open_rgb(tmp_path / "a.jpg")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[0] > 200  # type: ignore[index]
    assert upright.getpixel((10, 35))[0] < 50  # type: ignore[index]


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    assert check_images([path], tmp_path / "cache.json") == {}


def test_every_pixel_format_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.save(tmp_path / "animated.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), (0, 0, 255))])
    Image.new("RGBA", (8, 8), (0, 255, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "clear_grey.png")
    Image.frombytes("I;16", (8, 8), struct.pack("<H", 0x8000) * 64).save(tmp_path / "deep.png")
    Image.frombytes("I;16B", (8, 8), struct.pack(">H", 0x8000) * 64).save(tmp_path / "swapped.tiff")
    Image.frombytes("I;16B", (8, 8), struct.pack(">H", 200) * 64).save(tmp_path / "dark.tiff")
    Image.new("F", (8, 8), 100.4).save(tmp_path / "float.tiff")
    Image.new("I", (8, 8), 100).save(tmp_path / "shallow.tiff")
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    expected = {
        "palette.png": (255, 0, 0),
        "cmyk.jpg": (255, 0, 0),
        # The first frame.
        "animated.gif": (255, 0, 0),
        # What is seen on a page, not the green stored under it.
        "clear.png": (255, 255, 255),
        "clear_grey.png": (255, 255, 255),
        # Half of 16 bits is half of 8, not white.
        "deep.png": (128, 128, 128),
        "swapped.tiff": (128, 128, 128),
        "dark.tiff": (0, 0, 0),
        "float.tiff": (100, 100, 100),
        "shallow.tiff": (100, 100, 100),
        "bits.png": (255, 255, 255),
    }
    for name, color in expected.items():
        image = open_rgb(tmp_path / name)
        assert image.mode == "RGB", name
        assert all(abs(a - b) <= 2 for a, b in zip(image.getpixel((4, 4)), color, strict=True)), name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("F", (0.0, 0.9)),
        ("F", (0.0, 4000.0)),
        ("F", (-1.0, 200.0)),
        # As depth is, where nothing was measured in the corner.
        ("F", (math.nan, 0.9)),
        ("I", (0, 1 << 20)),
        ("I", (-5, 9)),
    ],
)
def test_values_of_32_bits_that_would_all_turn_black_or_white_are_refused(
    tmp_path: Path, mode: str, values: tuple[float, float]
) -> None:
    image = Image.new(mode, (8, 8), values[0])
    image.putpixel((4, 4), values[1])
    image.save(tmp_path / "measured.tiff")
    assert check_image(tmp_path / "measured.tiff") == "unreadable_image"
    with pytest.raises(ImageError, match="of which nobody knows what is white"):
        open_rgb(tmp_path / "measured.tiff")


def test_no_index_can_name_a_file_outside_the_data(tmp_path: Path) -> None:
    root = tmp_path / "data"
    picture(root / "image" / "a.jpg")
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "data2" / "b.jpg")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "out").symlink_to(tmp_path)
    (root / "in.jpg").symlink_to("image/a.jpg")
    (root / "loop").symlink_to("loop")
    assert inside(root, "image/a.jpg") == root / "image/a.jpg"
    assert inside(root, "image/../image/a.jpg") is not None
    assert inside(root, "in.jpg") is not None
    refused = ["../secret.jpg", "image/../../secret.jpg", str(tmp_path / "secret.jpg"), str(root / "image/a.jpg")]
    refused += ["link.jpg", "out/secret.jpg", "out/data/../secret.jpg", "../data2/b.jpg", "", ".", "a\0b", "/"]
    assert [path for path in refused if inside(root, path) is not None] == []


def test_links_are_looked_up_once_for_the_files_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image" / "awe").mkdir(parents=True)
    looked = Mock(wraps=os.path.realpath)
    monkeypatch.setattr(os.path, "realpath", looked)
    find = paths_inside(tmp_path)
    assert all(find(f"image/awe/{number}.jpg") for number in range(100))
    assert looked.call_count == 2


def test_a_linked_data_folder_is_still_inside_itself(tmp_path: Path) -> None:
    picture(tmp_path / "real" / "a.jpg")
    (tmp_path / "data").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "data", "a.jpg") == tmp_path / "data/a.jpg"


def test_a_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, gone = picture(tmp_path / "a.jpg"), cut(noise(tmp_path / "b.jpg"), 0.5), tmp_path / "c.jpg"
    cache = tmp_path / "cache" / "checked.json"
    expected = {bad: "truncated_image", gone: "missing_image"}
    assert check_images([good, bad, gone, good], cache) == expected
    monkeypatch.setattr(images, "open_rgb", lambda *_: pytest.fail("decoded again"))
    assert check_images([good, bad, gone], cache) == expected


def test_a_changed_file_is_checked_again(tmp_path: Path) -> None:
    path, cache = picture(tmp_path / "a.jpg"), tmp_path / "checked.json"
    assert check_images([path], cache) == {}
    cut(path, 0.5)
    assert check_images([path], cache) == {path: "truncated_image"}
    picture(path)
    assert check_images([path], cache) == {}
    path.unlink()
    assert check_images([path], cache) == {path: "missing_image"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT, errno.ESTALE, errno.EMFILE])
def test_a_file_the_system_does_not_give_is_missing_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path, cache = picture(tmp_path / "a.jpg"), tmp_path / "checked.json"
    with monkeypatch.context() as refusing:
        refusing.setattr(images.Image, "open", Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(ImageError, match=re.escape(os.strerror(number))):
            open_rgb(path)
        assert check_images([path], cache) == {path: "missing_image"}
        # So many anew are more than a quick look takes.
        with quick_look(0) as look:
            assert check_images([path], cache) == {}
        assert look.skipped == 1
        refusing.setattr(images, "file_digest", Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(ImageError, match="missing_image"):
            picture_digest(path)
    assert check_images([path], cache) == {}


def test_another_size_limit_checks_again(tmp_path: Path) -> None:
    path, cache = picture(tmp_path / "a.jpg"), tmp_path / "checked.json"
    assert check_images([path], cache) == {}
    assert check_images([path], cache, max_pixels=5) == {path: "decompression_bomb"}
    assert check_images([path], cache) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"max_pixels": 67108864}', json.dumps({"images": 3})])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "checked.json"
    cache.write_text(content)
    assert check_images([picture(tmp_path / "a.jpg")], cache) == {}
    assert json.loads(cache.read_text())["images"]


def test_a_killed_check_keeps_what_it_had_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"{number}.jpg") for number in range(4)]
    cache = tmp_path / "checked.json"
    monkeypatch.setattr(images, "_SAVE_EVERY", 2)
    real, calls = images.check_image, []

    def killed_at_the_third(path: Path, max_pixels: int) -> str | None:
        calls.append(path)
        if path == paths[2] and len(calls) <= 4:
            raise KeyboardInterrupt
        return real(path, max_pixels)

    monkeypatch.setattr(images, "check_image", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        check_images(paths, cache)
    calls.clear()
    calls.extend([Path()] * 4)
    assert check_images(paths, cache) == {}
    assert set(calls[4:]) == set(paths[2:])
