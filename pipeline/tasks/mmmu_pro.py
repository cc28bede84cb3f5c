"""mmmu_pro: MMMU-Pro (arXiv 2409.02813), 1,730 questions of MMMU with up to ten options, or as one picture of the whole question.

`path` is a copy of the hub's MMMU/MMMU_Pro: the folders ``standard (10 options)``, ``standard (4 options)`` and ``vision``
with ``test-*.parquet``, or ``test.json`` and its pictures; or one such folder. Columns id, question, options (a list's
Python text), answer, image_1 … image_7 (vision: image), subject.

The benchmark's overall score is the mean of the accuracies of ``standard_10`` and ``vision``; each is a task of its own here.
``test`` is judged on alone; rows of these columns may be brought as ``train`` files beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from pipeline.config.schema import TaskConfig
from pipeline.data.catalogue import fetch_hint
from pipeline.data.image_sets import data_root
from pipeline.data.options import TaskOption, check_options
from pipeline.data.questions.cells import RawRow, gold_letter, listed
from pipeline.data.questions.files import data_files
from pipeline.data.questions.pictures import picture
from pipeline.data.questions.prompting import instructed, lettered
from pipeline.data.questions.read import QuestionColumns, read_questions
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.tasks.mmmu import DOMAIN_OF, IMAGES, RULE, judge, official, subject_of, with_pictures
from pipeline.types import Question, Split

JUDGED_ONLY = ("test",)
"""Splits no stage may train on."""
SETTINGS = {"standard_10": "standard (10 options)", "standard_4": "standard (4 options)", "vision": "vision"}
OPTIONS = {"setting": TaskOption("standard_10", ", ".join(SETTINGS), tuple(SETTINGS)), "rule": RULE}
_DIRECT = "Answer with the option letter from the given choices directly."
_LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of "
    "options."
)
DIRECT = {"standard_10": _DIRECT, "standard_4": _DIRECT, "vision": f"{_DIRECT} {_LAST_LINE}"}
"""The published prompts for direct answers."""
_WHAT = (
    "a copy of https://huggingface.co/datasets/MMMU/MMMU_Pro: "
    "the folders standard (10 options), standard (4 options) and vision with test-*.parquet"
)
_STANDARD = QuestionColumns(IMAGES, ("id", "question", "options", "answer"), ("subject", "topic_difficulty"))
_VISION = QuestionColumns(("image",), ("id", "options", "answer"), ("subject", "topic_difficulty"))


def load(config: TaskConfig, cache: Path) -> Task:
    """Find the setting's files; rows and pictures are read when the split is.

    Raises:
        UserError: when the files are not there, or an option is wrong.
    """
    options = check_options(config, OPTIONS)
    setting, rule = options["setting"], options["rule"]
    folder, files = _files(data_root(config, _WHAT), setting)
    if "test" not in files:
        hint = fetch_hint("mmmu_pro", config.path)
        raise UserError(
            f"task.path: {config.path!r} holds no {SETTINGS[setting]}/test-*.parquet; the mmmu_pro task needs {_WHAT}{hint}"
        )

    def read(split: str) -> Split:
        columns, build = (_VISION, _of_vision) if setting == "vision" else (_STANDARD, _of_standard)
        return read_questions(split, files[split], columns, folder, cache, build)

    def prompt(question: Question, style: str) -> str:
        return instructed(question.text, style, DIRECT[setting]).lstrip("\n")

    return Task(
        "mmmu_pro",
        tuple(files),
        read,
        prompt,
        partial(judge, rule=rule, pro=True),
        official=official,
        untrainable=JUDGED_ONLY,
    )


def _files(root: Path, setting: str) -> tuple[Path, dict[str, list[Path]]]:
    """The folder that holds the setting and its files by split; the root itself when it is such a folder."""
    for folder in (root / SETTINGS[setting], root / setting, root):
        if files := {split: found for split in ("test", "train") if (found := data_files(folder, (split,)))}:
            return folder, files
    return root, {}


def _of_standard(row: RawRow) -> Iterable[Question]:
    options = [str(option) for option in listed(row["options"])]
    text, images = with_pictures(row, f"{row['question']}\n{lettered(options, '{}. {}')}")
    yield _question(row, text, images, options)


def _of_vision(row: RawRow) -> Iterable[Question]:
    """The question and its options are in the picture; their texts are only for the judge."""
    yield _question(row, "", (picture(row, "image"),), [str(option) for option in listed(row["options"])])


def _question(row: RawRow, text: str, images: tuple[Path, ...], options: Sequence[str]) -> Question:
    subject = str(row.get("subject") or subject_of(str(row["id"])))
    return Question(
        id=str(row["id"]),
        images=images,
        text=text,
        options=tuple(options),
        answer=gold_letter(row["answer"], options),
        groups={
            "subject": subject,
            "domain": DOMAIN_OF.get(subject, ""),
            "difficulty": str(row.get("topic_difficulty") or ""),
        },
    )
