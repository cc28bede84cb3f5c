"""Every kind of file a picture may be: an upright JPEG of the right size is sent, or the row gets a reason that is counted."""

from __future__ import annotations

import asyncio
import base64
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cot_builder.teachers import images
from cot_builder.teachers.images import TeacherImage, data_url
from pipeline.data.images import REASONS, ImageError, open_rgb
from pipeline.files import file_digest
from tests.pictures import bomb

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def drawn(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red above green, which shows how it is turned."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (0, size[1] // 2, *size))
    return image


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def clear_palette() -> Image.Image:
    """A palette picture whose first entry, red, is transparent."""
    image = drawn().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def sent(path: Path, longest_side: int = 512) -> Image.Image:
    """The picture as the server sees it."""
    head, _, body = asyncio.run(TeacherImage(path).data_url(longest_side)).partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(BytesIO(base64.b64decode(body, validate=True)))
    image.load()
    assert image.format == "JPEG"
    return image


def save(name: str, image: Image.Image, folder: Path, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def looks(image: Image.Image, top: tuple[int, ...], bottom: tuple[int, ...]) -> bool:
    """Whether the upper and lower half have about these colours."""
    rgb, width, height = image.convert("RGB"), image.width, image.height
    pairs = [(rgb.getpixel((width // 2, height // 4)), top), (rgb.getpixel((width // 2, height * 3 // 4)), bottom)]
    return all(abs(a - b) < 40 for pixel, color in pairs for a, b in zip(pixel, color, strict=True))  # type: ignore[arg-type]


TURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
READABLE = {
    "plain.jpg": (lambda: drawn(), {}, RED, GREEN),
    "progressive.jpg": (lambda: drawn(), {"progressive": True}, RED, GREEN),
    "cmyk.jpg": (lambda: drawn().convert("CMYK"), {}, RED, GREEN),
    "grey.jpg": (lambda: Image.new("L", (60, 40), 128), {}, (128,) * 3, (128,) * 3),
    "upside_down.jpg": (lambda: drawn().transpose(TURNED[3]), {"exif": orientation(3)}, RED, GREEN),
    "left.jpg": (lambda: drawn().transpose(TURNED[6]), {"exif": orientation(6)}, RED, GREEN),
    "right.jpg": (lambda: drawn().transpose(TURNED[8]), {"exif": orientation(8)}, RED, GREEN),
    "palette.png": (lambda: drawn().convert("P"), {}, RED, GREEN),
    "palette_clear.png": (clear_palette, {}, WHITE, GREEN),
    "clear.png": (lambda: Image.new("RGBA", (60, 40), (0, 255, 0, 0)), {}, WHITE, WHITE),
    "bits.png": (lambda: Image.new("1", (60, 40), 1), {}, WHITE, WHITE),
    "deep.png": (lambda: Image.new("I;16", (60, 40), 0x8000), {}, (128,) * 3, (128,) * 3),
    "animated.gif": (lambda: drawn(), {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]}, RED, GREEN),
    "animated.webp": (lambda: drawn(), {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]}, RED, GREEN),
    "still.bmp": (lambda: drawn(), {}, RED, GREEN),
    "still.tiff": (lambda: drawn(), {}, RED, GREEN),
}


@pytest.mark.parametrize("side", [512, 24])
@pytest.mark.parametrize("name", READABLE)
def test_a_readable_picture_is_sent_upright_as_jpeg(tmp_path, name, side):
    draw, options, top, bottom = READABLE[name]
    image = sent(save(name, draw(), tmp_path, **options), side)
    assert image.mode == "RGB" or (image.mode == "L" and name == "grey.jpg" and side == 512)
    assert image.size == ((60, 40) if side == 512 else (24, 16))
    assert looks(image, top, bottom)
    assert not image.getexif()


def test_a_name_says_nothing(tmp_path):
    assert looks(sent(save("really_png.jpg", drawn(), tmp_path, format="PNG")), RED, GREEN)


def unreadable(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.jpg"
    whole = BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(whole, "JPEG")
    data = whole.getvalue()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "bomb":
        bomb(path, 30_000)
    elif kind != "missing":
        middle = len(data) // 2
        contents = {
            "text": b"not a picture",
            "empty": b"",
            "cut": data[:middle],
            "nearly_whole": data[:-2000],
            "header_only": data[:20],
            "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    {
        "missing": "missing_image",
        "directory": "missing_image",
        "pipe": "missing_image",
        "empty": "empty_image",
        "text": "unreadable_image",
        "postscript": "unreadable_image",
        "header_only": "unreadable_image",
        "cut": "truncated_image",
        "nearly_whole": "truncated_image",
        "bomb": "decompression_bomb",
    }.items(),
)
@pytest.mark.timeout(20)
def test_any_other_file_raises_a_counted_reason(tmp_path, kind, reason):
    path = unreadable(kind, tmp_path)
    for side in (512, 24):
        with pytest.raises(ImageError) as raised:
            sent(path, side)
        assert raised.value.reason == reason
    assert reason in REASONS
    if reason == "missing_image":
        with pytest.raises(ImageError) as raised:
            TeacherImage(path).digest  # noqa: B018
        assert raised.value.reason == reason


def test_a_plain_small_jpeg_goes_out_byte_for_byte(tmp_path):
    path = save("plain.jpg", drawn((300, 200)), tmp_path, quality=80)
    assert base64.b64decode(data_url(path, 300).partition(",")[2]) == path.read_bytes()
    assert sent(path, 299).size == (299, 199)


@pytest.mark.parametrize("name", ["exif", "xmp", "comment"])
def test_what_a_camera_wrote_about_its_owner_is_not_sent(tmp_path, name):
    exif = Image.Exif()
    exif[0x013B] = "Jane Doe"
    told = {"exif": exif, "xmp": b"<x:xmpmeta>Jane Doe</x:xmpmeta>", "comment": "Jane Doe"}[name]
    path = save("signed.jpg", drawn(), tmp_path, **{name: told})
    assert b"Jane Doe" in path.read_bytes()
    assert b"Jane Doe" not in base64.b64decode(data_url(path, 512).partition(",")[2])


@pytest.mark.parametrize("size", [(1000, 750), (2000, 301), (301, 2000), (4000, 3000), (1025, 1024)])
@pytest.mark.parametrize("exif", [None, orientation(6)])
def test_a_large_photograph_decoded_small_looks_the_same(tmp_path, size, exif):
    gradient = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn).resize(size) for turn in (0, 90, 180)])
    path = save("photo.jpg", gradient, tmp_path, quality=95, **({"exif": exif} if exif else {}))
    small = sent(path, 512)
    whole = open_rgb(path)
    whole.thumbnail((512, 512))
    assert all(abs(a - b) <= 1 for a, b in zip(small.size, whole.size, strict=True))
    assert max(small.size) == 512
    pairs = zip(small.resize((16, 16)).tobytes(), whole.resize((16, 16)).tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 6


def test_a_picture_is_read_and_encoded_once_however_many_ask(tmp_path, monkeypatch):
    path = save("plain.png", drawn(), tmp_path)
    calls: list[int] = []

    def counted(path: Path, side: int) -> str:
        calls.append(side)
        return data_url(path, side)

    monkeypatch.setattr(images, "data_url", counted)

    async def scenario() -> None:
        picture = TeacherImage(path)
        cancelled = asyncio.create_task(picture.data_url(32))
        await asyncio.sleep(0)
        cancelled.cancel()
        urls = await asyncio.gather(*(picture.data_url(32) for _ in range(5)), picture.data_url(16))
        assert len(set(urls)) == 2
        assert picture.digest == file_digest(path)

    asyncio.run(scenario())
    assert sorted(calls) == [16, 32]


def test_a_picture_replaced_after_its_digest_was_taken_is_not_sent(tmp_path):
    path = tmp_path / "x.png"
    drawn().save(path)
    picture = TeacherImage(path)
    assert picture.digest
    Image.new("RGB", (60, 40), WHITE).save(path)
    with pytest.raises(ImageError, match="replaced during the build"):
        asyncio.run(picture.data_url(32))


def test_a_picture_that_goes_away_between_its_reading_and_its_second_digest_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    drawn().save(path)
    picture = TeacherImage(path)
    assert picture.digest
    encoded = images.data_url

    def unmount(*words):
        url = encoded(*words)
        path.unlink()
        return url

    monkeypatch.setattr(images, "data_url", unmount)
    with pytest.raises(ImageError) as refused:
        asyncio.run(picture.data_url(32))
    assert refused.value.reason == "missing_image"
