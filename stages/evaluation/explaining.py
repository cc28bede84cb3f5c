"""Map what the answers of a phase hang on: some rows of its predictions, chosen evenly, and a map for each of their pictures."""

from __future__ import annotations

import functools
import json
import logging
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import RunConfig
from pipeline.data.images import ImageError, encode_picture, open_rgb
from pipeline.errors import UserError
from pipeline.files import (
    differences,
    digest,
    end_half_line,
    file_digest,
    json_lines,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
)
from pipeline.formatting import join_counts
from pipeline.logs import show_step
from pipeline.metrics.paired_tests import right
from pipeline.reports.occlusion import FOLDER, GRID, MAPS, RECORD, overlay, peak
from pipeline.run_dir import RunDir
from pipeline.runs.handover import COMPLETE, checkpoint
from stages.models.generate import Answerer
from stages.models.loading import compute_dtype
from stages.models.occlusion import BATCH, occlude
from stages.processes.work import folder_lock

log = logging.getLogger(__name__)

VERSION = 1
"""Raise it when a map would be another one."""
DTYPE = "float32"
"""Of the weights. The logits of bfloat16 are an eighth apart from 16 on: it rounds more than a patch may change."""
Row = dict[str, Any]
"""Of predictions.jsonl."""


def explain(config: RunConfig, run: RunDir, name: str, count: int) -> str:
    """Write the maps of a phase's greedy answers that are not there yet, row by row; return in a line what there is now.

    Args:
        config: the run's.
        run: its folder.
        name: the phase.
        count: rows of each prompt style.

    Raises:
        UserError: when the phase has no checkpoint, no answers of it, is worked on by another process, or fits no GPU.
    """
    weights = _mapped_weights(config, run, name)
    with folder_lock(run.phase(name), wait=0):
        folder, predictions = run.phase(name) / FOLDER, run.phase(name) / "predictions.jsonl"
        inputs = {"version": VERSION, "grid": GRID, "dtype": DTYPE, "weights": weights}
        inputs |= {"predictions": file_digest(predictions)}
        if read_json(folder / RECORD).get("inputs") != inputs:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / RECORD, {"status": "running", "inputs": inputs})
        if (folder / MAPS).exists():
            end_half_line(folder / MAPS)
        done = {_key(row) for row in read_jsonl(folder / MAPS)}
        greedy = [row for row in read_jsonl(predictions) if row["decoding"] == "greedy"]
        chosen = list(choose(greedy, count))
        left_out = Counter({"no_picture": sum(not _pictures(row) for row in greedy)})
        loaded = functools.cache(lambda: Answerer(checkpoint(run, name), config, 0, DTYPE))
        # What the evaluation had room for, beside the cache of what it generated; a number may take twice as much here.
        room = config.evaluation.batch_size // (1 if compute_dtype(config) == DTYPE else 2)
        batch = max(1, min(BATCH, room))
        todo = [row for row in chosen if _key(row) not in done]
        for number, row in enumerate(todo, 1):
            try:
                why = _map(row, folder, run.root, loaded, batch)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{name} does not fit the GPU in {DTYPE} with {batch} rows at once; lower evaluation.batch_size (now "
                    f"{config.evaluation.batch_size}) or take a larger GPU; the maps that are there are kept"
                ) from error
            if why:
                left_out[why] += 1
            else:
                done.add(_key(row))
            if number == len(todo) or number % max(1, len(todo) // 4) == 0:
                show_step(log, f"{name} occlusion maps", number, len(todo), "rows", unit="")
        record = {"status": COMPLETE, "inputs": inputs, "rows": count, "left_out": dict(+left_out)}
        write_json(folder / RECORD, record)
    none = f"; without one: {join_counts(+left_out)}" if +left_out else ""
    mapped = sum(_key(row) in done for row in chosen)
    return f"{name}: occlusion maps of {mapped} rows, {len(chosen) - len(todo)} of them from before, in {folder}{none}"


def choose(rows: Iterable[Row], count: int) -> Iterator[Row]:
    """Yield `count` rows of each prompt style that have a picture: in turns the first wrong and the first right one of every gold
    answer, then the second ones, and so on, gold answers in the order of their first rows. The first rows of more are the same.
    """
    styles: dict[str, dict[str, tuple[list[Row], list[Row]]]] = {}
    for row in rows:
        if _pictures(row):
            styles.setdefault(row["style"], {}).setdefault(str(row["gold"]), ([], []))[right(row)].append(row)
    for golds in styles.values():
        turns = zip_longest(*chain.from_iterable(golds.values()))
        yield from islice((row for turn in turns for row in turn if row is not None), min(count, sys.maxsize))


def _mapped_weights(config: RunConfig, run: RunDir, name: str) -> str:
    """The digest of the weights that a phase's answers are of, once it is known that they are its checkpoint's."""
    checkpoint(run, name, verify=False)
    weights = (run.record(name) or {})["weights"]
    answered = read_json(run.phase(name) / "evaluation.json")
    if answered.get("status") != COMPLETE or not (run.phase(name) / "predictions.jsonl").is_file():
        raise UserError(f"{name} is not evaluated; python -m stages.evaluate --stage {name} answers its rows")
    if answered["inputs"]["weights"] != weights:
        raise UserError(
            f"{name}: its answers are of other weights; python -m stages.evaluate --stage {name} answers anew"
        )
    shown = (answered["inputs"].get("model") or {}).get("processor") or {}
    if changed := differences(shown, json.loads(json.dumps(config.model.processor)), "model.processor"):
        raise UserError(
            f"{name}: its answers are of pictures made otherwise ({', '.join(changed)}); restore that, or answer anew: python -m "
            f"stages.evaluate --stage {name}"
        )
    return str(weights)


def _map(row: Row, folder: Path, root: Path, loaded: Callable[[], Answerer], batch: int) -> str | None:
    """Write the maps of a row; why it has none."""
    paths = _pictures(row)
    try:
        # As the browser of a page finds them: from here, else from the run's folder.
        pictures = [open_rgb(path if path.is_file() else root / path) for path in paths]
    except ImageError as error:
        return error.reason
    found = occlude(loaded().model, loaded().processor, row["prompt"], pictures, row["completion"], batch)
    if found is None:
        return "empty_answer"
    if not all(
        map(math.isfinite, [found.logprob, *(fall for falls in found.falls for line in falls for fall in line)])
    ):
        return "not_finite"
    told = []
    for place, (path, picture, falls) in enumerate(zip(paths, pictures, found.falls, strict=True), 1):
        # An id may hold what no file is called.
        file = f"{row['style']}-{digest(row['id'])[:16]}-{place}.png"
        write_atomic(folder / file, encode_picture(overlay(picture, falls), "PNG"))
        rounded = [[round(fall, 5) for fall in line] for line in falls]
        told.append({"image": str(path), "size": picture.size, "overlay": file, "peak": peak(falls), "falls": rounded})
    line = {name: row[name] for name in ("id", "style", "gold", "label", "correct")}
    line |= {"logprob": round(found.logprob, 5), "tokens": found.tokens, "pictures": told}
    with (folder / MAPS).open("a", encoding="utf-8") as journal:
        journal.write(json_lines([line]))
    return None


def _pictures(row: Row) -> list[Path]:
    return [Path(path) for path in row.get("images") or ([row["image"]] if row.get("image") else [])]


def _key(row: Row) -> tuple[str, str]:
    return row["style"], row["id"]
