"""CoT rows of another run (`cot.from`): where they lie, whether they fit this run, and whether they are still those it took over.

Their manifest says what they were made of: task, labels, question, split and recipe have to agree, which settles everything but
the pictures. These are compared by their digests, so paths, options and other splits of the data may differ.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.loader import to_plain
from pipeline.config.schema import CotConfig, RunConfig
from pipeline.config.special_tokens import special_token_in, special_tokens_of
from pipeline.data.cot_pictures import COLUMN, compare_pictures
from pipeline.data.load import load_task
from pipeline.data.student import student_folder
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.files import differences, file_digest, read_json
from pipeline.run_dir import COT, RunDir

SOURCE = "source"
"""Key of a manifest that says whose rows they are; where they were built it is not there."""
MADE_OF = ("recipe", "split")
"""Keys of the cot block that have to agree."""
_USED = ("from", *MADE_OF, "min_rows", "min_rows_per_class")
_NAMED = 3
"""Most labels that one line names."""


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

    columns = [name for name in ("id", "label", "completion", "prompt") if name in pq.read_schema(source.file).names]
    rows = pq.ParquetFile(source.file).read(columns=columns).to_pydict()
    for problem in _unfit_rows(config, run, task, rows, source):
        yield f"cot.from: {problem}"
    if look:
        for problem in _other_pictures(config, run, rows, source):
            yield f"cot.from: {problem}"


def _other_keys(config: RunConfig, run: RunDir, task: Task, source: CotSource) -> Iterator[str]:
    """What the rows were made of and this run is not."""
    assert config.cot is not None
    there, own = source.config.get("task") or {}, config.task.name
    if there.get("name") != own:
        yield f"task.name: {own!r} here, {there.get('name')!r} in {source.named}"
        return
    theirs, ours = source.manifest.get("labels") or [], list(task.labels.names)
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
    texts = zip(*(rows[name] for name in rows if name not in ("id", "label")), strict=True)
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
    if "prompt" not in rows:
        # These reason; a row with a prompt of its own describes, and has no answer.
        every = zip(rows["id"], rows["completion"], rows["label"], strict=True)
        if wrong := [row_id for row_id, text, label in every if not task.judge(text, label).correct]:
            yield (
                f"{len(wrong):,} of {len(rows['id']):,} rows do not answer with their label, as the task judges today (first: "
                f"{wrong[0]}); build those rows again, which asks nothing twice"
            )
    if len(rows["id"]) < config.cot.min_rows:
        yield f"{source.named} has {len(rows['id']):,} rows, fewer than cot.min_rows = {config.cot.min_rows:,}; lower it"


def _other_pictures(
    config: RunConfig, run: RunDir, rows: Mapping[str, Sequence[str]], source: CotSource
) -> Iterator[str]:
    """Rows of which this run has no picture, or another one, or one with another label."""
    assert config.cot is not None
    examples = load_task(config.task, run.cache).select(config.cot.split).examples
    found = compare_pictures(source.folder, examples, run.cache)
    assert found is not None
    if not found.known:
        yield (
            f"the rows of {source.named} do not name their pictures ({COLUMN}), so nothing shows that they are of these; build "
            "them there again, which asks nothing twice"
        )
    labels = {example.id: example.label for example in examples}
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
    kept, least = Counter(rows["label"]), config.cot.min_rows_per_class
    if short := [f"{name} {kept[name]:,}" for name in sorted(set(labels.values())) if kept[name] < least]:
        yield f"{source.named} has fewer rows of some classes than cot.min_rows_per_class = {least:,} ({_some(short)}); lower it"


def unused_keys(cot: CotConfig) -> list[str]:
    """Return the keys that are set of those that say how teachers are asked, which nobody is, such as ``cot.attempts``."""
    set_here, plain = to_plain(CotConfig()), to_plain(cot)
    return [f"cot.{key}" for key in plain if key not in _USED and plain[key] != set_here[key]]


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


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")
