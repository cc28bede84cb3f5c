"""mmmu: MMMU (arXiv 2311.16502), college-level questions of 30 subjects with one to seven pictures; validation has 900.

`path` is a copy of the hub's MMMU/MMMU, ``<Subject>/validation-00000-of-00001.parquet``, or one file for all subjects
(``validation-*.parquet``, ``validation.json``) there or in ``data/``; with JSON the pictures lie beside it. Columns id,
question, options (a list's Python text), answer, question_type, image_1 … image_7, subfield, topic_difficulty.

Most questions have two to nine options; the others are open. The test split's answers are not published: its rows are never
right.

``dev`` and ``validation`` can be trained on, and so can rows of these columns that are brought as ``train`` files; ``test`` is
judged on alone. A subject the copy has no row of is counted as a problem.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.options import TaskOption, check_options, names
from pipeline.data.questions.cells import RawRow, Unusable, gold_letter, listed
from pipeline.data.questions.files import data_files, find_splits
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.prompting import A_LETTER, DIRECT_LETTER, instructed, lettered
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.scoring.benchmark_judges import accuracies, accuracy, chosen, judged
from pipeline.scoring.mmmu import RULES, guess, open_candidates, open_number_right, open_right, read_choice
from pipeline.types import Judgement, Problem, Question, Split

JUDGED_ONLY = ("test",)
"""Splits no stage may train on."""
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
DIRECT_OPEN = "Answer the question using a single word or phrase."
IMAGES = tuple(f"image_{number}" for number in range(1, 8))
RULE = TaskOption(
    RULES[0], f"{' or '.join(RULES)}: which reading of an answer comes first (pipeline/scoring/mmmu.py)", RULES
)
OPTIONS = {"subjects": TaskOption(None, "a list such as [Math, Art]; all without it", check=names), "rule": RULE}
_WHAT = (
    "a copy of https://huggingface.co/datasets/MMMU/MMMU: "
    "<Subject>/validation-00000-of-00001.parquet, or validation.json and its pictures"
)
_COLUMNS = QuestionColumns(
    IMAGES, ("id", "question", "options", "answer"), ("question_type", "subfield", "topic_difficulty")
)
_MARK = re.compile(r"<image (\d+)>")


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the splits; rows and pictures are read when one is.

    Raises:
        UserError: when the files are not there, or an option is wrong.
    """
    options = check_options(config, OPTIONS)
    rule, subjects = options["rule"], _subjects(options["subjects"])
    folder, files = find_splits(
        config, _WHAT, ("dev", "validation", "test", "train"), partial(_files, subjects=subjects)
    )

    def read(split: str) -> Split:
        found = read_questions(split, files[split], _COLUMNS, folder, cache, partial(_questions, subjects=subjects))
        there = {subject_of(name) for name in (*(row.id for row in found.rows), *(lost.id for lost in found.problems))}
        lost = [
            Problem(subject, "missing_subject", "the copy has no row of it")
            for subject in subjects
            if split != "train" and subject not in there
        ]
        return Split(found.rows, (*found.problems, *lost))

    return Task(
        "mmmu", tuple(files), read, prompt, partial(judge, rule=rule), official=official, untrainable=JUDGED_ONLY
    )


def _subjects(given: Any) -> tuple[str, ...]:
    if given is None:
        return tuple(DOMAIN_OF)
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"task.options.subjects: {given!r} is not a list of subjects")
    wrong = [name for name in given if name not in DOMAIN_OF]
    if wrong:
        raise UserError(
            [f"task.options.subjects: {name!r} is no subject; {did_you_mean(name, DOMAIN_OF)}" for name in wrong]
        )
    return tuple(given)


def _files(root: Path, split: str, subjects: Sequence[str]) -> list[Path]:
    of_all = data_files(root, (split,))
    return of_all or [file for subject in subjects for file in data_files(root / subject, (split,))]


