"""Pictures on disk: is a file whole, is its path inside the data, and its pixels as RGB.

`open_rgb` is the only decoder and `check_image` runs it, so a picture that passed the check opens later. Limits on the
number of pixels are tested on the header, before anything is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import json
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data.png_chunks import without_large_texts
from pipeline.files import file_digest, write_atomic
from pipeline.system.locks import exclusive

MAX_PIXELS = 64 * 1024 * 1024
"""8192 x 8192: far above any photograph a small VLM is shown, far below what fills a machine's memory."""
HEIC = importlib.util.find_spec("pillow_heif") is not None
"""Whether the plug-in that reads HEIC is installed: pip install pillow-heif."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", *(("HEIF",) if HEIC else ()))
"""The decoders files may reach. Pillow knows others (EPS starts Ghostscript) that no image set needs."""
REASONS = ("missing_image", "empty_image", "unreadable_image", "truncated_image", "decompression_bomb")
"""Every reason `check_image` can give."""

_PRIVATE = frozenset({"exif", "xmp", "comment", "photoshop"})
"""Where a JPEG keeps who took it, where and with what."""
# EXIF's tag for which way is up.
_ORIENTATION = 0x0112
# Files between two writes of what was found: a kill loses a minute of looking at most.
_SAVE_EVERY = 8192
_NO_FILE = [-1, -1]
# The verdict of a file that the system did not give, see `remembered`.
_FLEETING = ("missing_image",)


class ImageError(ValueError):
    """A picture that cannot be used; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, path: Path, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{path}: {reason}{f' ({detail})' if detail else ''}")


def inside(root: Path, relative: str) -> Path | None:
    """Return ``root / relative``, or None when that is not below `root`.

    Absolute paths, ``..`` and symbolic links that lead out are all refused: an index file may come from anyone.
    """
    return paths_inside(root)(relative)


def paths_inside(root: Path) -> Callable[[str], Path | None]:
    """Return `inside` for many paths of one root: what links folders are is looked up once for all files in them."""
    base = os.path.realpath(root)
    folder_of = functools.cache(os.path.realpath)

    def find(relative: str) -> Path | None:
        if not relative or "\0" in relative or os.path.isabs(relative):
            return None
        folder, name = os.path.split(os.path.join(base, relative))
        resolved = os.path.join(folder_of(folder), name)
        if name in ("", os.curdir, os.pardir) or os.path.islink(resolved):
            resolved = os.path.realpath(resolved)
        return root / relative if resolved.startswith(os.path.join(base, "")) else None

    return find


def open_rgb(path: Path, max_pixels: int = MAX_PIXELS, longest_side: int | None = None) -> Image.Image:
    """Decode a picture to RGB, upright.

    EXIF orientation is applied; transparency is laid over white (the colour stored under it is arbitrary); 16-bit grey
    is scaled to 8 bits rather than clipped, and 32-bit values that would be are refused; an animation gives its first frame.

    Args:
        path: the file.
        max_pixels: most pixels it may have.
        longest_side: for a caller that will shrink it to this: a JPEG may be decoded at half, a quarter or an eighth of
            its size, as long as its longest side keeps this many pixels.

    Raises:
        ImageError: when the file is missing, empty, damaged, of a format not in `FORMATS`, or too large.
    """
    with _opened(path, max_pixels) as image:
        if longest_side is not None and (shrink := max(image.size) / longest_side) >= 2:
            # draft() rounds the scale down on both sides, so neither ends below what is asked here.
            image.draft(None, (max(1, int(image.width / shrink)), max(1, int(image.height / shrink))))
        image.load()
        return _to_rgb(image)


