"""cv_bench: CV-Bench (Cambrian-1, arXiv 2406.16860), 2,638 questions on counts, relations, depth and distance in one picture.

`path` is a copy of the hub's nyu-visionx/CV-Bench: ``test_2d.parquet`` and ``test_3d.parquet``, or their rows as .jsonl or .json
beside ``img/``. Columns idx, type (2D, 3D), task, image, question, choices, answer "(A)", prompt, filename, source (ADE20K, COCO,
Omni3D). Rows that lack type, choices or source, as re-published subsets do, have them read from the prompt and the file's name.

Splits: ``test``, ``2d``, ``3d``, which are judged on alone, and ``train`` where rows of these columns are brought as
``train.parquet`` or ``train.jsonl``. Official score: ½·[(ADE20K + COCO)/2 + Omni3D], of the three sources' accuracies. The
published code compares the first character after "answer is"; ours wants that letter to stand alone, and reads an option's
text as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import check_options
from pipeline.data.questions.cells import RawRow, Unusable, gold_letter, listed
from pipeline.data.questions.files import data_files, find_splits
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.prompting import lettered
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.scoring.benchmark_judges import accuracies, accuracy
from pipeline.types import Problem, Question, Split

JUDGED_ONLY = ("test", "2d", "3d")
"""Splits no stage may train on."""
SOURCES = ("ADE20K", "COCO", "Omni3D")
_WHAT = (
    "a copy of https://huggingface.co/datasets/nyu-visionx/CV-Bench: "
    "test_2d.parquet and test_3d.parquet, or test_2d.jsonl, test_3d.jsonl and img/"
)
_FILES = ("test_2d", "test_3d", "test", "cv_bench", "cv_bench_rows")
_PICTURES = ("image", "filename", "img_path", "img_paths")
_COLUMNS = QuestionColumns(
    _PICTURES,
    ("question", "answer"),
    ("idx", "index_origin", "type", "task", "category_origin", "choices", "prompt", "source"),
    ids=("idx", "index_origin"),
)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*?)\s*$", re.MULTILINE)


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the files; rows and pictures are read when a split is.

    Raises:
        UserError: when the files are not there.
    """
    check_options(config, {})
    folder, files = find_splits(config, _WHAT, (*JUDGED_ONLY, "train"), _files)

    def read(split: str) -> Split:
        found = read_questions(split, files[split], _COLUMNS, folder, cache, partial(_questions, split=split))
        return Split(found.rows, (*found.problems, *(_missing_half(files[split]) if split in JUDGED_ONLY else ())))

    return Task("cv_bench", tuple(files), read, official=official, untrainable=JUDGED_ONLY)


def _files(root: Path, split: str) -> list[Path]:
    """The same files for every split of the benchmark: a row says which it is of."""
    if split not in JUDGED_ONLY:
        return data_files(root, (split,))
    return [root] if root.is_file() else data_files(root, _FILES)


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the official score and its parts, micro accuracy, and accuracy per task; parts that have no rows are left out."""
    by_source = accuracies(rows, "source")
    scores: dict[str, float] = {}
    if "ADE20K" in by_source and "COCO" in by_source:
        scores["2D"] = (by_source["ADE20K"] + by_source["COCO"]) / 2
    if "Omni3D" in by_source:
        scores["3D"] = by_source["Omni3D"]
    if len(scores) == 2:
        scores = {"official": (scores["2D"] + scores["3D"]) / 2, **scores}
    micro = accuracy(rows)
    return {**scores, **({"micro": micro} if micro is not None else {}), **by_source, **accuracies(rows, "task")}


def _missing_half(files: Sequence[Path]) -> list[Problem]:
    """A problem when only one of test_2d and test_3d is there."""
    there = {half for half in ("test_2d", "test_3d") for file in files if file.stem.startswith(half)}
    if len(there) != 1:
        return []
    (lost,) = {"test_2d", "test_3d"} - there
    return [Problem(lost, "missing_file", "only the other half of the benchmark is there")]


def _type(row: RawRow) -> str:
    return str(row.get("type") or ("3D" if _source(row) == "Omni3D" else "2D")).upper()


def _source(row: RawRow) -> str:
    """ADE20K, COCO or Omni3D: the column, else the name of the picture's file (``ade20k_102.png``)."""
    named = {source.casefold(): source for source in SOURCES}
    given = str(row.get("source") or "").casefold()
    if given in named:
        return named[given]
    path = getattr(row["image"], "path", None)
    return named.get(path.name.partition("_")[0].casefold(), "") if path else ""


def _questions(row: RawRow, split: str) -> Iterable[Question]:
    row = {**row, "image": next((row[name] for name in _PICTURES if row.get(name) is not None), None)}
    if split in ("2d", "3d") and _type(row) != split.upper():
        return
    text = str(row.get("prompt") or row["question"]).strip()
    options = [str(option) for option in listed(row.get("choices"))] or _options_of(text)
    if not _options_of(text):
        text = f"{text} Select from the following choices.\n{lettered(options)}"
    name = row["idx"] if row.get("idx") is not None else row["index_origin"]
    task, source = str(row.get("task") or row.get("category_origin") or ""), _source(row)
    if not task or not source:
        raise Unusable(
            "malformed_row", f"{'task' if not task else 'source'} is neither given nor in the picture's name"
        )
    image = picture(row, "image")
    yield Question(
        id=str(name),
        images=(image,),
        text=text,
        options=tuple(options),
        answer=gold_letter(row["answer"], options),
        groups={"type": _type(row), "task": task, "source": source},
        cluster=image.name,
    )


def _options_of(text: str) -> list[str]:
    """The options a prompt lists as lines "(A) …", in order; none where the letters do not run from A."""
    found = _OPTION.findall(text)
    return (
        [option for _, option in found] if [letter for letter, _ in found] == list("ABCDEFGHIJ")[: len(found)] else []
    )
