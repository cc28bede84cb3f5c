"""imagefolder: pictures sorted into one folder per label.

`path` is either ``<path>/<split>/<label>/*`` or ``<path>/<label>/*``. Without split folders a picture goes to `train`
or `test` by a hash of its id, so the split is the same on every machine and adding pictures moves none of the others.

Pictures are .jpg .jpeg .jfif .jpe .png .webp .bmp .gif .tif .tiff .avif, and .heic .heif where pillow-heif is installed (any
case); their id is the path below `path`. Other files, folders deeper than a label's and names that are not UTF-8 are counted as
problems; hidden ones are ignored. Folders whose names differ in case alone are one label, the one with more pictures.

Options: ``test_share`` (share of the pictures in `test` when there are no split folders; 0.2).
"""

from __future__ import annotations

import hashlib
from collections import Counter
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
from pipeline.data.load import check_options
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.types import Example, Problem, Split

TEST_SHARE = 0.2
QUESTION = "What does this image show?"
_WHAT = "a folder of <split>/<label>/*.jpg or <label>/*.jpg"


def load(config: TaskConfig, cache: Path) -> Task:
    """Find splits and labels by listing folders; a split's pictures are read when it is selected.

    Raises:
        UserError: when the folder holds no labelled pictures, or mixes the two layouts.
    """
    root = data_root(config, _WHAT)
    options = check_options(config, ("test_share",))
    if not root.is_dir():
        raise UserError(f"task.path: {config.path!r} is a file; it must be {_WHAT}")
    tree = {folder.name: _visible(folder) for folder in _visible(root) if folder.is_dir()}
    flat = [name for name, entries in tree.items() if any(map(_is_image, entries))]
    split_names = [n for n, es in tree.items() if any(_is_image(e) for d in es if d.is_dir() for e in _visible(d))]
    if flat and split_names:
        raise UserError(
            f"task.path: {config.path!r} mixes two layouts: {flat[0]}/ holds pictures, {split_names[0]}/ holds folders "
            f"of pictures; it must be {_WHAT}"
        )
    if not flat and not split_names:
        raise UserError(f"task.path: {config.path!r} holds no labelled pictures; it must be {_WHAT}")
    if split_names:
        if "test_share" in options:
            raise UserError(f"task.options.test_share: {config.path!r} has the splits {', '.join(split_names)} already")
        folders = {name: [entry for entry in tree[name] if entry.is_dir()] for name in split_names}
        share = None
    else:
        folders = {split: [root / name for name in flat] for split in ("train", "test")}
        share = _share(options.get("test_share", TEST_SHARE))
    if unwritable := [name for name in split_names if writable(name) != name]:
        raise UserError(
            f"task.path: the name of the split's folder '{writable(unwritable[0])}' is not UTF-8; rename it"
        )
    counts = Counter[str]()
    for folder in {folder for found in folders.values() for folder in found}:
        counts[folder.name] += sum(map(_is_image, _visible(folder)))
    names, merged = merge_spellings({name: count for name, count in counts.items() if writable(name) == name})
    labels = label_set(config, names)

    def read(split: str) -> Split:
        rows, problems = _rows(root, folders[split])
        problems += kept_spellings(rows, merged)
        if share is not None:
            rows = [row for row in rows if _in_test(row.id, share) == (split == "test")]
            problems = [problem for problem in problems if _in_test(problem.id, share) == (split == "test")]
        return usable(rows, labels, problems, cache)

    return Task("imagefolder", labels, config.question or QUESTION, tuple(folders), read)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UserError(f"task.options.test_share: {value!r} is not a number between 0 and 1")
    return float(value)


def _in_test(row_id: str, share: float) -> bool:
    # Salted: `Task.select` orders rows by the plain hash of their id, which must not be the same number.
    return int.from_bytes(hashlib.sha256(f"test:{row_id}".encode()).digest()[:8]) < share * 2**64


def _rows(root: Path, folders: list[Path]) -> tuple[list[Example], list[Problem]]:
    rows: list[Example] = []
    problems: list[Problem] = []
    for folder in folders:
        for entry in _visible(folder):
            relative = entry.relative_to(root).as_posix()
            row_id = writable(relative)
            if inside(root, relative) is None:
                problems.append(Problem(row_id, "outside_root", f"a symbolic link that leaves {root}"))
            elif entry.is_dir():
                inner = sum(map(_is_image, entry.rglob("*")))
                detail = f"{inner} pictures in it are not read; they belong directly into the label's folder"
                problems.append(Problem(row_id, "misplaced_folder", detail))
            elif not _is_image(entry):
                problems.append(Problem(row_id, "not_an_image", suffix_problem(entry.name)))
            else:
                rows.append(Example(row_id, entry, folder.name))
    return rows, problems
