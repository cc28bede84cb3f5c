"""imagefolder: pictures sorted into one folder per label.

`path` is either ``<path>/<split>/<label>/*`` or ``<path>/<label>/*``. Without split folders a picture goes to `train`
or `test` by a hash of its id, so the split is the same on every machine and adding pictures moves none of the others.

Pictures are .jpg .jpeg .jfif .jpe .png .webp .bmp .gif .tif .tiff .avif, and .heic .heif where pillow-heif is installed (any
case); their id is the path below `path`. Other files, pictures in no label's folder, folders deeper than a label's and names
that are not UTF-8 are counted as problems; hidden ones are ignored. Folders whose names differ in case alone are one label, the
one with more pictures.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import TaskConfig
from pipeline.data.image_sets import (
    IMAGE_SUFFIXES,
    data_root,
    kept_spellings,
    label_set,
    merge_spellings,
    suffix_problem,
    usable,
    writable,
)
from pipeline.data.images import inside
from pipeline.data.options import TaskOption, check_options
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.files import hash_to_number
from pipeline.types import Problem, Question, Split, labelled_image

OPTIONS = {"test_share": TaskOption(0.2, "share of the pictures in `test` where there are no split folders")}
QUESTION = "What does this image show?"
_WHAT = "a folder of <split>/<label>/*.jpg or <label>/*.jpg"


def load(config: TaskConfig, cache: Path) -> Task:
    """Find splits and labels by listing folders; a split's pictures are read when it is selected.

    Raises:
        UserError: when the folder holds no labelled pictures, or mixes the two layouts.
    """
    root = data_root(config, _WHAT)
    options = check_options(config, OPTIONS)
    if not root.is_dir():
        raise UserError(f"task.path: {config.path!r} is a file; it must be {_WHAT}")
    tree = {name: _Listing.of(root / name) for name in _Listing.of(root).folders}
    inner = {(above, name): _Listing.of(root / above / name) for above, one in tree.items() for name in one.folders}
    flat = [name for name, one in tree.items() if one.pictures]
    split_names = list(dict.fromkeys(above for (above, _), one in inner.items() if one.pictures))
    if flat and split_names:
        raise UserError(
            f"task.path: {config.path!r} mixes two layouts: {flat[0]}/ holds pictures, {split_names[0]}/ holds folders "
            f"of pictures; it must be {_WHAT}"
        )
    if not flat and not split_names:
        loose = len(_Listing.of(root).pictures)
        here = f"; the {loose} pictures directly in it have no label" if loose else ""
        raise UserError(f"task.path: {config.path!r} holds no labelled pictures; it must be {_WHAT}{here}")
    folders: dict[str, list[tuple[str, ...]]]
    listings: dict[tuple[str, ...], _Listing]
    if split_names:
        if "test_share" in config.options:
            raise UserError(f"task.options.test_share: {config.path!r} has the splits {', '.join(split_names)} already")
        folders = {above: [(above, name) for name in tree[above].folders] for above in split_names}
        listings = {(above, name): one for (above, name), one in inner.items() if above in split_names}
        share = None
    else:
        folders = {split: [(name,) for name in flat] for split in ("train", "test")}
        listings = {(name,): tree[name] for name in flat}
        share = _share(options["test_share"])
    if unwritable := [name for name in split_names if writable(name) != name]:
        raise UserError(
            f"task.path: the name of the split's folder '{writable(unwritable[0])}' is not UTF-8; rename it"
        )
    counts = Counter[str]()
    for parts, one in listings.items():
        counts[parts[-1]] += len(one.pictures)
    names, merged = merge_spellings({name: count for name, count in counts.items() if writable(name) == name})
    labels = label_set(config, names)

    # What lies beside the folders of labels or splits (a stray picture, a class of a kind that is not read) would otherwise be
    # gone without a word. It is told with the first split, unless a hash says which.
    odd = [(name,) for name, one in tree.items() if one.files and name not in (*flat, *split_names)]
    stray = [
        Problem(name, "without_label", "it lies in no label's folder, so it has no label")
        for name in _Listing.of(root).pictures
    ]

    def read(split: str) -> Split:
        also = share is not None or split == next(iter(folders))
        rows, problems = _rows(root, [*folders[split], *(odd if also else ())])
        problems += [*kept_spellings(rows, merged), *(stray if also else ())]
        if share is not None:
            rows = [row for row in rows if _in_test(row.id, share) == (split == "test")]
            problems = [problem for problem in problems if _in_test(problem.id, share) == (split == "test")]
        return usable(rows, labels, problems, cache)

    def listed(split: str) -> Counter[str]:
        found = Counter[str]()
        for parts in folders[split]:
            label, pictures = parts[-1], listings[parts].pictures
            found[writable(label)] += (
                len(pictures)
                if share is None
                else sum(_in_test(writable(f"{label}/{name}"), share) == (split == "test") for name in pictures)
            )
        return found

    return labelled_task(
        "imagefolder", labels, config.question or QUESTION, tuple(folders), read, listed=listed, in_place=True
    )


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder, by name; hidden names are left out."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    links: frozenset[str]
    """Those of both that are symbolic links."""

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
        folders = tuple(entry.name for entry in entries if entry.is_dir())
        there = frozenset(folders)
        links = frozenset(entry.name for entry in entries if entry.is_symlink())
        return cls(folders, tuple(entry.name for entry in entries if entry.name not in there), links)

    @functools.cached_property
    def pictures(self) -> list[str]:
        return [name for name in self.files if _is_image(name)]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UserError(f"task.options.test_share: {value!r} is not a number between 0 and 1")
    return float(value)


def _in_test(row_id: str, share: float) -> bool:
    # Salted: `Task.select` orders rows by the plain hash of their id, which must not be the same number.
    return hash_to_number(f"test:{row_id}") < share * 2**64


def _rows(root: Path, folders: list[tuple[str, ...]]) -> tuple[list[Question], list[Problem]]:
    rows: list[Question] = []
    problems: list[Problem] = []
    for parts in folders:
        folder, above = root.joinpath(*parts), "/".join(parts)
        listing, within = _Listing.of(folder), inside(root, above) is not None
        deeper = frozenset(listing.folders)
        for name in sorted((*listing.folders, *listing.files)):
            relative = f"{above}/{name}"
            row_id = writable(relative)
            # Only a link leads out of a folder that is inside.
            if not within or (name in listing.links and inside(root, relative) is None):
                problems.append(
                    Problem(row_id, "outside_root", f"a symbolic link that leaves {root}: copy what it points to")
                )
            elif name in deeper:
                pictures = sum(_is_image(entry.name) for entry in (folder / name).rglob("*"))
                detail = f"{pictures} pictures in it are not read; they belong directly into the label's folder"
                problems.append(Problem(row_id, "misplaced_folder", detail))
            elif not _is_image(name):
                problems.append(Problem(row_id, "not_an_image", suffix_problem(name)))
            else:
                rows.append(labelled_image(row_id, folder / name, parts[-1]))
    return rows, problems
