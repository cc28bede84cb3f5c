"""cv_bench: CV-Bench (Cambrian-1, arXiv 2406.16860), 2,638 questions on counts, relations, depth and distance in one picture.

`path` is a copy of the hub's nyu-visionx/CV-Bench: ``test_2d.parquet`` and ``test_3d.parquet``, or their rows as .jsonl or .json
beside ``img/``. Columns idx, type (2D, 3D), task, image, question, choices, answer "(A)", prompt, filename, source (ADE20K, COCO,
Omni3D). Rows that lack type, choices or source, as re-published subsets do, have them read from the prompt and the file's name.

Splits: ``test``, ``2d``, ``3d``. Official score: ½·[(ADE20K + COCO)/2 + Omni3D], of the three sources' accuracies. The
published code compares the first character after "answer is"; ours wants that letter to stand alone, and reads an option's
text as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.benchmark import Benchmark
from pipeline.data.benchmark_rows import (
    QuestionColumns,
    RawRow,
    Unusable,
    data_files,
    gold_letter,
    listed,
    picture,
    questions,
    read_rows,
)
from pipeline.data.image_sets import data_root, no_files
from pipeline.data.load import check_options
from pipeline.data.prompting import asked_for_letter, lettered
from pipeline.scoring.benchmark_judges import accuracies, accuracy, even_chance, judge_choice
from pipeline.types import Problem, Question, Questions

EVALUATED_ONLY = True
SOURCE = "https://huggingface.co/datasets/nyu-visionx/CV-Bench"
LICENCE = "Apache-2.0"
SOURCES = ("ADE20K", "COCO", "Omni3D")
_WHAT = f"a copy of {SOURCE}: test_2d.parquet and test_3d.parquet, or test_2d.jsonl, test_3d.jsonl and img/"
_FILES = ("test_2d", "test_3d", "test", "cv_bench", "cv_bench_rows")
_PICTURES = ("image", "filename", "img_path", "img_paths")
_COLUMNS = QuestionColumns(
    _PICTURES,
    ("question", "answer"),
    ("idx", "index_origin", "type", "task", "category_origin", "choices", "prompt", "source"),
)
_OPTION = re.compile(r"^\(([A-Z])\)\s*(.*?)\s*$", re.MULTILINE)


def load(config: TaskConfig, cache: Path) -> Benchmark:
    """Find the files; rows and pictures are read when a split is.

    Raises:
        UserError: when the files are not there.
    """
    root = data_root(config, _WHAT)
    check_options(config, {})
    files = data_files(root, _FILES) if root.is_dir() else [root]
    if not files:
        raise no_files(config, _WHAT)
    folder = root if root.is_dir() else root.parent

    def read(split: str) -> Questions:
        wanted = "" if split == "test" else split.upper()
        rows = (_one_picture(row) for row in read_rows(files, _COLUMNS, folder, cache))
        kept = (row for row in rows if not wanted or _type(row) == wanted)
        found = questions(kept, _questions, split, files, cache, ("idx", "index_origin"))
        return Questions(found.rows, (*found.problems, *_missing_half(files)))

    return Benchmark(
        "cv_bench",
        SOURCE,
        LICENCE,
        ("test", "2d", "3d"),
        read,
        asked_for_letter,
        judge_choice,
        even_chance,
        official,
    )


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


def _one_picture(row: RawRow) -> RawRow:
    """The row with its picture under ``image``, wherever it was found."""
    return {**row, "image": next((row[name] for name in _PICTURES if row.get(name) is not None), None)}


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


def _questions(row: RawRow) -> Iterable[Question]:
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
