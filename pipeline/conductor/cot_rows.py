"""Hold the built CoT rows against the pictures of today, and another run's rows against this one, before they are trained on."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.cot_source import source_problems, unused_keys
from pipeline.checks.splits import may_look
from pipeline.config.derived import cot_slice
from pipeline.config.schema import RunConfig
from pipeline.data.cot_pictures import CotPictures, compare_pictures
from pipeline.data.load import load_task
from pipeline.data.splits import parse_split
from pipeline.data.task import Task
from pipeline.data.training_rows import rows_within
from pipeline.errors import UserError
from pipeline.files import file_digest, read_json
from pipeline.run_dir import COT, RunDir
from pipeline.runs.cot_source import SOURCE, find_source, source_folder


def check_cot_rows(config: RunConfig, run: RunDir) -> list[str]:
    """Return notes on the built rows: new pictures, files of before that cannot be checked, and how many each slice holds.

    Raises:
        UserError: when rows are about other pictures now, or a stage's slice holds none.
    """
    found = cot_pictures(config, run)
    if found is None:
        return []
    if problems := list(found.problems()):
        raise UserError([f"cot: {problem}" for problem in problems])
    return [*(f"cot: {note}" for note in found.notes()), *slice_lines(config, run)]


def check_source(config: RunConfig, run: RunDir, task: Task, *, quick: bool = False, again: bool = False) -> list[str]:
    """Hold the rows that `cot.from` names against the run, unless it has taken them over; returns what a person should know.

    Args:
        config: the run.
        run: its folder.
        task: the run's task.
        quick: compare no pictures of a split that is large, or that is drawn or taken out of files first.
        again: they are to be taken over once more.

    Raises:
        UserError: when there are none, or naming everything in which they do not fit.
    """
    if config.cot is None or config.cot.from_ is None:
        return []
    if is_built(run) and (run.record(COT) or {}).get(SOURCE) and not again:
        there = read_json(source_folder(config.cot.from_) / "manifest.json").get("status")
        gone = {None: "is gone", "complete": ""}.get(there, "is being built again")
        return [f"cot: {config.cot.from_} {gone}; the rows that were taken over of it are here"] if gone else []
    source = find_source(config, run)
    look = not quick or may_look(task, parse_split(config.cot.split)[0])
    if problems := list(source_problems(config, run, task, source, look)):
        raise UserError(problems)
    return [] if look else ["cot: their pictures are compared with those here when the run begins"]


def is_built(run: RunDir) -> bool:
    """Return whether the CoT rows are complete and the very ones their manifest names."""
    record, rows = run.record(COT) or {}, run.cot / "train.parquet"
    return record.get("status") == "complete" and rows.exists() and file_digest(rows) == record.get("data_digest")


def source_lines(config: RunConfig, run: RunDir) -> Iterator[str]:
    """Yield for a plan whose rows `cot.from` takes, and which keys of the block are of no use with it."""
    if config.cot is None or config.cot.from_ is None:
        return
    if there := (run.record(COT) or {}).get(SOURCE):
        yield f"{there['rows']:,} rows of {there['folder']}, built by {there['built_by']}; no teacher is asked"
    else:
        yield str(find_source(config, run))
    if unused := unused_keys(config.cot):
        yield f"not used with cot.from, for these rows are made: {', '.join(unused)}"


def slice_lines(config: RunConfig, run: RunDir) -> list[str]:
    """Return, for every stage with a slice of its own, how many of the built rows it trains on; none where no build is complete.

    Raises:
        UserError: naming every stage whose slice holds none.
    """
    import pyarrow.parquet as pq

    slices = {name: spec for name, stage in config.all_stages.items() if (spec := cot_slice(stage))}
    if not slices or (run.record(COT) or {}).get("status") != "complete" or not (run.cot / "train.parquet").exists():
        return []
    ids = pq.ParquetFile(run.cot / "train.parquet").read(columns=["id"])["id"].to_pylist()
    task = load_task(config.task, run.cache)
    told, problems = [], []
    for name, spec in slices.items():
        try:
            told.append(f"{name}: {len(rows_within(name, spec, task, ids)):,} of {len(ids):,} built rows lie in {spec}")
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return told


def cot_pictures(config: RunConfig, run: RunDir) -> CotPictures | None:
    """Compare the built rows with the pictures; None where no build is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if config.cot is None or (run.record(COT) or {}).get("status") != "complete":
        return None
    try:
        # Before the data are read: there may be nothing to compare.
        pq.read_schema(run.cot / "train.parquet")
    except (OSError, pa.ArrowException):
        return None
    examples = load_task(config.task, run.cache).select(config.cot.split).rows
    return compare_pictures(run.cot, examples, run.cache)
