"""Hold a run's own splits against each other: what it is judged on must not be among what it trains on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from pipeline.checks.splits import FEW, may_look, selections
from pipeline.conductor.contamination import ComparedRow, compare, fingerprints
from pipeline.config.schema import RunConfig
from pipeline.data.cot_pictures import digests_of_rows
from pipeline.data.image_digests import image_digests
from pipeline.data.images import quick_look
from pipeline.data.shared_pictures import SharedPictures, equal_pictures, write_shared
from pipeline.data.splits import parse_split
from pipeline.data.student import load_run_task
from pipeline.data.task import Task
from pipeline.data.training_rows import training_examples
from pipeline.run_dir import RunDir
from pipeline.types import Question

Judged = dict[str, tuple[str, Sequence[Question]]]


def shared_lines(config: RunConfig, run: RunDir, task: Task) -> Iterator[str]:
    """Yield what a plan can tell at once: equal files of splits that are small. Near ones are looked for when the run begins."""
    if not task.in_place or task.listed is None:
        return
    if not all(may_look(task, parse_split(spec)[0]) for spec in selections(config).values()):
        yield f"equal pictures of the splits are looked for when the run begins: a split has more than {FEW:,} rows"
        return
    with quick_look(FEW):
        training, judged = _rows(config, task)
    every = [*training, *(row for _, rows in judged.values() for row in rows)]
    # The builder read those of its rows already.
    known = digests_of_rows(run.cot)
    pairs = [(row, image) for row in every for image in row.images]
    # A built row names the picture of a row that has one.
    told = {image: known[row.id] for row, image in pairs if row.id in known and len(row.images) == 1}
    read = image_digests((image for _, image in pairs if image not in told), run.cache / "image_digests.json")
    digests = {image: told.get(image) or read[str(image)] for _, image in pairs}
    for found in equal_pictures(training, judged, digests):
        yield f"warning: {found}"


def compare_own_pictures(config: RunConfig, run: RunDir) -> list[SharedPictures]:
    """Compare the pixels of all that a run selects, equal and nearly, and keep what is found in its folder.

    Drawn pictures are all alike at the size that near ones are compared at; of them only equal ones count.
    """
    task = load_run_task(config, run)
    if task.name == "scenes":
        # Each is drawn for its own number, so none is another's copy.
        return []
    training, judged = _rows(config, task)
    every = [training, *(rows for _, rows in judged.values())]
    images = [image for rows in every for row in rows for image in row.images]
    pixels = {path: pixels for path, (pixels, _) in fingerprints(images, run.cache).items()}
    found = {one.key: one for one in equal_pictures(training, judged, pixels)}
    for key, (split, rows) in judged.items():
        seen = compare(key, _compared(training), _compared(rows), run.cache)
        if seen.near:
            first = seen.examples[0].replace("training row ", "")
            one = found.get(key, SharedPictures(key, split, len(rows), 0, None, first))
            found[key] = dataclasses.replace(one, near=seen.near)
    write_shared(run.root, list(found.values()))
    return list(found.values())


def _compared(rows: Sequence[Question]) -> list[ComparedRow]:
    return [ComparedRow(row.id, row.images, "") for row in rows]


def _rows(config: RunConfig, task: Task) -> tuple[list[Question], Judged]:
    """(rows that some stage trains on, key: (split, rows) of what is judged and validated on)."""
    task = dataclasses.replace(task, read=functools.cache(task.read))
    named = selections(config)
    judged_keys = [key for key in named if key == "evaluation.split" or key.endswith(".validation.split")]
    training = {(row.images, row.text): row for row in training_examples(config, task)}
    judged: Judged = {}
    for key in judged_keys:
        if named[key] not in (spec for spec, _ in judged.values()):
            judged[key] = (named[key], task.select(named[key]).rows)
    return list(training.values()), judged