def subject_of(row_id: str) -> str:
    """Return ``Art_Theory`` out of ``validation_Art_Theory_12``; "" when the id has another form."""
    match = re.fullmatch(r"[a-z]+_(.+?)_\d+", row_id)
    return match[1] if match else ""


def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return micro accuracy, guesses included as the published rule has them, and that of the six domains and the subjects."""
    micro = accuracy(rows)
    return {} if micro is None else {"accuracy": micro, **accuracies(rows, "domain"), **accuracies(rows, "subject")}


def prompt(question: Question, style: str) -> str:
    """Return the question with its options, image marks where they belong, and the instruction of the style."""
    if question.options:
        return instructed(question.text, style, DIRECT_LETTER, A_LETTER)
    return instructed(question.text, style, DIRECT_OPEN, "a single word, number or phrase")


def judge(question: Question, completion: str, style: str, rule: str = RULES[0], pro: bool = False) -> Judgement:
    """Return the published rule; what it finds nothing in is a guess, the same one whenever the row is judged."""

    def read(text: str) -> Judgement:
        if not question.options:
            return _judge_open(question, text)
        verdict = chosen(question, read_choice(text, question.options, pro, rule))
        if verdict.answer is not None:
            return verdict
        letter = guess(question.options, question.id)
        return Judgement(None, letter == question.answer, verdict.reason, guessed=letter)

    return judged(completion, style, read)


def _judge_open(question: Question, text: str) -> Judgement:
    if not text.strip():
        return Judgement(None, False, "empty")
    candidates = open_candidates(text)
    answers = question.facts["answers"]
    right = bool(answers) and (open_right(candidates, answers) or open_number_right(text, answers))
    return Judgement(str(candidates[0]), right)


def _questions(row: RawRow, subjects: Collection[str]) -> Iterable[Question]:
    subject = subject_of(str(row["id"]))
    if subject not in subjects:
        return
    options = [str(option) for option in listed(row["options"])]
    is_open = str(row.get("question_type") or ("open" if not options else "")).startswith("open")
    answers = _open_answers(row["answer"]) if is_open else ()
    options = [] if is_open else options
    text = f"{row['question']}\n{lettered(options)}" if options else str(row["question"])
    text, images = with_pictures(row, text)
    yield Question(
        id=str(row["id"]),
        images=images,
        text=text,
        options=tuple(options),
        answer=(answers[0] if answers else None) if is_open else gold_letter(row["answer"], options),
        groups={
            "subject": subject,
            "domain": DOMAIN_OF.get(subject, ""),
            "type": "open" if is_open else "multiple-choice",
            "difficulty": str(row.get("topic_difficulty") or ""),
        },
        facts={"answers": answers, "subfield": str(row.get("subfield") or "")},
    )


def _open_answers(value: Any) -> tuple[str, ...]:
    """The gold answers of an open question, several given as a list's text; none where they are not published."""
    text = str(value if value is not None else "").strip()
    found = listed(text) if text.startswith("[") else [text]
    return tuple(str(answer) for answer in found if str(answer).strip() not in ("", "?"))


def with_pictures(row: RawRow, text: str) -> tuple[str, tuple[Path, ...]]:
    """Return the text with its marks renumbered from 1, and the row's pictures in that order.

    Pictures no mark speaks of come after the others and keep their order.

    Raises:
        Unusable: when a mark has no picture, or a picture cannot be had.
    """
    named = [f"image_{number}" for number in dict.fromkeys(_MARK.findall(text))]
    stored = [name for name in IMAGES if row.get(name) is not None]
    lost = [name for name in named if name not in stored]
    if lost or not stored:
        raise Unusable("missing_image", f"the text speaks of {', '.join(lost)}" if lost else "the row has no picture")
    order = [*named, *(name for name in stored if name not in named)]
    places = {name.removeprefix("image_"): number for number, name in enumerate(order, 1)}
    return _MARK.sub(lambda mark: f"<image {places[mark[1]]}>", text), tuple(picture(row, name) for name in order)
