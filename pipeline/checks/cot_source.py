"""Whether the CoT rows of another run (`cot.from`) can be this run's.

Their manifest says what they were made of: task, labels, question, split and recipe have to agree, which settles everything but
the pictures. These are compared by their digests, so paths, options and other splits of the data may differ.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pipeline.config.loader import to_plain
from pipeline.config.schema import CotConfig, RunConfig
from pipeline.config.special_tokens import special_token_in, special_tokens_of
from pipeline.data.conversations import unanswered
from pipeline.data.cot_pictures import COLUMN, compare_pictures
from pipeline.data.load import load_task
from pipeline.data.student import student_folder
from pipeline.data.task import Task
from pipeline.files import differences
from pipeline.run_dir import RunDir
from pipeline.runs.cot_source import MADE_OF, CotSource
from pipeline.types import Question

_USED = ("from", *MADE_OF, "min_rows", "min_rows_per_class")
_NAMED = 3
"""Most labels that one line names."""


def source_problems(config: RunConfig, run: RunDir, task: Task, source: CotSource, look: bool = True) -> Iterator[str]:
    """Yield why the rows of a source cannot be this run's: key by key, and where all agree, row by row.

    Args:
        config: the run.
        run: its folder.
        task: the run's task.
        source: whose rows they are.
        look: whether the pictures are compared.
    """
    made = list(_other_keys(config, run, task, source))
    if made:
        yield from (f"cot.from: {problem}" for problem in made)
        yield f"the rows of {source.named} were made otherwise: set these keys as they are there, or leave cot.from out"
        return
    assert config.cot is not None
    import pyarrow.parquet as pq

    columns = [
        name for name in ("id", "label", "completion", "prompt", "answer") if name in pq.read_schema(source.file).names
    ]
    rows = pq.ParquetFile(source.file).read(columns=columns).to_pydict()
    for problem in _unfit_rows(config, run, task, rows, source):
        yield f"cot.from: {problem}"
    if look:
        for problem in _other_pictures(config, run, task, rows, source):
            yield f"cot.from: {problem}"


def _other_keys(config: RunConfig, run: RunDir, task: Task, source: CotSource) -> Iterator[str]:
    """What the rows were made of and this run is not."""
    assert config.cot is not None
    there, own = source.config.get("task") or {}, config.task.name
    if there.get("name") != own:
        yield f"task.name: {own!r} here, {there.get('name')!r} in {source.named}"
        return
    theirs, ours = source.manifest.get("labels") or [], list(task.labels.names) if task.labels is not None else []
    for whose, labels in (("here", set(ours) - set(theirs)), ("in " + source.named, set(theirs) - set(ours))):
        if labels:
            yield f"task.labels: {_some(sorted(labels))} only {whose}"
    asked = source.manifest.get("question") or there.get("question")
    if asked is None:
        # Built before manifests said so, with the question that the task has of itself.
        asked = load_task(dataclasses.replace(config.task, question=None), run.cache).question
    if asked != task.question:
        yield f"task.question: {task.question!r} here, {asked!r} in {source.named}"
    for key in MADE_OF:
        then, now = (source.config.get("cot") or {}).get(key), getattr(config.cot, key)
        if then != now:
            yield f"cot.{key}: {now!r} here, {then!r} in {source.named}"


def _unfit_rows(
    config: RunConfig, run: RunDir, task: Task, rows: Mapping[str, Sequence[str]], source: CotSource
) -> Iterator[str]:
    """Rows that this run's student cannot learn from, and too few of them."""
    assert config.cot is not None
    own = special_tokens_of(student_folder(config.model, run))
    texts = zip(*(rows[name] for name in rows if name in ("completion", "prompt")), strict=True)
    held = [
        (row_id, token)
        for row_id, row in zip(rows["id"], texts, strict=True)
        if (token := next(filter(None, (special_token_in(text, own) for text in row)), None))
    ]
    if held:
        yield (
            f"{len(held):,} of {len(rows['id']):,} rows hold a control token of this student (first: {held[0][0]}, "
            f"{held[0][1]!r}); build the rows here on a copy of {source.named}'s cot/journal, which judges them anew for it"
        )
    # A row that describes brings a prompt and has no answer.
    if "answer" in rows or "prompt" not in rows:
        every = list(zip(rows["id"], rows["label"], rows["completion"], strict=True))
        known = {} if task.labels is not None else {row.id: row for row in task.select(config.cot.split).rows}
        closed = {row_id: Question(row_id, (), answer=label, kind="label") for row_id, label, _ in every}
        judged = known if task.labels is None else closed
        # Of rows that are gone it is told that they are.
        there = [(judged[row_id], text) for row_id, _, text in every if row_id in judged]
        if problem := unanswered(task, [row for row, _ in there], [text for _, text in there]):
            yield problem
        if "prompt" in rows:
            pairs = zip(rows["id"], rows["prompt"], strict=True)
            other = [
                row_id for row_id, text in pairs if row_id in known and task.prompt(known[row_id], "think") != text
            ]
            if other:
                yield f"{len(other):,} of {len(rows['id']):,} rows are asked otherwise here (first: {other[0]})"
    if len(rows["id"]) < config.cot.min_rows:
        yield f"{source.named} has {len(rows['id']):,} rows, fewer than cot.min_rows = {config.cot.min_rows:,}; lower it"


def _other_pictures(
    config: RunConfig, run: RunDir, task: Task, rows: Mapping[str, Sequence[str]], source: CotSource
) -> Iterator[str]:
    """Rows of which this run has no picture, or another one, or one with another label."""
    assert config.cot is not None
    examples = load_task(config.task, run.cache).select(config.cot.split).rows
    found = compare_pictures(source.folder, examples, run.cache)
    assert found is not None
    if not found.known:
        yield (
            f"the rows of {source.named} do not name their pictures ({COLUMN}), so nothing shows that they are of these; build "
            "them there again, which asks nothing twice"
        )
    labels = {example.id: example.gold for example in examples}
    classes = {example.id: task.class_of(example) for example in examples}
    pairs = [(row_id, then) for row_id, then in zip(rows["id"], rows["label"], strict=True) if row_id in labels]
    relabelled = [row_id for row_id, then in pairs if labels[row_id] != then]
    kinds = {
        f"have no picture of their name in cot.split {config.cot.split!r}": found.gone,
        "are about other pictures than those here": found.changed,
        "have another label here": relabelled,
    }
    told = [f"{len(ids):,} of {found.rows:,} rows {what} (first: {ids[0]})" for what, ids in kinds.items() if ids]
    yield from told
    changed = differences(source.config.get("task"), to_plain(config.task), "task")
    if told and changed:
        yield f"the data were described otherwise there: {'; '.join(changed)}"
    kept, least = Counter(classes[row_id] for row_id in rows["id"] if row_id in classes), config.cot.min_rows_per_class
    if short := [f"{name} {kept[name]:,}" for name in sorted(set(classes.values())) if kept[name] < least]:
        yield f"{source.named} has fewer rows of some classes than cot.min_rows_per_class = {least:,} ({_some(short)}); lower it"


def unused_keys(cot: CotConfig) -> list[str]:
    """Return the keys that are set of those that say how teachers are asked, which nobody is, such as ``cot.attempts``."""
    set_here, plain = to_plain(CotConfig()), to_plain(cot)
    return [f"cot.{key}" for key in plain if key not in _USED and plain[key] != set_here[key]]


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")
