"""What the readers of image sets on disk share: the data's folder, the label set, and which rows are usable."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.images import HEIC, check_images
from pipeline.errors import UserError
from pipeline.scoring.labels import LabelSet
from pipeline.types import Problem, Question, Split

HEIC_SUFFIXES = (".heic", ".heif")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(HEIC_SUFFIXES if HEIC else ()),
)


def data_root(config: TaskConfig, what: str) -> Path:
    """Return the existing path `config.path` names.

    Args:
        config: the run's ``task:`` block.
        what: what belongs there and where to get it, for the message.

    Raises:
        UserError: when the path is not set or does not exist.
    """
    if config.path is None:
        hint = fetch_hint(config.name, None)
        raise UserError(f"task.path: not set; the {config.name} task needs {what}{hint}")
    root = Path(config.path).expanduser()
    if not root.exists():
        hint = fetch_hint(config.name, config.path)
        raise UserError(f"task.path: {config.path!r} does not exist; the {config.name} task needs {what}{hint}")
    return root


def suffix_problem(name: str) -> str:
    """Return why a file is no picture by its name."""
    if name.lower().endswith(HEIC_SUFFIXES):
        return "HEIC is read where its plug-in is installed: pip install pillow-heif"
    return f"read are {' '.join(IMAGE_SUFFIXES)}"


def writable(text: str) -> str:
    """Return text that any file can hold: bytes of a name that are not UTF-8, and lone surrogates, are written as escapes."""
    if _is_utf8(text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        # Half a character, as JSON may hold, is no byte of a name.
        return text.encode("utf-8", "backslashreplace").decode()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def merge_spellings(counts: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
    """Return the labels found in data, sorted, and {spelling: label} of those that differ in case or separators alone.

    The commonest spelling is the label. What no text can spell (blank, punctuation) is left out: its rows are `unknown_label`.

    Args:
        counts: spelling: how often the data have it.
    """
    kept: dict[str, str] = {}
    names: list[str] = []
    merged: dict[str, str] = {}
    for spelling in sorted(counts, key=lambda spelling: (-counts[spelling], spelling)):
        try:
            alone = LabelSet.of([spelling])
        except ValueError:
            continue
        key = " ".join(unicodedata.normalize("NFKC", spelling).casefold().replace("_", " ").replace("-", " ").split())
        other = kept.get(key)
        if other is not None and len(spelling.strip()) > 1 and alone.normalise(other) == spelling:
            merged[spelling] = other
        else:
            kept.setdefault(key, spelling)
            names.append(spelling)
    return sorted(names or counts), merged


def kept_spellings(rows: Iterable[Question], merged: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each row whose label is another spelling of a commoner one. Such a row is kept."""
    return [
        Problem(row.id, "label_spelling", f"row kept; its label {row.gold!r} is read as {merged[row.gold]!r}")
        for row in rows
        if row.gold in merged
    ]


_RENAME = "its name is not UTF-8, so no file can name it; rename it, for example with convmv -f latin1 -t utf8"


def label_set(
    config: TaskConfig,
    found: Sequence[str],
    descriptions: Mapping[str, str] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
) -> LabelSet:
    """Return the labels of the configuration, or those found in the data.

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


def usable(rows: Iterable[Question], labels: LabelSet, problems: Iterable[Problem], cache: Path) -> Split:
    """Return the rows that can be used, and a problem for each one that cannot.

    A row is usable when its label (as the data spells it) is one of `labels`, no earlier row has its id and its
    picture decodes whole.

    Args:
        rows: rows as read, with the data's spelling of the label.
        labels: the task's labels; the result holds their canonical names.
        problems: what reading already found.
        cache: the task's folder; verdicts on pictures are kept in it.
    """
    found = [Problem(writable(problem.id), problem.reason, writable(problem.detail)) for problem in problems]
    seen: set[str] = set()
    candidates = []
    for row in rows:
        label = labels.normalise(row.gold)
        if not _is_utf8(row.id + str(row.images[0])):
            found.append(Problem(writable(row.id), "unwritable_name", _RENAME))
        elif row.id in seen:
            found.append(Problem(row.id, "duplicate_id", "an earlier row has this id; that one is used"))
        elif label is None:
            found.append(Problem(row.id, "unknown_label", f"{row.gold[:80]!r} is not one of {', '.join(labels.names)}"))
        else:
            candidates.append(dataclasses.replace(row, answer=label))
        seen.add(row.id)
    broken = check_images((row.images[0] for row in candidates), cache / "checked_images.json")
    found += [
        Problem(row.id, broken[row.images[0]], str(row.images[0])) for row in candidates if row.images[0] in broken
    ]
    return Split(tuple(row for row in candidates if row.images[0] not in broken), tuple(found))
