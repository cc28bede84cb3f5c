"""The rows a stage trains on, and what they were when it began, so that changed data are noticed and named.

A stage's folder keeps ``data.tsv``: a line per row with its id, a digest of its texts (prompt, answer or completion) and one of
its pictures' bytes. A picture is read once; its digest is kept in the runs' cache for as long as its size and time of change
stay the same, so a copied data set is read again and found equal, and an unchanged one costs a stat per file.

The rows themselves lie beside it in ``rows.parquet``: the process that starts a stage builds them once, its workers read them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.derived import cot_slice
from pipeline.config.schema import RunConfig
from pipeline.data.conversations import cot_columns, grpo_columns, label_columns
from pipeline.data.cot_pictures import compare_pictures
from pipeline.data.image_digests import LENGTH, image_digests
from pipeline.data.student import UNFIT, check_row_texts
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import digest, write_atomic
from pipeline.run_dir import COT, RunDir
from pipeline.types import Question, Split

DATA = "data.tsv"
ROWS = "rows.parquet"


def training_columns(config: RunConfig, run: RunDir, name: str, task: Task) -> tuple[dict[str, list[Any]], Split]:
    """Return (columns, the split they come from) that a stage trains on; see `pipeline.data.conversations`.

    Raises:
        UserError: as the task and `cot_columns` do; when CoT rows are about other pictures now, or none lies in its split.
    """
    stage = config.stage(name)
    if stage.data == COT:
        # pipeline.checks refuses the stage otherwise.
        assert config.cot is not None
        split = task.select_for_training(config.cot.split)
        compared = compare_pictures(run.cot, split.rows, run.cache)
        if compared is not None and (problems := list(compared.problems())):
            raise UserError([f"{name}: {problem}" for problem in problems])
        unfit = {problem.id for problem in split.problems if problem.reason == UNFIT}
        columns = _within(config, name, task, cot_columns(task, split.rows, run.cot, unfit))
        check_row_texts(name, columns, config.model, run)
        return columns, split
    split = task.select_for_training(stage.split)
    if stage.data == "labels":
        columns = label_columns(task, split.rows)
    else:
        columns = grpo_columns(task, split.rows, stage.prompt)
    check_row_texts(name, columns, config.model, run)
    return columns, split


def _within(config: RunConfig, name: str, task: Task, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The built rows that the stage's own split selects.

    Raises:
        UserError: when it selects none.
    """
    spec = cot_slice(config.stage(name))
    if spec is None:
        return columns
    chosen = rows_within(name, spec, task, columns["id"])
    return {key: [values[at] for at in chosen] for key, values in columns.items()}


def rows_within(name: str, spec: str, task: Task, ids: Sequence[str]) -> list[int]:
    """Return the places of the built rows whose row of the task a stage's split selects, in their order.

    Args:
        name: of the stage, for the message.
        spec: its split.
        task: whose rows they are.
        ids: of the built rows.

    Raises:
        UserError: when it selects none.
    """
    selected = {example.id for example in task.select(spec).rows}
    chosen = [at for at, row_id in enumerate(ids) if row_id in selected]
    if not chosen:
        raise UserError(
            f"{name}: its split {spec!r} selects {len(selected):,} rows of the task and none of the {len(ids):,} built rows; "
            "take a larger slice, or leave split out to train on all built rows"
        )
    return chosen


def training_examples(config: RunConfig, task: Task) -> list[Question]:
    """Return every row that some stage trains on, once. Of CoT rows, those the builder asks about are taken for built."""
    stages = config.all_stages.values()
    specs: set[tuple[str, str | None]] = {(stage.split, None) for stage in stages if stage.data != COT}
    if config.cot is not None:
        built = {cot_slice(stage) for stage in stages if stage.data == COT} or {None}
        specs |= {(config.cot.split, spec) for spec in built}
    selected = {
        spec: task.select_for_training(spec).rows for spec in sorted({one for pair in specs for one in pair if one})
    }
    rows: dict[tuple[tuple[Path, ...], str], Question] = {}
    for spec, within in sorted(specs, key=str):
        ids = {example.id for example in selected[within]} if within else None
        rows |= {(row.images, row.id): row for row in selected[spec] if ids is None or row.id in ids}
    return list(rows.values())


