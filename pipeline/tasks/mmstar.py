"""mmstar: MMStar (arXiv 2403.20330), 1,500 questions that cannot be answered without the picture; four options.

`path` is a copy of the hub's Lin-Chen/MMStar: ``mmstar.parquet``, or its rows as .jsonl or .json beside a folder of pictures.
Columns index, question (with "Options: A: …, B: …" inside), image, answer, category, l2_category.

Splits: ``val``, which is judged on alone, and ``train`` where rows of these columns are brought as ``train.parquet`` or
``train.jsonl``. Score: ``micro``, the accuracy over all rows, which the benchmark's own code calls its final score (with 250 rows
each, it is the mean of the six categories as well); also ``average``, the mean over the 18 l2 categories, which lmms-eval
tells. The published code compares the first character of
the answer, or the one after "(", "option " or "the answer is "; ours wants it to stand alone, and reads an option's text as
well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import check_options
from pipeline.data.questions.cells import RawRow, Unusable, gold_letter
from pipeline.data.questions.files import data_files, find_splits
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.scoring.benchmark_judges import accuracies, accuracy
from pipeline.types import Question, Split

JUDGED_ONLY = ("val",)
"""Splits no stage may train on."""
_WHAT = "a copy of https://huggingface.co/datasets/Lin-Chen/MMStar: mmstar.parquet, or mmstar.json and its pictures"
_COLUMNS = QuestionColumns(
    ("image", "image_path"), ("index", "question", "answer", "category", "l2_category"), ids=("index",)
)
_OPTIONS = re.compile(r"(?:^|[\n,;.]|\bOptions:)\s*\(?([A-Z])(?:\)|:|\.)\s+", re.IGNORECASE)


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the files; rows and pictures are read when the split is.

    Raises:
        UserError: when the files are not there.
    """
    check_options(config, {})
    folder, files = find_splits(config, _WHAT, ("val", "train"), _files)

    def read(split: str) -> Split:
        return read_questions(split, files[split], _COLUMNS, folder, cache, _questions)

    return Task("mmstar", tuple(files), read, official=official, untrainable=JUDGED_ONLY)


def _files(root: Path, split: str) -> list[Path]:
    if root.is_file():
        return [root] if split != "train" else []
    return data_files(root, (split,) if split == "train" else ("mmstar", "MMStar", split))


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return ``micro`` (the accuracy over all rows, the headline), ``average`` (the mean over the l2 categories),
    the six categories.
    """
    by_l2 = accuracies(rows, "l2_category")
    micro = accuracy(rows)
    if micro is None:
        return {}
    return {"micro": micro, "average": sum(by_l2.values()) / len(by_l2), **accuracies(rows, "category")}


def _questions(row: RawRow) -> Iterable[Question]:
    text = str(row["question"]).strip()
    options = split_options(text)
    image = picture(row, "image", "image_path")
    yield Question(
        id=str(row["index"]),
        images=(image,),
        text=text,
        options=tuple(options),
        answer=gold_letter(row["answer"], options),
        groups={"category": str(row["category"]), "l2_category": str(row["l2_category"])},
    )


def split_options(text: str) -> list[str]:
    """Return the options' texts out of a question that ends with them: "… Options: A: left, B: right".

    Raises:
        Unusable: when there are no two of them that run from A.
    """
    start = text.casefold().rfind("options:")
    tail = text[start:] if start >= 0 else text
    marks: list[re.Match[str]] = []
    for mark in _OPTIONS.finditer(tail):
        # The next letter; any other is part of an option's text.
        if mark[1].upper() == chr(ord("A") + len(marks)):
            marks.append(mark)
    if len(marks) < 2:
        raise Unusable("unusable_options", f"no options A, B, … in {text[-80:]!r}")
    ends = [mark.start() for mark in marks[1:]] + [len(tail)]
    return [tail[mark.end() : end].strip().rstrip(",;").strip() for mark, end in zip(marks, ends, strict=True)]
