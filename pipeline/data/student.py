"""What the student cannot take: pictures that its processor refuses, and text that its tokenizer reads as control tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.families import FIRST, PLACES, model_type, unfit_size
from pipeline.config.schema import ModelConfig, RunConfig
from pipeline.config.special_tokens import special_token_in, special_tokens_of
from pipeline.data.images import ImageError, picture_size, remembered
from pipeline.data.load import load_task
from pipeline.data.questions.image_marks import pictures_first
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.run_dir import BASE, RunDir
from pipeline.types import Question

UNFIT = "unfit_image"
"""Reason of a row whose picture decodes and that the student's processor refuses."""


def load_run_task(config: RunConfig, run: RunDir) -> Task:
    """Load the task of a run, whose `select` leaves out what the student's processor refuses, as problems.

    Raises:
        UserError: as `load_task`.
    """
    return fit_task(load_task(config.task, run.cache), student_family(config.model, run), run.cache)


def student_family(model: ModelConfig, run: RunDir) -> str | None:
    """Return the student's family (`model_type`); None for a hub's model that the base phase has not found yet."""
    if model.name_or_path is None:
        return model.tiny.family
    folder = student_folder(model, run)
    return model_type(folder) if folder else None


def student_folder(model: ModelConfig, run: RunDir) -> Path | None:
    """Return where the student's files lie, as far as that is known: a hub's model only once the base phase has found it."""
    if model.name_or_path is not None and (folder := Path(model.name_or_path).expanduser()).is_dir():
        return folder
    found = (run.record(BASE) or {}).get("checkpoint")
    # An absolute path stands for itself.
    return run.phase(BASE) / found if found else None


def fit_task(task: Task, family: str | None, cache: Path) -> Task:
    """Return the task as a family of models takes it: `unfit` set where it does not take every picture, marks of pictures
    read as words where it is shown all of them before the text.
    """
    if PLACES.get(family or "") == FIRST:
        asked = task.prompt
        task = dataclasses.replace(task, prompt=lambda row, style: pictures_first(asked(row, style)))
    if family is None or unfit_size(family, 1, 10**6) is None:
        return task

    def unfit(examples: Sequence[Question]) -> dict[Path, str]:
        shown = (image for row in examples for image in row.images)
        sizes = remembered(shown, cache / "picture_sizes.json", _size, fleeting=(None,))
        found = {path: unfit_size(family, *size) for path, size in sizes.items() if size}
        return {path: why for path, why in found.items() if why is not None}

    return dataclasses.replace(task, unfit=unfit)


def _size(path: Path) -> list[int] | None:
    try:
        return list(picture_size(path))
    except ImageError:
        return None


def task_text_problems(task: Task, rows: Sequence[Question], own: Sequence[str] = ()) -> Iterator[str]:
    """Yield the texts of a task that the student would read as control tokens.

    Args:
        task: the question and labels of a labelled image set are what the student reads.
        rows: of any other task; each has a question and an answer of its own.
        own: tokens of `special_tokens_of`.
    """
    if task.question is not None and (token := special_token_in(task.question, own)):
        yield f"task.question: {task.question[:80]!r} holds {token!r}, a control token of the student; {_CURE}"
    if task.labels is not None:
        for label in task.labels.names:
            if token := special_token_in(label, own):
                yield f"task.labels: {label!r} holds {token!r}, a control token of the student; {_CURE}"
        return
    held = [(row.id, token) for row in rows if (token := special_token_in(f"{row.text} {row.gold}", own))]
    if held:
        yield (
            f"task {task.name}: {len(held):,} of {len(rows):,} rows hold a control token of the student (first: {held[0][0]}, "
            f"{held[0][1]!r}); {_CURE}"
        )


_CURE = "the picture has its place already, so leave such marks out of the text"


def check_row_texts(name: str, columns: Mapping[str, Sequence[Any]], model: ModelConfig, run: RunDir) -> None:
    """Look for control tokens in what a stage trains on.

    Args:
        name: of the stage.
        columns: id, prompt and, for SFT, completion.
        model: whose tokenizer.
        run: where it may lie.

    Raises:
        UserError: naming how many rows hold one, and the first.
    """
    own, seen = special_tokens_of(student_folder(model, run)), dict[str, str | None]()
    found: list[tuple[str, str]] = []
    for column in ("prompt", "completion"):
        for row_id, turns in zip(columns["id"], columns.get(column) or (), strict=False):
            text = " ".join(part.get("text", "") for turn in turns for part in turn["content"])
            if text not in seen:
                seen[text] = special_token_in(text, own)
            if token := seen[text]:
                found.append((row_id, token))
    if found:
        raise UserError(
            f"{name}: {len(found):,} of {len(columns['id']):,} rows hold a control token of the student (first: {found[0][0]}, "
            f"{found[0][1]!r}); CoT rows are judged anew by python -m cot_builder build, which asks nothing twice"
        )