def encode_picture(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the bytes of a file of this kind, as Pillow calls it; `options` are its encoder's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels as the header has them, before EXIF turns the picture.

    Raises:
        ImageError: as `open_rgb`, as far as the header shows it.
    """
    with _opened(path, MAX_PIXELS) as image:
        return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels as `open_rgb` gives the picture, told by its header.

    Raises:
        ImageError: as `picture_size`.
    """
    with _opened(path, MAX_PIXELS) as image:
        width, height = image.size
        # EXIF's orientations from 5 on lie on their side.
        return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def picture_digest(path: Path) -> str:
    """Return sha256 of a picture's bytes, which are not decoded.

    Raises:
        ImageError: when the system does not give the file.
    """
    # Opening a pipe would hang.
    if not path.is_file():
        raise ImageError("missing_image", path, "not a file")
    try:
        return file_digest(path)
    except OSError as error:
        raise ImageError("missing_image", path, str(error.strerror)) from error


def plain_jpeg(path: Path, longest_side: int) -> bytes | None:
    """Return the bytes of a JPEG that anyone decodes to the pixels `open_rgb` gives and that tells nothing but the picture: RGB
    or grey, upright, no longer than `longest_side`, whole to its end marker, without EXIF, XMP or comments. Else None.

    Raises:
        ImageError: as `open_rgb`, as far as the header shows it.
    """
    with _opened(path, MAX_PIXELS) as image:
        plain = image.format == "JPEG" and image.mode in ("RGB", "L") and max(image.size) <= longest_side
        if not plain or not _PRIVATE.isdisjoint(image.info):
            return None
        data = path.read_bytes()
        return data if data.endswith(b"\xff\xd9") else None


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """A picture whose header has been read; what goes wrong with it in here is an ImageError."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        # A ValueError: no file can have that name.
        raise ImageError("missing_image", path, str(getattr(error, "strerror", error))) from error
    # Opening a pipe or a device could hang.
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("missing_image", path, "not a file")
    if status.st_size == 0:
        raise ImageError("empty_image", path)
    try:
        _register_heic()
        with Image.open(without_large_texts(path), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("decompression_bomb", path, f"{width} x {height} pixels, the limit is {max_pixels}")
            yield image
    except (ImageError, MemoryError):
        # Neither says that the bytes are damaged.
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("decompression_bomb", path, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError("unreadable_image", path, "no known image format") from error
    except Exception as error:
        # The system's own word: no right to read it, or its disk is away. Pillow's errors have no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError("missing_image", path, str(error.strerror)) from error
        # Decoders raise nearly anything on damaged bytes: SyntaxError, struct.error, …
        reason = "truncated_image" if "truncated" in str(error).lower() else "unreadable_image"
        raise ImageError(reason, path, str(error)) from error


@functools.cache
def _register_heic() -> None:
    if HEIC:
        importlib.import_module("pillow_heif").register_heif_opener()


def _to_rgb(image: Image.Image) -> Image.Image:
    # It would copy a picture that is upright.
    ImageOps.exif_transpose(image, in_place=True)
    # Mode I may also hold plain 8-bit values.
    deep = image.mode.startswith("I;") or (image.mode in ("I", "F") and _highest(image) > 255)
    if image.mode.startswith("I"):
        # convert() clips at 255, which turns a 16-bit picture white.
        # Of the other byte order Pillow scales no values.
        image = image if image.mode == "I;16" else image.convert("I")
        image = (image.point(lambda value: value * (1 / 256)) if deep else image).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _highest(image: Image.Image) -> float:
    """The highest of numbers of 32 bits; refuses those of which nobody knows what is white.

    Clipped to 8 bits they are black or white all over.

    Raises:
        ValueError: when they are no values of 8 bits, nor whole ones of 16.
    """
    low, high = image.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    # Both are NaN where the first value is, which no comparison holds for.
    known = low >= 0 and (1 < high <= 255 if image.mode == "F" else high <= 65535)
    if not known:
        raise ValueError(
            f"values from {low:g} to {high:g}, of which nobody knows what is white; save 8 or 16 bits without a sign"
        )
    return high


def check_image(path: Path, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return none when the whole picture decodes, else one of `REASONS`."""
    try:
        open_rgb(path, max_pixels)
    except ImageError as error:
        return error.reason
    return None


@dataclass
class QuickLook:
    """Pictures that are not decoded in a look that must be quick.

    Args:
        most: pictures of a set that may be decoded; where more are new, none is.
        skipped: how many were left out.
    """

    most: int
    skipped: int = 0

    def limit(self, paths: list[Path], known: Mapping[str, Any], fleeting: Sequence[Any]) -> list[Path]:
        """Return those of `paths` that are looked at."""
        new = _unknown(paths, known, fleeting)
        if len(new) <= self.most:
            return paths
        self.skipped += len(new)
        return [path for path in paths if path not in new]


_LOOK: ContextVar[QuickLook | None] = ContextVar("look", default=None)


@contextlib.contextmanager
def quick_look(most: int) -> Iterator[QuickLook]:
    """Within this, `check_images` takes pictures for usable that it would have to decode, where they are more than `most`."""
    look = QuickLook(most)
    token = _LOOK.set(look)
    try:
        yield look
    finally:
        _LOOK.reset(token)


def may_draw(new: int) -> bool:
    """Return whether so many pictures may be drawn now, and count them as skipped where a quick look forbids it."""
    look = _LOOK.get()
    if look is None or new <= look.most:
        return True
    look.skipped += new
    return False


def check_images(paths: Iterable[Path], cache_file: Path, max_pixels: int = MAX_PIXELS) -> dict[Path, str]:
    """Check many pictures, remembering the verdict of each file for as long as its size and time stay the same.

    Args:
        paths: the files to check.
        cache_file: JSON the verdicts are kept in. Several processes may share it; the first one does the work.
        max_pixels: as for `check_image`.

    Returns:
        The reason of every picture that cannot be used.
    """
    paths, under = list(dict.fromkeys(paths)), {"max_pixels": max_pixels, "formats": list(FORMATS)}
    if (look := _LOOK.get()) is not None:
        paths = look.limit(paths, _read_cache(cache_file, under), _FLEETING)
    with warnings.catch_warnings():
        # Pillow warns about damaged EXIF and large pictures; here every such file is decoded or counted.
        warnings.simplefilter("ignore")
        verdicts = remembered(
            paths,
            cache_file,
            lambda path: check_image(path, max_pixels),
            under=under,
            fleeting=_FLEETING,
            threads=len(os.sched_getaffinity(0)),
        )
    return {path: reason for path, reason in verdicts.items() if reason is not None}


def remembered(
    paths: Iterable[Path],
    cache_file: Path,
    find: Callable[[Path], Any],
    *,
    under: Mapping[str, Any] | None = None,
    fleeting: Sequence[Any] = (),
    threads: int = 8,
) -> dict[Path, Any]:
    """Return what `find` says of each file, remembered for as long as the file's size and time of change stay the same.

    Args:
        paths: the files; one that is not there is asked about like the others.
        cache_file: JSON that keeps it. Several processes may share it; the first one does the work.
        find: file -> something JSON can hold; called in threads.
        under: what else the answers depend on; with another value nothing is remembered.
        fleeting: answers for files that could not be read. Where there is a file it is looked at again: rights that are given,
            or a disk that is back, change neither its size nor its time.
        threads: files looked at side by side.
    """
    wanted = list(dict.fromkeys(paths))
    with exclusive(cache_file):
        known = _read_cache(cache_file, under or {})
        stamps = _unknown(wanted, known, fleeting)
        new = list(stamps)
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for start in range(0, len(new), _SAVE_EVERY):
                chunk = new[start : start + _SAVE_EVERY]
                for path, found in zip(chunk, pool.map(find, chunk), strict=True):
                    known[str(path)] = [*stamps[path], found]
                write_atomic(cache_file, json.dumps({**(under or {}), "images": known}))
    return {path: known[str(path)][2] for path in wanted}


def _unknown(paths: Iterable[Path], known: Mapping[str, list[Any]], fleeting: Sequence[Any]) -> dict[Path, list[int]]:
    """{file: its stamp} of those to look at: new, changed, or there and not read the last time."""
    stamps = {path: _stamp(path) for path in paths}
    return {path: stamp for path, stamp in stamps.items() if not _holds(known.get(str(path)), stamp, fleeting)}


def _holds(entry: list[Any] | None, stamp: list[int], fleeting: Sequence[Any]) -> bool:
    return entry is not None and entry[:2] == stamp and (stamp == _NO_FILE or entry[2] not in fleeting)


def _stamp(path: Path) -> list[int]:
    """[size, mtime_ns] of a file; `_NO_FILE` when there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return list(_NO_FILE)
    return [status.st_size, status.st_mtime_ns]


def _read_cache(cache_file: Path, under: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{path: [size, mtime_ns, what was found]}; empty when there is no usable cache, which costs only time."""
    try:
        cache = json.loads(cache_file.read_bytes())
        known = dict(cache.pop("images"))
        return known if cache == under else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
