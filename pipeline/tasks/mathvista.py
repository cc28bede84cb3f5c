"""mathvista: MathVista (arXiv 2310.02255), mathematics in pictures; testmini has 1,000 questions, 540 with choices and 460 free.

`path` is a copy of the hub's AI4Math/MathVista (``data/testmini-*.parquet``), or ``testmini.json`` and ``images/`` as the
authors publish them. Columns pid, question, image (a path), decoded_image, choices, unit, precision, answer, question_type,
answer_type, metadata.

The published score uses GPT-4 to extract answers; ours reads them by rules, see pipeline/scoring/mathvista.py. A
multiple-choice response without an answer gets the nearest choice (a blank one the shortest), as published, and is marked as
guessed. The test split's
answers are not published. Both are judged on alone; rows of these columns may be brought as ``train.parquet`` or
``train.jsonl``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import check_options
from pipeline.data.questions.cells import RawRow, Unusable, listed
from pipeline.data.questions.files import find_splits
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.prompting import A_LETTER, instructed, lettered
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.scoring.benchmark_judges import accuracies, accuracy, judged
from pipeline.scoring.mathvista import ANSWER_TYPES, extracted, is_right, replacement
from pipeline.scoring.multiple_choice import letters
from pipeline.types import Judgement, Question, Split

JUDGED_ONLY = ("testmini", "test")
"""Splits no stage may train on."""
_WHAT = (
    "a copy of https://huggingface.co/datasets/AI4Math/MathVista: data/testmini-*.parquet, or testmini.json and images/"
)
_COLUMNS = QuestionColumns(
    ("decoded_image", "image"),
    ("question", "answer", "question_type", "answer_type"),
    ("pid", "choices", "unit", "precision", "metadata"),
    ids=("pid", "_key"),
)
_PLACES = {1: "one decimal place, e.g., 1.2, 1.3, 1.4", 2: "two decimal places, e.g., 1.23, 1.34, 1.45"}


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the splits; rows and pictures are read when one is.

    Raises:
        UserError: when the files are not there.
    """
    check_options(config, {})
    folder, files = find_splits(config, _WHAT, (*JUDGED_ONLY, "train"))

    def read(split: str) -> Split:
        return read_questions(split, files[split], _COLUMNS, folder, cache, build)

    return Task("mathvista", tuple(files), read, prompt, judge, official=official, untrainable=JUDGED_ONLY)


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return micro accuracy, the same with replaced answers counted as wrong, and that of question types, answer
    types and tasks.
    """
    micro = accuracy(rows)
    if micro is None:
        return {}
    strict = accuracy([{"correct": row["correct"] and not row.get("guessed")} for row in rows])
    groups = {**accuracies(rows, "question_type"), **accuracies(rows, "answer_type"), **accuracies(rows, "task")}
    return {"accuracy": micro, "without replaced answers": strict or 0.0, **groups}


def prompt(question: Question, style: str) -> str:
    """Return the question as the authors put it (hint, question, unit, choices), and the instruction of the style."""
    kind, precision = question.facts["answer_type"], question.facts["precision"]
    if question.options:
        return instructed(question.text, style, "Answer with the correct option letter, e.g., A, B, C, D.", A_LETTER)
    what = {
        "integer": "an integer, e.g., 1, 2, 3",
        "float": f"a number with {_PLACES.get(precision, 'decimals')}",
        "list": "a Python list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]",
    }.get(kind, "a word or phrase")
    return instructed(question.text, style, f"Answer with {what}, and nothing else.", what.partition(", e.g.")[0])


def judge(question: Question, completion: str, style: str) -> Judgement:
    """Extract by rules, then compare as published; an unlabelled row is never right."""
    kind, precision = question.facts["answer_type"], question.facts["precision"]

    def read(text: str) -> Judgement:
        found = extracted(text, question.options, kind)
        if not question.options:
            right = question.answer is not None and is_right(found, question.answer, kind, precision)
            return Judgement(found.text, right, found.reason)
        letter = _letter(found.text, question.options) if found.text is not None else None
        if letter is None:
            replaced = _letter(replacement(text, question.options), question.options)
            return Judgement(None, _same(question, replaced), found.reason, guessed=replaced)
        return Judgement(letter, letter is not None and _same(question, letter), found.reason)

    return judged(completion, style, read)


def _same(question: Question, letter: str) -> bool:
    """Whether a letter's choice reads as the gold one: two may be the same text, and the published rule compares texts."""
    known = letters(len(question.options))
    gold = question.answer
    return gold is not None and question.options[known.index(letter)] == question.options[known.index(gold)]


def _letter(choice: str, options: Sequence[str]) -> str:
    return letters(len(options))[list(options).index(choice)]


def build(row: RawRow) -> Iterable[Question]:
    """Yield one row's question, for `pipeline.data.questions.read.read_questions`."""
    choices = [str(choice) for choice in listed(row.get("choices"))]
    kind = str(row["answer_type"])
    if kind not in ANSWER_TYPES or (row["question_type"] == "multi_choice") != bool(choices):
        raise Unusable("malformed_row", f"{row['question_type']} with answer type {kind} and {len(choices)} choices")
    letters(len(choices))
    gold = str(row["answer"] if row["answer"] is not None else "").strip()
    if choices and gold and gold not in [choice.strip() for choice in choices]:
        raise Unusable("answer_not_an_option", f"the answer is {gold[:40]!r}, the choices are {choices}")
    answer = letters(len(choices))[[choice.strip() for choice in choices].index(gold)] if choices and gold else gold
    text = f"Question: {row['question']}" + (f" (Unit: {row['unit']})" if row.get("unit") else "")
    metadata = row.get("metadata") or {}
    precision = row.get("precision")
    yield Question(
        id=str(row["pid"] if row.get("pid") is not None else row["_key"]),
        images=(picture(row, "decoded_image", "image"),),
        text=f"{text}\nChoices:\n{lettered(choices)}" if choices else text,
        options=tuple(choices),
        answer=answer or None,
        groups={
            "question_type": str(row["question_type"]),
            "answer_type": kind,
            **{
                name: str(metadata.get(name) or "")
                for name in ("task", "category", "source", "language", "grade", "context")
            },
        },
        facts={"answer_type": kind, "precision": int(float(precision)) if precision is not None else None},
    )
