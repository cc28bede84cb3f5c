"""Hold the built CoT rows against the pictures of today, before anything is trained on them."""

from __future__ import annotations

from pipeline.config.schema import RunConfig
from pipeline.data.cot_pictures import CotPictures, compare_pictures
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.run_dir import COT, RunDir


def check_cot_rows(config: RunConfig, run: RunDir) -> list[str]:
    """Return notes on the built rows: new pictures, and files of before that cannot be checked.

    Raises:
        UserError: when rows are about other pictures now.
    """
    found = cot_pictures(config, run)
    if found is None:
        return []
    if problems := list(found.problems()):
        raise UserError([f"cot: {problem}" for problem in problems])
    return [f"cot: {note}" for note in found.notes()]


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