def asked_rows(config: RunConfig, task: Task) -> Sequence[Question]:
    """Return rows that hold every text of the task that a student reads: those that are trained on or judged; of a labelled
    image set, one per label.
    """
    if task.labels is not None:
        return task.stand_ins(config.evaluation.split)
    judged = {config.evaluation.split}
    judged |= {stage.validation.split for stage in config.all_stages.values() if stage.validation is not None}
    return [*training_examples(config, task), *(row for spec in sorted(judged) for row in task.select(spec).rows)]


def read_or_build_rows(
    config: RunConfig, run: RunDir, name: str, task: Task
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Return (columns, how many rows each problem took out) that a stage trains on, from its `ROWS` where it has them.

    Raises:
        UserError: as `training_columns` does.
    """
    if (run.phase(name) / ROWS).exists():
        return read_rows(run.phase(name))
    columns, split = training_columns(config, run, name, task)
    return columns, split.problem_counts


def write_rows(folder: Path, columns: dict[str, list[Any]], problems: dict[str, int]) -> None:
    """Write a stage's rows for its workers. Lists, such as turns of a conversation, are kept as JSON and read as they were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = [name for name, values in columns.items() if values and not isinstance(values[0], str)]
    texts = {
        name: pa.array([json.dumps(value) for value in values] if name in lists else values, pa.string())
        for name, values in columns.items()
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(texts, metadata={"json": json.dumps(lists), "problems": json.dumps(problems)}), sink)
    write_atomic(folder / ROWS, sink.getvalue().to_pybytes())


def read_rows(folder: Path, only: list[str] | None = None) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Return (columns, how many rows each problem took out), as `write_rows` was given them.

    Args:
        folder: of the stage.
        only: the columns that are read; None for all.
    """
    import pyarrow.parquet as pq

    table = pq.ParquetFile(folder / ROWS).read(columns=only)
    lists, problems = (json.loads(table.schema.metadata[key]) for key in (b"json", b"problems"))
    columns = table.to_pydict()
    return {
        name: [json.loads(text) for text in texts] if name in lists else texts for name, texts in columns.items()
    }, problems


def trained_questions(folder: Path) -> list[str]:
    """Return the different texts that a stage's rows ask beside their pictures, in order; none where it kept no rows.

    Args:
        folder: of the stage.
    """
    if not (folder / ROWS).is_file():
        return []
    prompts = read_rows(folder, ["prompt"])[0].get("prompt", [])
    texts = (
        part.get("text") for prompt in prompts for turn in prompt for part in turn["content"] if isinstance(part, dict)
    )
    return list(dict.fromkeys(text for text in texts if text))


def data_lines(columns: dict[str, list[Any]], cache: Path) -> str:
    """Return the lines of data.tsv for these rows, in their order.

    Args:
        columns: id, images and what is trained on.
        cache: the folder all runs share.
    """
    # A labelled image set's question stands in its prompt.
    texts, asked = [name for name in columns if name not in ("id", "images", "question")], columns.get("question")
    paths = (Path(path) for images in columns["images"] for path in images)
    pictures = image_digests(paths, cache / "image_digests.json")
    lines = []
    for number, row_id in enumerate(columns["id"]):
        told = [columns[name][number] for name in texts]
        if asked is not None and json.loads(asked[number])["kind"] != "label":
            told.append(asked[number])
        text = digest(told)[:LENGTH]
        seen = " ".join(pictures[path] for path in columns["images"][number])
        lines.append(f"{json.dumps(row_id)}\t{text}\t{seen}\n")
    return "".join(lines)


def changes(then: str, now: str) -> list[str]:
    """Return what is different in the rows, with how many and the first of each kind; [] when nothing is."""
    if then == now:
        return []
    old, new = (dict(_rows(text)) for text in (then, now))
    both = [row for row in new if row in old]
    kinds = {
        "images changed": [row for row in both if old[row][1] != new[row][1]],
        "rows have another prompt, answer or completion": [row for row in both if old[row][0] != new[row][0]],
        "rows are gone": [row for row in old if row not in new],
        "rows are new": [row for row in new if row not in old],
    }
    found = [f"{len(rows):,} of {len(new):,} {kind} (first: {rows[0]})" for kind, rows in kinds.items() if rows]
    return found or ["the rows come in another order"]


def _rows(text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(id, (digest of the texts, of the pictures)); the second row of one id has the id "… (2)"."""
    seen: Counter[str] = Counter()
    for line in text.splitlines():
        quoted, words, picture = line.split("\t")
        row_id = json.loads(quoted)
        seen[row_id] += 1
        yield (f"{row_id} ({seen[row_id]})" if seen[row_id] > 1 else row_id), (words, picture)
