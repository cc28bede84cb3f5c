"""Rows as the trainers' conversational columns: the only place that knows both sides."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.questions.image_marks import split_at_marks, without_marks
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.types import Question

Image = TypeVar("Image")


def user_turn(prompt: str, images: int = 1) -> list[dict[str, Any]]:
    """Return a user message with its images at their marks in the text, those without a mark before it.

    The images themselves travel in their own column, in the order of `in_order`.

    Args:
        prompt: ``<image 1>`` marks where image 1 belongs.
        images: how many there are.
    """
    # Without a mark nothing is cut, and no white space lost.
    pieces = [*range(images), prompt] if without_marks(prompt) == prompt else split_at_marks(prompt, images)
    content = [{"type": "image"} if isinstance(one, int) else {"type": "text", "text": one} for one in pieces]
    return [{"role": "user", "content": content}]


def in_order(prompt: str, images: Sequence[Image]) -> list[Image]:
    """Return images in the order in which a reader of the prompt meets them."""
    return [images[one] for one in split_at_marks(prompt, len(images)) if isinstance(one, int)]


def _columns(task: Task, rows: Sequence[Question], style: str) -> dict[str, list[Any]]:
    return {"id": [row.id for row in rows], **_asked(rows, [task.prompt(row, style) for row in rows])}


def _asked(rows: Sequence[Question], prompts: Sequence[str]) -> dict[str, list[Any]]:
    """Rows' prompts with a place for each picture, and the pictures in the order of these."""
    pairs = list(zip(rows, prompts, strict=True))
    return {
        "prompt": [user_turn(prompt, len(row.images)) for row, prompt in pairs],
        "images": [[str(image) for image in in_order(prompt, row.images)] for row, prompt in pairs],
    }


def grpo_columns(task: Task, rows: Sequence[Question], style: str) -> dict[str, list[Any]]:
    """Return columns id, prompt, images (paths), answer, style, attributes, groups, question: what GRPOTrainer and the rewards
    read.

    The last three are JSON, as rows need not have the same ones; a reward is given the first two as the mappings they were, and
    the row as a `Question` of what the last holds (text, options, kind, facts).
    """
    return {
        **_columns(task, rows, style),
        "answer": [row.gold for row in rows],
        "style": [style] * len(rows),
        "attributes": [_json(row.attributes) for row in rows],
        "groups": [_json(row.groups) for row in rows],
        "question": [
            _json({"text": row.text, "options": row.options, "kind": row.kind, "facts": row.facts}) for row in rows
        ],
    }


def _json(mapping: Mapping[str, Any]) -> str:
    return json.dumps(dict(mapping), sort_keys=True, default=str)


def label_columns(task: Task, rows: Sequence[Question]) -> dict[str, list[Any]]:
    """Return columns id, prompt, images, completion, whose completion is the bare answer: supervised on the original data."""
    return {**_columns(task, rows, "direct"), "completion": [assistant_turn(row.gold) for row in rows]}


def cot_columns(task: Task, rows: Sequence[Question], cot: Path, unfit: Collection[str] = ()) -> dict[str, list[Any]]:
    """Return columns id, prompt, images, completion of the built rows, in the file's order.

    Args:
        task: whose question is asked, where the rows bring no prompt of their own (the extraction recipe's do).
        rows: the rows the builder was asked about (`cot.split`); ids are only unique within one split.
        cot: the folder the builder wrote.
        unfit: ids of rows whose picture the student's processor refuses; they are left out.

    Raises:
        UserError: when there are none, or a row's image is no longer among them, or has another label now; when rows bring no
            prompt and do not answer the task's question.
    """
    import pyarrow.parquet as pq

    file = cot / "train.parquet"
    if not file.exists():
        raise UserError(
            f"{file} does not exist; build the rows first: python -m cot_builder build, or python -m pipeline run"
        )
    there = pq.read_schema(file).names
    columns = ["id", "label", "completion", *(["prompt"] if "prompt" in there else [])]
    built = pq.ParquetFile(file).read(columns=columns).to_pylist()
    table = {name: [row[name] for row in built if row["id"] not in unfit] for name in columns}
    known = {row.id: row for row in rows}
    pairs = list(zip(table["id"], table["label"], strict=True))
    lost = [row_id for row_id, label in pairs if row_id not in known or known[row_id].gold != label]
    if lost:
        raise UserError(
            f"{file}: {len(lost)} rows have no image, or one with another label, in the task {task.name} "
            f"(first: {lost[0]}); build the CoT data again, or restore the images"
        )
    about = [known[row_id] for row_id in table["id"]]
    # A row that describes brings a prompt and has no answer.
    answers = "answer" in there or "prompt" not in there
    if answers and (problem := unanswered(task, about, table["completion"])):
        raise UserError(f"{file}: {problem}")
    prompts = table["prompt"] if "prompt" in table else [task.prompt(row, "think") for row in about]
    return {
        "id": table["id"],
        **_asked(about, prompts),
        "completion": [assistant_turn(text) for text in table["completion"]],
    }


def unanswered(task: Task, rows: Sequence[Question], completions: Sequence[str]) -> str | None:
    """Return why built rows that bring no prompt teach wrong pairs, as they do not answer the task's question; None when all do.

    Args:
        task: whose judge decides.
        rows: what they are trained to answer.
        completions: what each is answered with.
    """
    judged = ((row.id, task.judge(row, text, "think")) for row, text in zip(rows, completions, strict=True))
    wrong = [f"{row_id}, {verdict.reason or verdict.answer}" for row_id, verdict in judged if not verdict.earned]
    if not wrong:
        return None
    return (
        f"{len(wrong):,} of {len(rows):,} rows do not answer with their label, as the task judges today (first: "
        f"{wrong[0]}), and bring no prompt that asks for something else; build them again, which asks nothing twice, "
        "or let their recipe write a column prompt"
    )


def assistant_turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def tokenizer_texts(task: Task, rows: Sequence[Question], cot: Path | None) -> Iterator[str]:
    """Yield what a tiny student's tokenizer is trained on: prompts, answers, and the CoT completions when there are any.

    Args:
        task: how its rows are asked.
        rows: that are trained on or judged; the stand-ins of closed labels, whose prompt is the same for all.
        cot: the folder the builder wrote.
    """
    for style in ("think", "direct"):
        prompts = list(dict.fromkeys(task.prompt(row, style) for row in rows))
        # A lone prompt must outweigh the answers, or its words are split.
        yield from prompts * (50 // len(prompts) or 1)
    yield from dict.fromkeys(row.gold for row in rows if row.gold)
    if cot is not None and (cot / "train.parquet").exists():
        import pyarrow.parquet as pq

        table = pq.ParquetFile(cot / "train.parquet").read()
        for column in ("prompt", "completion"):
            if column in table.column_names:
                yield from table[column].to_pylist()
