"""Take over the rows of another run (`cot.from`) in place of asking: a copy of its files, with a manifest that says whose.

The run keeps rows of its own, so its source may be deleted or built again; that it has other rows since is told by `plan`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from typing import Any

from pipeline.checks.cot_source import source_problems
from pipeline.config.loader import to_plain
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.data.student import load_run_task
from pipeline.errors import UserError
from pipeline.files import file_digest, write_atomic, write_json
from pipeline.run_dir import COT, RunDir
from pipeline.runs.cot_source import SOURCE, CotSource, find_source
from pipeline.runs.phases import phase_inputs
from pipeline.system.locks import acquire

_BESIDE = ("rejected.jsonl", "unusable.jsonl", "gallery.html")
"""Files of a build that tell of its rows, and may be missing where somebody passed on the rows alone."""


def check(config: RunConfig) -> CotSource:
    """Return the source of a run's rows, once all of them are known to fit it.

    Raises:
        UserError: naming everything that does not, see `pipeline.checks.cot_source`.
    """
    run = RunDir(config.output_dir, config.name)
    source = find_source(config, run)
    if problems := list(source_problems(config, run, load_run_task(config, run), source)):
        raise UserError(problems)
    return source


def take_over(config: RunConfig) -> dict[str, Any]:
    """Copy the rows that `cot.from` names into the run; they are complete once its manifest says so, which is written last.

    Raises:
        UserError: as `check`; when another process works in the folder, it cannot be written, or the source changes meanwhile.
    """
    run, source = RunDir(config.output_dir, config.name), check(config)
    try:
        with acquire(run.cot / ".lock"):
            return _copy(config, run, source)
    except BlockingIOError:
        raise UserError(f"{run.cot} is in use by another process; wait for it or stop it") from None
    except OSError as error:
        raise UserError(
            f"cot.from: {source.named} cannot be copied to {run.cot} ({error.strerror or error}); mend it and run the "
            "same command again"
        ) from error


def _copy(config: RunConfig, run: RunDir, source: CotSource) -> dict[str, Any]:
    began = time.monotonic()
    manifest = {
        # What became of its rows, and who wrote them; what they are stands there once they are here.
        **{key: value for key, value in source.manifest.items() if key != "data_digest"},
        "status": "incomplete",
        "why": "its rows are being taken over, or that was stopped",
        "requests_this_time": 0,
        "replies_in_journal": 0,
        "inputs": phase_inputs(config, COT),
        "config": {
            **{key: to_plain(config)[key] for key in ("name", "seed", "task")},
            "cot": {**(source.config.get("cot") or {}), "from": source.named},
        },
        SOURCE: source.record(),
    }
    write_json(run.record_path(COT), manifest)
    for name in ("train.parquet", "unasked.jsonl"):
        (run.cot / name).unlink(missing_ok=True)
    for name in _BESIDE:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, run.cot / name)
        else:
            (run.cot / name).unlink(missing_ok=True)
    partial = run.cot / ".train.parquet.partial"
    shutil.copyfile(source.file, partial)
    if file_digest(partial) != source.manifest["data_digest"]:
        partial.unlink()
        raise UserError(
            f"cot.from: {source.file} changed while it was taken over; run the same command again once it is built"
        )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, run.cot / "train.parquet")
    write_atomic(run.cot / "README.md", _card(source))
    manifest |= {"status": "complete", "why": None, "data_digest": source.manifest["data_digest"]}
    manifest |= {"image_root": _image_root(config, run, source), "seconds": round(time.monotonic() - began, 2)}
    write_json(run.record_path(COT), manifest)
    return manifest


def _card(source: CotSource) -> str:
    """The source's card, which says below its title whose rows these are."""
    own = source.folder / "README.md"
    text = own.read_text(encoding="utf-8") if own.is_file() else "# Chain-of-thought rows\n"
    before, mark, rest = f"\n{text}".partition("\n# ")
    title, _, body = rest.partition("\n")
    told = f"{taken_line(source.record())} What follows was said of them there."
    return f"{before}{mark}{title}\n\n{told}\n{body}".removeprefix("\n")


def taken_line(there: Mapping[str, Any]) -> str:
    """Return whose rows they are, for people.

    Args:
        there: `SOURCE` of a manifest.
    """
    whose = f"run `{there['run']}`" + (f", built by `{there['built_by']}`" if there["built_by"] != there["run"] else "")
    return (
        f"Taken over from {whose}: {there['rows']:,} rows, sha256 of train.parquet `{there['data_digest']}`; 0 requests, for no "
        "teacher was asked here."
    )


def _image_root(config: RunConfig, run: RunDir, source: CotSource) -> str:
    """The folder that the rows' `image` is relative to, here."""
    import pyarrow.parquet as pq

    assert config.cot is not None
    built = pq.ParquetFile(run.cot / "train.parquet").read(columns=["id", "image"]).to_pylist()
    examples = load_task(config.task, run.cache).select(config.cot.split).rows
    for row in [row for row in built if row["image"]][:1]:
        image = next(each.images[0] for each in examples if each.id == row["id"]).absolute().as_posix()
        if image.endswith(f"/{row['image']}"):
            return image.removesuffix(f"/{row['image']}")
    return str(source.manifest.get("image_root"))
