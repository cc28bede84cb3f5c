"""emoset: EmoSet-118K (Yang et al., ICCV 2023), and any set in its layout. Research use; get it at
https://github.com/JingyuanYY/EmoSet.

`path` is a folder in the official layout::

    info.json                        emotion.label2idx gives the labels and their order
    train.json val.json test.json    rows [emotion, image_id, image path, annotation path]; the splits are those there
    image/<emotion>/…  annotation/<emotion>/…

Published copies of the lists leave out image_id; it is then the image's file name without its suffix. Of an
annotation only EmoSet's six attributes are read, so that a file which also holds the answer (the emotion, or ratings
behind it) cannot pass it on. A row whose annotation is unreadable stays, without attributes, and is counted.

`path` may also be a folder of parquet files with the columns image, image_id and emotion, such as the hub's
Woleek/EmoSet-118K; those carry no attributes. There are no options. "sad" answers sadness, and so on: see `ANSWERS`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.image_sets import data_root, label_set, usable
from pipeline.data.images import paths_inside
from pipeline.data.options import check_options
from pipeline.data.task import Task, labelled_task
from pipeline.errors import UserError
from pipeline.files import digest
from pipeline.system.locks import exclusive
from pipeline.tasks import parquet
from pipeline.types import Problem, Question, Split, labelled_image

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "val", "test")
EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""Mikels' eight emotions in EmoSet's order; used for the parquet copies, which have no info.json."""
ATTRIBUTES = ("brightness", "colorfulness", "scene", "object", "facial_expression", "human_action")
DESCRIPTIONS = {
    "amusement": "playful fun; something comic, silly or entertaining",
    "awe": "wonder at something vast, beautiful or powerful",
    "contentment": "calm, quiet satisfaction and comfort",
    "excitement": "lively energy and eager anticipation",
    "anger": "hostility, outrage or protest",
    "disgust": "revulsion at something foul or repellent",
    "fear": "threat, danger or unease",
    "sadness": "loss, grief, loneliness or gloom",
}
"""Our own one-line readings of the eight words, not EmoSet's text."""
ANSWERS = {
    "amusement": ("amused", "amusing"),
    "awe": ("awed", "in awe", "awestruck", "awe-struck"),
    "contentment": ("content", "contented"),
    "excitement": ("excited", "exciting"),
    "anger": ("angry", "angered"),
    "disgust": ("disgusted", "disgusting"),
    "fear": ("afraid", "fearful", "scared", "frightened"),
    "sadness": ("sad", "saddened"),
}
"""How the eight are said as adjectives. Each means its emotion as an answer; in prose, "a sad face" concludes nothing."""
QUESTION = "Which emotion does this image evoke?"
_WHAT = (
    "EmoSet's folder (info.json, train.json, image/, annotation/; https://github.com/JingyuanYY/EmoSet, research use) "
    "or a folder of parquet files with the columns image, image_id, emotion (Woleek/EmoSet-118K on the hub)"
)


def load(config: TaskConfig, cache: Path, attributes: Sequence[str] = ATTRIBUTES) -> Task:
    """Open the set; a split's files are read when it is selected.

    Args:
        config: the task's block.
        cache: where derived files go.
        attributes: what is read of an annotation; a drawn set has others than EmoSet's.

    Raises:
        UserError: when the folder is neither layout, or info.json gives no labels.
    """
    root = data_root(config, _WHAT)
    check_options(config, {})
    splits = tuple(name for name in SPLITS if (root / f"{name}.json").is_file())
    if not splits and parquet.split_files(root):
        return _load_parquet(config, cache)
    if not splits:
        hint = fetch_hint("emoset", config.path)
        raise UserError(
            f"task.path: {config.path!r} has none of train.json, val.json, test.json; it must be {_WHAT}{hint}"
        )
    labels = label_set(config, () if config.labels else _labels_of(root / "info.json"), DESCRIPTIONS, ANSWERS)

    def read(split: str) -> Split:
        rows, problems = _rows(root, split, attributes)
        return usable(rows, labels, problems, cache)

    def listed(split: str) -> Counter[str]:
        return Counter(row[0] for row in read_list(root, split) if is_row(row))

    return labelled_task("emoset", labels, config.question or QUESTION, splits, read, listed=listed, in_place=True)


def drawn_task(
    config: TaskConfig,
    cache: Path,
    *,
    name: str,
    question: str,
    version: int,
    options: Mapping[str, Any],
    draw: Callable[[str], Iterable[tuple[dict[str, Any], Image]]],
    jpeg: Mapping[str, Any],
    listed: Callable[[str], Counter[str]],
    attributes: Sequence[str] = ATTRIBUTES,
) -> Task:
    """Prepare a set in this layout that is drawn under `cache`, once per version and options, when a split is first read.

    Args:
        config: the task's block.
        cache: where it is drawn, and where derived files go.
        name: the task's.
        question: asked where the configuration has none.
        version: of the drawing.
        options: all that the drawing depends on.
        draw: yields the rows of a split: the annotation, with ``image_id`` and ``emotion``, and the picture.
        jpeg: how Pillow writes a picture.
        listed: tells how many rows of each label a split has.
        attributes: what is read of an annotation.
    """
    root = cache / f"drawn-{digest([version, options])[:12]}"
    as_drawn = dataclasses.replace(config, name="emoset", path=str(root), options={})

    def read(split: str) -> Split:
        with exclusive(root):
            if not (root / "info.json").exists():
                _write(root, {split: draw(split) for split in SPLITS}, jpeg)
        return load(as_drawn, cache, attributes).read(split)

    labels = label_set(config, EMOTIONS, DESCRIPTIONS, ANSWERS)
    return labelled_task(name, labels, config.question or question, SPLITS, read, listed=listed)


