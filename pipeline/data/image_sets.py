"""What the readers of image sets on disk share: the data's folder, the label set, and which rows are usable."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.config.schema import TaskConfig
from pipeline.data.images import check_images
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Example, Problem, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def data_root(config: TaskConfig, what: str) -> Path:
    """The existing path `config.path` names.

    Args:
        config: the run's ``task:`` block.
        what: what belongs there and where to get it, for the message.

    Raises:
        UserError: when the path is not set or does not exist.
    """
    if config.path is None:
        raise UserError(f"task.path: not set; the {config.name} task needs {what}")
    root = Path(config.path).expanduser()
    if not root.exists():
        raise UserError(f"task.path: {config.path!r} does not exist; the {config.name} task needs {what}")
    return root


def no_files(config: TaskConfig, what: str) -> UserError:
    """That `config.path` is there and holds none of a benchmark's files.

    Args:
        config: the run's ``task:`` block.
        what: what belongs there and where to get it.
    """
    return UserError(f"task.path: {config.path!r} holds none of the files; the {config.name} task needs {what}")


def label_set(
    config: TaskConfig,
    found: Sequence[str],
    descriptions: Mapping[str, str] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> LabelSet:
    """The labels of the configuration, or those found in the data.

    Args:
        config: the run's ``task:`` block; its aliases and descriptions are added.
        found: the data's labels in order, used when ``task.labels`` is not set.
        descriptions: the task's own, overridden label by label by the configuration's.
        answers: the task's own words that mean a label as an answer alone; labels and the configuration's aliases come first.

    Raises:
        UserError: when labels clash or an alias or description belongs to none.
    """
    names = config.labels or found
    own = {name: text for name, text in (descriptions or {}).items() if name in names}
    words = {name: also for name, also in (answers or {}).items() if name in names}
    where = "task.labels, task.aliases, task.descriptions"
    if not (config.labels or config.aliases or config.descriptions):
        where = f"task.path: the labels of {config.path!r}"
    try:
        return LabelSet.of(names, config.aliases, {**own, **config.descriptions}, words)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def usable(rows: Iterable[Example], labels: LabelSet, problems: Iterable[Problem], cache: Path) -> Split:
    """The rows that can be used, and a problem for each one that cannot.

    A row is usable when its label (as the data spells it) is one of `labels`, no earlier row has its id and its
    picture decodes whole.

    Args:
        rows: rows as read, with the data's spelling of the label.
        labels: the task's labels; the result holds their canonical names.
        problems: what reading already found.
        cache: the task's folder; verdicts on pictures are kept in it.
    """
    found = list(problems)
    seen: set[str] = set()
    candidates = []
    for row in rows:
        label = labels.normalise(row.label)
        if row.id in seen:
            found.append(Problem(row.id, "duplicate_id", "an earlier row has this id; that one is used"))
        elif label is None:
            found.append(
                Problem(row.id, "unknown_label", f"{row.label[:80]!r} is not one of {', '.join(labels.names)}")
            )
        else:
            candidates.append(dataclasses.replace(row, label=label))
        seen.add(row.id)
    broken = check_images((row.image for row in candidates), cache / "checked_images.json")
    found += [Problem(row.id, broken[row.image], str(row.image)) for row in candidates if row.image in broken]
    return Split(tuple(row for row in candidates if row.image not in broken), tuple(found))
