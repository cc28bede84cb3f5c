"""CoT rows of another run (`cot.from`): where they lie, and whether they are still those that a run took over.

Whether they fit a run is asked in `pipeline/checks/cot_source.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import CotConfig, RunConfig
from pipeline.errors import UserError, did_you_mean
from pipeline.files import file_digest, read_json
from pipeline.run_dir import COT, RunDir

SOURCE = "source"
"""Key of a manifest that says whose rows they are; where they were built it is not there."""
MADE_OF = ("recipe", "split")
"""Keys of the cot block that have to agree."""


@dataclass(frozen=True)
class CotSource:
    """A complete build that rows are taken over from.

    Args:
        named: as `cot.from` names it.
        folder: where its manifest.json and train.parquet lie.
        manifest: what it says.
    """

    named: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / "train.parquet"

    @property
    def config(self) -> Mapping[str, Any]:
        """What of the configuration the rows were made with: name, seed, task, cot."""
        return self.manifest.get("config") or {}

    @property
    def kept(self) -> int:
        """How many rows there are."""
        return int(self.manifest["rows"]["kept"])

    def record(self) -> dict[str, Any]:
        """Return what the manifest of a run that takes the rows over says of them, under `SOURCE`."""
        before = self.manifest.get(SOURCE) or {}
        return {
            "folder": self.named,
            "run": self.config.get("name"),
            "built_by": before.get("built_by", self.config.get("name")),
            "data_digest": self.manifest["data_digest"],
            "rows": self.kept,
        }

    def __str__(self) -> str:
        rows, by = self.manifest["rows"], self.record()["built_by"]
        return (
            f"{self.kept:,} rows of {self.named}, kept of the {rows.get('selected', 0):,} of {self.config['cot']['split']} that "
            f"{by} built from (sha256 {self.manifest['data_digest'][:12]}); no teacher is asked"
        )


def source_folder(named: str) -> Path:
    """Return where rows lie that `cot.from` names: the cot/ of a run, or the very folder."""
    folder = Path(named).expanduser()
    return folder / COT if (folder / COT).is_dir() else folder


def find_source(config: RunConfig, run: RunDir) -> CotSource:
    """Return the build that `cot.from` names, once it is known to be whole.

    Raises:
        UserError: when it is not there, is this run itself, did not finish, or its rows are not those its manifest names.
    """
    assert config.cot is not None
    assert config.cot.from_ is not None
    named = config.cot.from_
    folder = source_folder(named)
    if not folder.is_dir():
        beside = [str(path.parent) for path in Path(config.output_dir).glob("*/cot")]
        near = f"{did_you_mean(named, beside)} " if beside else ""
        raise UserError(
            f"cot.from: {named!r} is no folder; {near}Name a run, or a folder that holds train.parquet and manifest.json (of the "
            "Hub: hf download --repo-type dataset NAME --local-dir FOLDER)"
        )
    if run.cot.resolve() in (folder.resolve(), (folder / COT).resolve()):
        raise UserError(
            f"cot.from: {named!r} is this run itself; name another one, or leave it out to build the rows here"
        )
    file = folder / "manifest.json"
    if not file.is_file():
        raise UserError(
            f"cot.from: {named!r} holds no manifest.json, which says what its rows were made of; finish the run first "
            "(python -m pipeline run --to cot), or copy the whole cot/ of one"
        )
    manifest = read_json(file)
    if manifest.get("status") != "complete" or "data_digest" not in manifest or "rows" not in manifest:
        why = f" ({manifest['why']})" if manifest.get("why") else ""
        raise UserError(
            f"cot.from: the rows of {named!r} are not finished{why}; finish them first: python -m cot_builder build, with its "
            "--config and settings"
        )
    source = CotSource(named, folder, manifest)
    if not source.file.is_file():
        raise UserError(
            f"cot.from: {source.file} is gone; restore it, or build those rows again, which asks nothing twice"
        )
    try:
        found = file_digest(source.file)
    except OSError as error:
        raise UserError(f"cot.from: {source.file} cannot be read ({error.strerror or error})") from error
    if found != manifest["data_digest"]:
        raise UserError(
            f"cot.from: {source.file} is not the file that its manifest.json names: it was edited, or copied in part; restore "
            "it, or build those rows again, which asks nothing twice"
        )
    return source


def other_origin(cot: CotConfig, record: Mapping[str, Any]) -> str | None:
    """Return why rows that were built here, or taken over, are not what the configuration asks for; None where they are."""
    there = record.get(SOURCE)
    if cot.from_ is not None and not there:
        return f"the rows were built here, and cot.from names those of {cot.from_} now"
    if cot.from_ is None and there:
        return f"the rows are those of {there['folder']}, and cot.from does not name them any more"
    return None


def other_rows(cot: CotConfig, record: Mapping[str, Any]) -> list[str]:
    """Return how the source has other rows than were taken over; nothing of one that is gone or is being built again."""
    assert cot.from_ is not None
    there = read_json(source_folder(cot.from_) / "manifest.json")
    if there.get("status") != "complete" or there.get("data_digest") == record[SOURCE]["data_digest"]:
        return []
    then, now = record[SOURCE]["rows"], there.get("rows", {}).get("kept", 0)
    return [f"cot.from: {cot.from_} has other rows now ({then:,} were taken over, {now:,} are there)"]