def _write(root: Path, splits: Mapping[str, Iterable[tuple[dict[str, Any], Image]]], jpeg: Mapping[str, Any]) -> None:
    """Write a set in the official layout; `root` appears only when it is whole."""
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for split, rows in splits.items():
        index = []
        for annotation, picture in rows:
            emotion, image_id = annotation["emotion"], annotation["image_id"]
            image_path = f"image/{emotion}/{image_id}.jpg"
            annotation_path = f"annotation/{emotion}/{image_id}.json"
            for relative in (image_path, annotation_path):
                (partial / relative).parent.mkdir(parents=True, exist_ok=True)
            picture.save(partial / image_path, **jpeg)
            (partial / annotation_path).write_text(json.dumps(annotation))
            index.append([emotion, image_id, image_path, annotation_path])
        (partial / f"{split}.json").write_text(json.dumps(index))
    info = {"emotion": {"label2idx": {emotion: number for number, emotion in enumerate(EMOTIONS)}}}
    (partial / "info.json").write_text(json.dumps(info, indent=1))
    partial.replace(root)


def _load_parquet(config: TaskConfig, cache: Path) -> Task:
    columns = {"image_column": "image", "id_column": "image_id", "label_column": "emotion"}
    labels = config.labels or list(EMOTIONS)
    own = {name: text for name, text in DESCRIPTIONS.items() if name in labels}
    config = dataclasses.replace(
        config,
        labels=labels,
        descriptions={**own, **config.descriptions},
        question=config.question or QUESTION,
        options=columns,
    )
    task = parquet.load(config, cache, EMOTIONS)
    answers = {name: words for name, words in ANSWERS.items() if name in task.closed_labels.names}
    known = dataclasses.replace(task.closed_labels, answers=answers)
    return labelled_task("emoset", known, config.question or QUESTION, task.splits, task.read, listed=task.listed)


def _labels_of(info: Path) -> list[str]:
    """The emotions of info.json by their index."""
    try:
        indices = json.loads(info.read_bytes())["emotion"]["label2idx"]
        return sorted(indices, key=lambda name: int(indices[name]))
    except FileNotFoundError as error:
        raise UserError(f"{info}: does not exist; put EmoSet's info.json there, or set task.labels") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{info}: emotion.label2idx is not a mapping of names to numbers: {error!r}") from error


def read_list(root: Path, split: str) -> list[Any]:
    """Return a split's list, as it is.

    Raises:
        UserError: when the file is no list.
    """
    index = root / f"{split}.json"
    try:
        listed = json.loads(index.read_bytes())
    except ValueError as error:
        raise UserError(f"{index}: not JSON: {error}") from error
    if not isinstance(listed, list):
        raise UserError(f"{index}: must be a list of rows, got a {type(listed).__name__}")
    return listed


def is_row(row: Any) -> bool:
    """Check whether an entry of a list is [emotion, (image_id), image path, annotation path]."""
    return isinstance(row, list) and len(row) in (3, 4) and all(isinstance(part, str) for part in row)


def id_of(row: Sequence[str]) -> str:
    """Return the image_id of a row, or what stands for it."""
    return row[1] if len(row) == 4 else PurePosixPath(row[-2]).stem


def _rows(root: Path, split: str, wanted: Sequence[str]) -> tuple[list[Question], list[Problem]]:
    """The rows of a split's list, labels as spelled there, and what is wrong with the others."""
    rows: list[Question] = []
    problems: list[Problem] = []
    inside = paths_inside(root)
    for number, row in enumerate(read_list(root, split)):
        if not is_row(row):
            detail = f"expected [emotion, (image_id), image path, annotation path], got {str(row)[:80]}"
            problems.append(Problem(f"{split}.json[{number}]", "malformed_row", detail))
            continue
        emotion, image_path, annotation_path = row[0], row[-2], row[-1]
        image_id = id_of(row)
        image = inside(image_path)
        if image is None:
            problems.append(
                Problem(image_id, "outside_root", f"{image_path} is not inside {root}: copy the picture in")
            )
            continue
        attributes, trouble = _attributes(root, inside(annotation_path), wanted)
        if trouble:
            problems.append(Problem(image_id, "unreadable_annotation", f"row kept; {annotation_path}: {trouble}"))
        rows.append(labelled_image(image_id, image, emotion, attributes))
    return rows, problems


def _attributes(root: Path, path: Path | None, wanted: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """The attributes an annotation holds, and what is wrong with the file ("" for nothing); None is one outside the root."""
    if path is None:
        return {}, f"not inside {root}"
    try:
        annotation = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return {}, str(error)
    if not isinstance(annotation, dict):
        return {}, f"must be a mapping, got a {type(annotation).__name__}"
    return {key: annotation[key] for key in wanted if key in annotation}, ""
