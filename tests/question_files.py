"""Small files of rows in the forms that public trainers and benchmarks publish them in, with what they ask."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (color % 256, 40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(color))
    return path


def cell(color: int = 0) -> dict[str, Any]:
    """A picture as `datasets` keeps it in parquet."""
    return {"bytes": png(color), "path": None}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


@dataclass(frozen=True)
class Schema:
    """One published form: how to write a file of it, and what its first row asks.

    Args:
        write: (folder, rows) -> writes so many rows, all with the first's question.
        text, options, answer, kind, pictures: of the first question.
        right, wrong: completions in think style's <answer>.
        told: part of what a plan says of the columns.
    """

    write: Callable[[Path, int], None]
    text: str
    answer: str
    kind: str
    right: str
    wrong: str
    told: str
    options: tuple[str, ...] = ()
    pictures: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)


def trl(root: Path, rows: int) -> None:
    prompt = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "How many dogs?"}]}
    ]
    write_parquet(
        root / "data" / "train-00000-of-00001.parquet",
        [
            {"prompt": prompt, "image": cell(i), "solution": "<think>One, two.</think>\n<answer>2</answer>"}
            for i in range(rows)
        ],
    )


def vlm_r1(root: Path, rows: int) -> None:
    for i in range(rows):
        put(root / "images" / f"{i}.png", i)
    write_lines(
        root / "train.jsonl",
        [
            {
                "id": i,
                "image": f"/data/coco/images/{i}.png",
                "problem": "Is it red?",
                "solution": "<answer> Yes </answer>",
            }
            for i in range(rows)
        ],
    )


def easy_r1(root: Path, rows: int) -> None:
    problem = "<image>Find the length of $x$."
    write_parquet(
        root / "train.parquet",
        [{"images": [cell(i)], "problem": problem, "answer": "2\\sqrt{221}"} for i in range(rows)],
    )


def ms_swift(root: Path, rows: int) -> None:
    for i in range(rows):
        put(root / f"{i}a.png", i)
        put(root / f"{i}b.png", i + 100)
    content = "<image><image>Which is darker, the first or the second?"
    write_lines(
        root / "train.jsonl",
        [
            {
                "messages": [{"role": "system", "content": "Be helpful."}, {"role": "user", "content": content}],
                "images": [f"{i}a.png", f"{i}b.png"],
                "solution": "the first",
            }
            for i in range(rows)
        ],
    )


def llava(root: Path, rows: int) -> None:
    for i in range(rows):
        put(root / "coco" / f"{i}.png", i)
    asked = "<image>\nWhat is it?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices directly."
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "B"}]
    turns += [{"from": "human", "value": "What color is it?"}, {"from": "gpt", "value": "red"}]
    write_json(
        root / "llava_mix.json",
        [{"id": f"r{i}", "image": f"coco/{i}.png", "conversations": turns} for i in range(rows)],
    )


def llama_factory(root: Path, rows: int) -> None:
    for i in range(rows):
        put(root / "mllm" / f"{i}.png", i)
    turns = [{"content": "<image>Who are they?", "role": "user"}, {"content": "Kane and Goretzka", "role": "assistant"}]
    write_json(root / "mllm.json", [{"messages": turns, "images": [f"mllm/{i}.png"]} for i in range(rows)])
    write_json(root / "dataset_info.json", {"mllm": {"file_name": "mllm.json"}})


def mmmu_like(root: Path, rows: int) -> None:
    write_parquet(
        root / "validation-00000-of-00001.parquet",
        [
            {
                "id": f"v{i}",
                "question": "Compare <image 2> with <image 1>. Which is larger?",
                "options": "['the first', 'the second']",
                "answer": "A",
                "question_type": "multiple-choice",
                "image_1": cell(i),
                "image_2": cell(i + 50),
                "image_3": None,
            }
            for i in range(rows)
        ],
    )


def cv_bench_like(root: Path, rows: int) -> None:
    write_parquet(
        root / "test_2d.parquet",
        [
            {
                "idx": i,
                "type": "2D",
                "task": "Count",
                "image": cell(i),
                "question": "How many cups are there?",
                "choices": ["3", "2", "1"],
                "answer": "(B)",
                "prompt": "How many cups are there? Select from the following choices.\n(A) 3\n(B) 2\n(C) 1",
                "source": "COCO",
            }
            for i in range(rows)
        ],
    )


def mmbench(root: Path, rows: int) -> None:
    lines = ["index\thint\tquestion\tA\tB\tC\tD\tanswer\tcategory\timage"]
    for i in range(rows):
        picture = base64.b64encode(png(i)).decode()
        lines.append(f"{i}\tIt is night.\tWhere is the cup?\tleft\tright\t\t\tB\tspatial\t{picture}")
    root.mkdir(parents=True, exist_ok=True)
    (root / "mmbench_dev.tsv").write_text("\n".join(lines) + "\n")


SCHEMAS: dict[str, Schema] = {
    "trl": Schema(trl, "How many dogs?", "2", "number", "two", "3", "question <- prompt, answer <- solution"),
    "vlm_r1": Schema(
        vlm_r1, "Is it red?", "yes", "yes_no", "Yes.", "yes and no", "question <- problem, answer <- solution"
    ),
    "easy_r1": Schema(
        easy_r1, "Find the length of $x$.", "2\\sqrt{221}", "number", "29.73", "29", "pictures <- images"
    ),
    "ms_swift": Schema(
        ms_swift,
        "<image 1><image 2>Which is darker, the first or the second?",
        "the first",
        "text",
        "First",
        "first or second",
        "pictures <- images, question <- messages, answer <- solution",
        pictures=2,
    ),
    "llava": Schema(
        llava,
        "What is it?\nA. a dog\nB. a cat",
        "B",
        "letter",
        "a cat",
        "A",
        "question <- conversations, id <- id, answer <- the turns, options <- the question's text",
        ("a dog", "a cat"),
    ),
    "llama_factory": Schema(
        llama_factory, "Who are they?", "Kane and Goretzka", "text", "KANE AND GORETZKA.", "Kane", "answer <- the turns"
    ),
    "mmmu_like": Schema(
        mmmu_like,
        "Compare <image 2> with <image 1>. Which is larger?\n(A) the first\n(B) the second",
        "A",
        "letter",
        "(A)",
        "B",
        "pictures <- image_1, image_2, image_3, question <- question, answer <- answer, options <- options, id <- id",
        ("the first", "the second"),
        pictures=2,
    ),
    "cv_bench_like": Schema(
        cv_bench_like,
        "How many cups are there?\n(A) 3\n(B) 2\n(C) 1",
        "B",
        "letter",
        "B. 2",
        "3",
        "options <- choices, id <- idx",
        ("3", "2", "1"),
    ),
    "mmbench": Schema(
        mmbench,
        "It is night.\nWhere is the cup?\n(A) left\n(B) right",
        "B",
        "letter",
        "(B) right",
        "left",
        "options <- A, B, C, D",
        ("left", "right"),
    ),
}
