"""vcr: VCR v1 (arXiv 1811.10830), questions on film stills: an answer out of four (Q→A), and its rationale out of four (QA→R).

`path` is a folder with ``vcr1annots/val.jsonl`` (or ``val.jsonl``) and ``vcr1images/``. Fields question, answer_choices,
answer_label, rationale_choices, rationale_label (lists of tokens in which [2, 4] points at objects), objects, img_fn,
metadata_fn, annot_id.

Objects keep their identity: object 3, a person, is ``[person3]`` wherever it is spoken of, and where the picture's metadata
file is there its box is given in percent of the picture (our reading; the benchmark shows people the boxes drawn). A row
whose metadata are missing is kept without boxes and counted. The rationale is asked given the GOLD answer. Q→AR counts an
annotation as right when both are.

Splits ``val`` and ``train``; the test split's answers are not published.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.images import inside
from pipeline.data.options import TaskOption, check_options
from pipeline.data.questions.cells import RawRow, Unusable
from pipeline.data.questions.files import data_files, find_splits
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.prompting import lettered
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.scoring.benchmark_judges import accuracy
from pipeline.types import Problem, Question, Split

OPTIONS = {"mode": TaskOption("both", "qa, qar or both, which alone gives Q→AR", ("both", "qa", "qar"))}
_WHAT = "vcr1annots/val.jsonl and vcr1images/, from https://visualcommonsense.com/download/"
_COLUMNS = QuestionColumns(
    ("img_fn",),
    ("annot_id", "question", "answer_choices", "answer_label", "rationale_choices", "rationale_label", "objects"),
    ("metadata_fn", "img_id"),
    ids=("annot_id",),
)
_NO_SPACE_BEFORE = re.compile(r"\s+(?=[.,!?;:)\]]|n't\b|'(?:s|re|ve|ll|d|m)\b|'(?=\s|$))")

Tokens = Sequence[str | Sequence[int]]
Box = tuple[int, int, int, int]


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the splits; rows and pictures are read when one is.

    Raises:
        UserError: when the files are not there, or the mode is none.
    """
    mode = check_options(config, OPTIONS)["mode"]
    root, files = find_splits(config, _WHAT, ("val", "train"), _files)
    images = root / "vcr1images" if (root / "vcr1images").is_dir() else root

    def read(split: str) -> Split:
        without: list[Problem] = []
        build = functools.partial(_questions, mode=mode, images=images, without=without)
        found = read_questions(split, files[split], _COLUMNS, images, cache, build)
        return Split(found.rows, (*found.problems, *without))

    return Task("vcr", tuple(files), read, official=official)


def _files(root: Path, split: str) -> list[Path]:
    return data_files(root / "vcr1annots", (split,)) or data_files(root, (split,))


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return q→A and QA→R over the rows of each, Q→AR over the annotations that have both; what has no rows is left out."""
    right = {
        mode: {str(row["id"]).rpartition("/")[0]: bool(row["correct"]) for row in rows if row["groups"]["mode"] == mode}
        for mode in ("Q→A", "QA→R")
    }
    both = [{"correct": right["Q→A"][name] and right["QA→R"][name]} for name in right["Q→A"] if name in right["QA→R"]]
    scores = {mode: accuracy([{"correct": value} for value in found.values()]) for mode, found in right.items()}
    scores["Q→AR"] = accuracy(both)
    return {name: score for name, score in scores.items() if score is not None}


def _questions(row: RawRow, mode: str, images: Path, without: list[Problem]) -> Iterable[Question]:
    objects = [str(name) for name in row["objects"]]
    name = str(row["annot_id"])
    image = picture(row, "img_fn")
    boxes = _boxes(images, str(row.get("metadata_fn") or ""))
    question = sentence(row["question"], objects)
    gold = _label(row, "answer_label")
    asked = {
        "qa": ("Q→A", f"Question: {question}", row["answer_choices"], gold),
        "qar": (
            "QA→R",
            f"Question: {question}\nAnswer: {sentence(row['answer_choices'][gold], objects)}\n"
            "Which rationale explains why the answer is right?",
            row["rationale_choices"],
            _label(row, "rationale_label"),
        ),
    }
    for key in ("qa", "qar") if mode == "both" else (mode,):
        kind, text, choices, label = asked[key]
        if len(choices) != 4:
            raise Unusable("unusable_options", f"{len(choices)} options")
        options = [sentence(choice, objects) for choice in choices]
        spoken = [row["question"], *choices, *([row["answer_choices"][gold]] if key == "qar" else [])]
        yield Question(
            id=f"{name}/{key}",
            images=(image,),
            text=f"{_legend(spoken, objects, boxes)}{text}\n{lettered(options)}",
            options=tuple(options),
            answer="ABCD"[label],
            groups={"mode": kind},
            cluster=str(row.get("img_id") or image.name),
            pair=name,
        )
    if boxes is None:
        without.append(Problem(name, "missing_boxes", "asked without boxes: its metadata file is not there"))


def _label(row: RawRow, name: str) -> int:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 4:
        raise Unusable("answer_not_an_option", f"{name} is {value!r}")
    return value


def person(objects: Sequence[str], index: int) -> str:
    """Return the name of an object: its class and its number in the picture, from 1.

    Raises:
        Unusable: when the picture has no such object.
    """
    if isinstance(index, bool) or not 0 <= index < len(objects):
        raise Unusable("malformed_row", f"object {index} of {len(objects)}")
    return f"[{objects[index]}{index + 1}]"


def sentence(tokens: Tokens, objects: Sequence[str]) -> str:
    """Return tokens as text; a token that is a list of objects becomes their names, joined by "and"."""
    words = [
        token if isinstance(token, str) else " and ".join(person(objects, index) for index in token) for token in tokens
    ]
    return _NO_SPACE_BEFORE.sub("", " ".join(words)).replace("' s ", "'s ")


def _legend(spoken: Iterable[Tokens], objects: Sequence[str], boxes: Sequence[Box] | None) -> str:
    """One line on where the objects are that a question speaks of; none without boxes."""
    indices = sorted({index for tokens in spoken for token in tokens if not isinstance(token, str) for index in token})
    if not boxes or not indices:
        return ""
    places = [
        f"{person(objects, index)} ({', '.join(map(str, boxes[index]))})" for index in indices if index < len(boxes)
    ]
    return f"Boxes as (left, top, right, bottom) in percent of the picture: {'; '.join(places)}\n"


# Up to a few questions in a row share a picture.
@functools.lru_cache(maxsize=4096)
def _boxes(images: Path, metadata: str) -> tuple[Box, ...] | None:
    """The boxes of a picture's objects in percent of its size; None where there is no such file."""
    if inside(images, metadata) is None:
        return None
    try:
        stored = json.loads((images / metadata).read_bytes())
        width, height = float(stored["width"]), float(stored["height"])
        return tuple(
            (
                round(100 * box[0] / width),
                round(100 * box[1] / height),
                round(100 * box[2] / width),
                round(100 * box[3] / height),
            )
            for box in stored["boxes"]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError):
        return None
