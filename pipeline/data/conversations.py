"""Examples as the trainers' conversational columns: the only place that knows both sides."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.image_marks import split_at_marks, without_marks
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.types import Example

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


def _columns(examples: Sequence[Example], prompt: str) -> dict[str, list[Any]]:
    return {
        "id": [example.id for example in examples],
        "prompt": [user_turn(prompt) for _ in examples],
        "images": [[str(example.image)] for example in examples],
    }


def grpo_columns(task: Task, examples: Sequence[Example], style: str) -> dict[str, list[Any]]:
    """Return columns id, prompt, images (paths), label, style, attributes, groups: what GRPOTrainer and the rewards read.

    The last two are JSON, as rows need not have the same ones; a reward is given each as the mapping it was.
    """
    return {
        **_columns(examples, task.prompt(style)),
        "label": [example.label for example in examples],
        "style": [style] * len(examples),
        "attributes": [json.dumps(dict(example.attributes), sort_keys=True, default=str) for example in examples],
        "groups": [json.dumps(dict(example.groups), sort_keys=True) for example in examples],
    }


def label_columns(task: Task, examples: Sequence[Example]) -> dict[str, list[Any]]:
    """Return columns id, prompt, images, completion, whose completion is the bare label: supervised on the original data."""
    completions = [assistant_turn(example.label) for example in examples]
    return {**_columns(examples, task.prompt("direct")), "completion": completions}


def cot_columns(
    task: Task, examples: Sequence[Example], cot: Path, unfit: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Return columns id, prompt, images, completion of the built rows, in the file's order.

    Args:
        task: whose question is asked, where the rows bring no prompt of their own (the extraction recipe's do).
        examples: the rows the builder was asked about (`cot.split`); ids are only unique within one split.
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
    columns = ["id", "label", "completion", *(name for name in pq.read_schema(file).names if name == "prompt")]
    rows = pq.ParquetFile(file).read(columns=columns).to_pylist()
    table = {name: [row[name] for row in rows if row["id"] not in unfit] for name in columns}
    known = {example.id: example for example in examples}
    pairs = list(zip(table["id"], table["label"], strict=True))
    lost = [row_id for row_id, label in pairs if row_id not in known or known[row_id].label != label]
    if lost:
        raise UserError(
            f"{file}: {len(lost)} rows have no image, or one with another label, in the task {task.name} "
            f"(first: {lost[0]}); build the CoT data again, or restore the images"
        )
    if "prompt" not in table and (problem := unanswered(task, table)):
        raise UserError(f"{file}: {problem}")
    built = _columns([known[row_id] for row_id in table["id"]], task.prompt("think"))
    if "prompt" in table:
        built["prompt"] = [user_turn(prompt) for prompt in table["prompt"]]
    return {**built, "completion": [assistant_turn(text) for text in table["completion"]]}


def unanswered(task: Task, rows: Mapping[str, Sequence[str]]) -> str | None:
    """Return why built rows that bring no prompt teach wrong pairs, as they do not answer the task's question; None when all do.

    Args:
        task: whose question they are trained to answer, and its judge.
        rows: their columns id, label and completion.
    """
    every = zip(rows["id"], rows["completion"], rows["label"], strict=True)
    judged = ((row_id, task.judge(text, label)) for row_id, text, label in every)
    wrong = [f"{row_id}, {verdict.reason or verdict.label}" for row_id, verdict in judged if not verdict.correct]
    if not wrong:
        return None
    return (
        f"{len(wrong):,} of {len(rows['id']):,} rows do not answer with their label, as the task judges today (first: "
        f"{wrong[0]}), and bring no prompt that asks for something else; build them again, which asks nothing twice, "
        "or let their recipe write a column prompt"
    )


def assistant_turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def tokenizer_texts(task: Task, cot: Path | None) -> Iterator[str]:
    """Yield what a tiny student's tokenizer is trained on: its prompts, the labels, and the CoT completions when
    there are any.
    """
    yield from (task.prompt(style) for style in ("think", "direct") for _ in range(50))
    yield from task.labels.names
    if cot is not None and (cot / "train.parquet").exists():
        import pyarrow.parquet as pq

        table = pq.ParquetFile(cot / "train.parquet").read()
        for column in ("prompt", "completion"):
            if column in table.column_names:
                yield from table[column].to_pylist()
