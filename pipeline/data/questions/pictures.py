"""The pictures of a row: those that its file holds, as bytes or text, or paths below the data's folder and nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.images import paths_inside
from pipeline.data.parquet_images import is_address, is_embedded, place
from pipeline.data.questions.cells import RawRow, Unusable, listed

_NOT_A_PATH = {"reason": "missing_image", "detail": "the picture is not given as a path"}


@dataclass(frozen=True)
class LocatedImage:
    """Where a row's picture is, or why there is none."""

    path: Path | None
    reason: str = ""
    detail: str = ""


def pictures_in(cell: Any) -> list[Any]:
    """Return what stands in a cell of pictures: nothing in an empty one, each of a list, also of one that a table has as text."""
    if isinstance(cell, str):
        text = cell.strip()
        if text.startswith("[") and text.endswith("]"):
            with contextlib.suppress(Unusable):
                return listed(text)
        return [cell] if text else []
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def placed(value: Any, find: Callable[[Any], dict[str, Any]]) -> Any:
    """Return where a cell's picture is, or each picture of a list; None of an empty cell."""
    found = [find(each) for each in pictures_in(value)]
    return found if isinstance(value, list) or len(found) > 1 else found[0] if found else None


def text_of(value: Any) -> Any:
    """Return what a cell gives a picture as, where it is a mapping of {"path": …} or its like; else the cell."""
    if not isinstance(value, dict):
        return value
    return next((value[key] for key in ("bytes", "path", "image", "url", "file_name") if value.get(key)), None)


def taken_out(folder: Path, value: Any, images: Path) -> dict[str, Any]:
    """Return a picture that a table holds as `place` does, and a path, which is looked for at every read, as {"text": …}."""
    bare = value if isinstance(value, dict) and value.get("bytes") is not None else text_of(value)
    if isinstance(bare, str) and not is_address(bare) and not is_embedded(bare):
        return {"text": bare}
    return place(folder, bare, images)


def place_text(
    folder: Path,
    value: Any,
    images: Path,
    places: Sequence[str] = ("", "images/"),
    find: Callable[[str], Path | None] | None = None,
) -> dict[str, Any]:
    """Return where a picture is that data give as text, alone or as {"path": …}: below `folder`, or why there is none.

    Args:
        folder: the data's.
        value: a path, a ``data:`` URI or base64.
        images: where the latter two are written.
        places: folders below `folder` in which a path is looked for.
        find: `paths_inside` of `folder`, for many pictures.
    """
    text = text_of(value)
    if not isinstance(text, str):
        return _NOT_A_PATH
    if not is_address(text) and not is_embedded(text):
        text = text.removeprefix("file://")
        if (found := _located(text, places, find or paths_inside(folder))) is not None:
            return {"path": found}
    return place(folder, text, images)


def named(value: Any) -> str:
    """Return how a plan names the picture of a cell, which it does not open."""
    text = (isinstance(value, dict) and value.get("path")) or text_of(value)
    return text[:200] if isinstance(text, str) and not is_embedded(text) else "a picture in the file"


def _located(path: str, places: Sequence[str], find: Callable[[str], Path | None]) -> str | None:
    """The longest end of `path` that exists below the data's folder, in one of `places`; None where none does.

    Data files name pictures relative to the machine they were made on: ``./dataset/CV-Bench/img/2D/count/x.png``.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in (".", "/", "")]
    if ".." in parts:
        return None
    for start in range(len(parts)):
        for below in places:
            end = below + "/".join(parts[start:])
            # It says no, too, where no file can have such a name.
            if (found := find(end)) is not None and os.path.isfile(found):
                return end
    return None


def located(value: Any, folder: Path, cache: Path) -> LocatedImage | list[LocatedImage]:
    """Return the pictures of a cell that was `placed`, or why there are none."""
    if isinstance(value, list) and len(value) != 1:
        return [_located_one(each, folder, cache) for each in value]
    return _located_one(value[0] if isinstance(value, list) else value, folder, cache)


def _located_one(value: Any, folder: Path, cache: Path) -> LocatedImage:
    if not isinstance(value, dict):
        return LocatedImage(None, "missing_image", "neither bytes nor a path")
    if "file" in value:
        return LocatedImage(cache / "images" / value["file"])
    if "path" in value:
        return LocatedImage(folder / value["path"])
    return LocatedImage(None, value["reason"], value["detail"])


def pictures(row: RawRow, *names: str) -> tuple[Path, ...]:
    """Return the paths of all pictures a row has in the columns `names`, in order.

    Raises:
        Unusable: when one of them is not there, with its reason.
    """
    found: list[LocatedImage] = []
    for name in names:
        value = row.get(name)
        found += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, LocatedImage)]
    for each in found:
        if each.path is None:
            raise Unusable(each.reason, each.detail)
    return tuple(each.path for each in found if each.path is not None)


def picture(row: RawRow, *names: str) -> Path:
    """Return the path of the first picture a row has among `names`.

    Raises:
        Unusable: when it has none, with the reason of the last.
    """
    problem = Unusable("missing_image", f"no picture in {', '.join(names)}")
    for name in names:
        try:
            found = pictures(row, name)
        except Unusable as error:
            problem = error
            continue
        if len(found) > 1:
            problem = Unusable("missing_image", f"{name} holds {len(found)} pictures, where one is expected")
        elif found:
            return found[0]
    raise problem
