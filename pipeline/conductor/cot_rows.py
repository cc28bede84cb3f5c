"""Hold the built CoT rows against the pictures of today, before anything is trained on them."""

from __future__ import annotations

from pipeline.config.derived import cot_slice
from pipeline.config.schema import RunConfig
from pipeline.data.cot_pictures import CotPictures, compare_pictures
from pipeline.data.load import load_task
from pipeline.data.training_rows import rows_within
from pipeline.errors import UserError
from pipeline.run_dir import COT, RunDir


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
    examples = load_task(config.task, run.cache).select(config.cot.split).examples
    return compare_pictures(run.cot, examples, run.cache)
