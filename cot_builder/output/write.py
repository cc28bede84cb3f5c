"""What a build leaves in `cot/`: train.parquet, rejected.jsonl, unusable.jsonl, README.md, gallery.html and, last,
manifest.json. `unasked.jsonl` names the rows of an incomplete build that have no reply.

`train.parquet` follows the order of the split and holds nothing that depends on time or place, so the same replies give the same
bytes. `image` is relative to the manifest's `image_root`; trainers find pictures through the task, by `id`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.build.ask import Replay
from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import BuildPlan, asked_rows
from cot_builder.build.run import BuildOutcome, settle, teachers_of
from cot_builder.filters.accept import GIVEN_UP_REASONS
from cot_builder.filters.answers import closed_answers
from cot_builder.filters.near_duplicates import NearDuplicates
from cot_builder.output.dataset_card import card
from cot_builder.output.gallery import GroupSample, gallery_page
from cot_builder.output.traces import trace_counts
from cot_builder.output.yields import Tally, yields
from cot_builder.row import Outcome, Tried
from cot_builder.teachers.base import Unanswered
from pipeline.config.loader import to_plain
from pipeline.data.cot_pictures import COLUMN, joined_digest
from pipeline.data.image_digests import LENGTH, image_digests
from pipeline.data.questions.image_marks import without_marks
from pipeline.data.usable_rows import usable_counts
from pipeline.errors import UserError
from pipeline.files import digest, file_digest, json_lines, write_atomic, write_json
from pipeline.metrics.classification import in_order
from pipeline.run_dir import COT, RunDir
from pipeline.runs.phases import phase_inputs
from pipeline.scoring.response import GRAMMAR_VERSION
from pipeline.types import Question

_BATCH = 2000
_EXAMPLES = 3
"""Rows in the card."""
_MOST_VALUES = 40
"""Values of a group that a table is made of; more of them, such as a source's ids, tell nobody anything."""
_SHOWN = 3
"""Rows per class and teacher, or per class and reason, in the gallery."""


class _Writer:
    """Settles every row from the journal, in order, and writes both files beside their final names."""

    def __init__(self, plan: BuildPlan, journal: ReplyCache, asked: BuildOutcome) -> None:
        self.plan, self.journal, self.asked = plan, journal, asked
        self.tally = Tally()
        self.kept, self.rejected = GroupSample(_SHOWN), GroupSample(_SHOWN)
        self._digests: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self.given_up: dict[str, list[str]] = {}
        """Reason: ids of the rows at which a server failed although it answered others."""
        self.unasked: list[dict[str, str]] = []
        """Rows without a reply: id, label and why."""
        self.dropped: set[str] = set()
        """Ids of rows that were kept and then balanced out."""
        self.prompts: Counter[str] = Counter()
        """Digest of a prompt that rows bring: how many of the kept ones do."""
        self.contents: dict[str, str] = {}
        """Question of a kept row that says what to observe: what."""
        self.states: dict[str, str] = {}
        """Id of a row that tables are split by groups of: what became of it."""
        folders = {image.absolute().parent for row in plan.split.rows for image in row.images}
        self.root = Path(os.path.commonpath(folders)) if folders else Path.cwd()
        self._classes = (
            {} if plan.task.labels is not None else {row.id: plan.task.class_of(row) for row in plan.split.rows}
        )
        self.parquet_path = plan.folder / ".train.parquet.partial"
        self.rejected_path = plan.folder / ".rejected.jsonl.partial"
        similarity = plan.cot.filters.near_duplicate
        self._seen = NearDuplicates(similarity) if similarity is not None else None

    def write(self) -> None:
        """Judge and write every row."""
        with self.rejected_path.open("w", encoding="utf-8") as rejected:
            with pq.ParquetWriter(self.parquet_path, self.plan.columns) as parquet:
                asyncio.run(self._write_rows(parquet, rejected))
            if self.plan.cot.balance is not None:
                self._balance(self.plan.cot.balance, rejected)

    async def _write_rows(self, parquet: pq.ParquetWriter, rejected: IO[str]) -> None:
        replay = Replay(teachers := teachers_of(self.plan), self.journal)
        batch: list[dict[str, Any]] = []
        for index, row in enumerate(self.plan.split.rows):
            counted = self.plan.task.class_of(row)
            try:
                outcome = await settle(self.plan, index, replay)
            except Unanswered:
                why = self.asked.unasked.get(index, "not asked yet")
                self._note(row, "unasked")
                self.tally.unasked[counted] += 1
                self.tally.why_unasked[why] += 1
                self.unasked.append({"id": row.id, "label": row.gold, "why": why})
                continue
            outcome = self._once(row, outcome)
            if outcome.reason in GIVEN_UP_REASONS:
                self.given_up.setdefault(str(outcome.reason), []).append(row.id)
            self._note(row, "kept" if outcome.kept is not None else "rejected")
            self.tally.settled(counted, outcome)
            for each in outcome.tried:
                if each.reason is not None:
                    self._reject(rejected, row.id, row.gold, each)
            if outcome.kept is not None:
                record = self._record(row, outcome.kept)
                self.kept.offer(f"{counted} {record['mode']} {record['teacher']}", {**record, **self._shown(row.id)})
                batch.append(record)
            if len(batch) >= _BATCH:
                parquet.write_table(pa.Table.from_pylist(batch, self.plan.columns))
                batch.clear()
        parquet.write_table(pa.Table.from_pylist(batch, self.plan.columns))
        for name, used in replay.used.items():
            self.tally.teachers[name].update(used)
        for teacher in teachers.values():
            await teacher.close()

    def _note(self, row: Question, state: str) -> None:
        if self._classes and row.groups:
            self.states[row.id] = state

    def _record(self, row: Question, kept: Mapping[str, Any]) -> dict[str, Any]:
        """A kept row as it is written: with its pictures, and with its prompt where each row asks its own question."""
        paths = [image.absolute().relative_to(self.root).as_posix() for image in row.images]
        record = {**kept, "image": paths[0] if paths else "", COLUMN: self._picture_digest(row)}
        names = self.plan.columns.names
        if "images" in names:
            record["images"] = paths
        if "observe" in names:
            self.contents[without_marks(row.text).strip()] = record["observe"]
        if "prompt" in names:
            record.setdefault("prompt", self.plan.task.prompt(row, "think"))
            self.prompts[digest(record["prompt"])] += 1
        return record

    def _shown(self, row_id: str) -> dict[str, str]:
        """What the pages show of a row that asks its own question."""
        if not self._classes:
            return {}
        self._texts = self._texts or {row.id: row.text for row in self.plan.split.rows}
        return {"class": self._classes[row_id], "question": self._texts[row_id]}

    def _picture_digest(self, row: Question) -> str:
        """The digest of a row's pictures as they were asked about; those of offline teachers, who see none, are read here."""
        known = self.plan.digests
        if all(image in known for image in row.images):
            return joined_digest([known[image][:LENGTH] for image in row.images])
        if not self._digests:
            cache = RunDir(self.plan.config.output_dir, self.plan.config.name).cache
            every = (image for each in self.plan.split.rows for image in each.images)
            self._digests = image_digests(every, cache / "image_digests.json")
        return joined_digest([self._digests[str(image)] for image in row.images])

    def _once(self, row: Question, outcome: Outcome) -> Outcome:
        """`outcome`, unless it repeats the text of an earlier row. Templates of the offline teacher do so by design."""
        if self._seen is None or outcome.kept is None or self.plan.is_offline(outcome.kept["teacher"]):
            return outcome
        if not self._seen.repeats(outcome.kept.get("think") or outcome.kept["completion"]):
            return outcome
        last = next(each for each in outcome.tried if each.reason is None)
        tried = [each for each in outcome.tried if each is not last]
        return Outcome(None, (*tried, Tried(**{**vars(last), "reason": "near_duplicate"})))

    def _reject(self, file: IO[str], row_id: str, label: str, each: Tried) -> None:
        record = {
            "id": row_id,
            "label": label,
            "teacher": each.teacher,
            "mode": each.mode,
            "attempt": each.attempt,
            "reason": each.reason,
            "detail": each.detail,
            "reply": each.text,
        }
        self.rejected.offer((each.reason, self._class(record)), {**record, **self._shown(row_id)})
        file.write(json_lines([record]))

    def _class(self, record: Mapping[str, Any]) -> str:
        return self._classes[record["id"]] if self._classes else record["label"]

    def _balance(self, most: float, rejected: IO[str]) -> None:
        """Drop the last rows of every class that has more than `most` times the rows of the rarest one."""
        counts = [count for count in self.tally.kept.values() if count]
        limit = int(most * min(counts)) if counts else 0
        whole, kept = self.parquet_path.with_suffix(".whole"), Counter[str]()
        os.replace(self.parquet_path, whole)
        with pq.ParquetFile(whole) as source, pq.ParquetWriter(self.parquet_path, self.plan.columns) as parquet:
            for batch in source.iter_batches(_BATCH):
                records = []
                for record in batch.to_pylist():
                    counted = self._class(record)
                    kept[counted] += 1
                    if kept[counted] <= limit:
                        records.append(record)
                        continue
                    self.tally.drop(counted, record, "balanced_out")
                    self.prompts -= Counter([digest(record.get("prompt"))])
                    if record["id"] in self.states:
                        self.states[record["id"]] = "rejected"
                    self.dropped.add(record["id"])
                    origin = (record["teacher"], record["mode"], record["attempt"], record["prompt_version"])
                    dropped = Tried(*origin, record["completion"], "balanced_out", f"class has {limit} rows already")
                    self._reject(rejected, record["id"], record["label"], dropped)
                parquet.write_table(pa.Table.from_pylist(records, self.plan.columns))
        whole.unlink()


def start(plan: BuildPlan) -> None:
    """Say that a build is under way, so that a killed one is never taken for the complete one before it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    why = "a build is under way or was stopped"
    write_json(plan.folder / "manifest.json", {"status": "incomplete", "why": why, **inputs(plan)})


def finish(plan: BuildPlan, journal: ReplyCache, asked: BuildOutcome, seconds: float) -> dict[str, Any]:
    """Judge and write everything.

    Returns:
        The manifest as written; its `status` is incomplete when rows are unasked.

    Raises:
        UserError: when too few rows were kept (`min_rows`, `min_rows_per_class`); the manifest then says incomplete, and why.
            When the disk is full; the journal is whole then, and the same command goes on.
    """
    try:
        return _finish(plan, journal, asked, seconds)
    except OSError as error:
        cure = "every reply is in the journal; make room and run the same command again"
        raise UserError(f"{plan.folder}: cannot write the rows ({error.strerror or error}); {cure}") from error


def _finish(plan: BuildPlan, journal: ReplyCache, asked: BuildOutcome, seconds: float) -> dict[str, Any]:
    writer = _Writer(plan, journal, asked)
    writer.write()
    report = writer.tally.report(plan.classes)
    rows = report["rows"] = {"selected": len(plan.split.rows), **report["rows"]}
    why = not_answered(writer.unasked) if rows["unasked"] else "; ".join(_too_few(plan, writer.tally))
    traces = _traces(plan, writer.parquet_path)
    manifest = {
        "status": "incomplete" if why else "complete",
        "why": why or None,
        **report,
        **_own_questions(plan, writer),
        **({"traces": traces} if traces else {}),
        "pictures": usable_counts(plan.split),
        "task_problems": dict(Counter(problem.reason for problem in plan.split.problems).most_common()),
        "requests_this_time": asked.requests,
        "replies_in_journal": len(journal),
        "given_up": {reason: {"rows": len(ids), "first": ids[0]} for reason, ids in writer.given_up.items()},
        "teachers_down": asked.down,
        **inputs(plan),
        "image_root": str(writer.root),
        "seconds": round(seconds, 2),
    }
    os.replace(writer.rejected_path, plan.folder / "rejected.jsonl")
    unusable = json_lines(map(vars, plan.split.problems))
    write_atomic(plan.folder / "unusable.jsonl", unusable.encode("utf-8", "replace"))
    write_unasked(plan, writer.unasked)
    final = plan.folder / "train.parquet"
    if why:
        writer.parquet_path.unlink()
        final.unlink(missing_ok=True)
    else:
        with writer.parquet_path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(writer.parquet_path, final)
        manifest["data_digest"] = file_digest(final)
    kept = [record for record in writer.kept.records() if record["id"] not in writer.dropped]
    rejected = writer.rejected.records()
    write_atomic(plan.folder / "README.md", card(plan, manifest, kept[:_EXAMPLES], rejected[:_EXAMPLES]))
    shown = {record["id"] for record in (*kept, *rejected)}
    pictures = {row.id: row.images[0] for row in plan.split.rows if row.id in shown and row.images}
    if "observe" in plan.columns.names:
        write_json(plan.folder / "contents.json", writer.contents)
    title = f"{plan.config.name}: chain-of-thought rows"
    write_atomic(
        plan.folder / "gallery.html", gallery_page(title, manifest, kept, rejected, pictures, plan.prompt_texts)
    )
    write_json(plan.folder / "manifest.json", manifest)
    if why and not rows["unasked"]:
        raise UserError(f"cot: {why}\n{yields(manifest)}")
    return manifest


def _traces(plan: BuildPlan, rows: Path) -> dict[str, Any]:
    """How many of the rows that are kept write the true steps; {} for a recipe or a task without them."""
    if "think" not in plan.columns.names or not any(row.trace for row in plan.split.rows):
        return {}
    kept = pq.read_table(rows, columns=["id", "think"]).to_pylist()
    return trace_counts(plan.split.rows, {row["id"]: row["think"] for row in kept})


def not_answered(unasked: Sequence[Mapping[str, str]]) -> str:
    """Return why a build is incomplete: how many rows have no reply, and the first of them."""
    first = f"first: {unasked[0]['id']}; unasked.jsonl has all, and why"
    return f"{len(unasked)} rows were not answered ({first}); run the same command again to go on"


def write_unasked(plan: BuildPlan, unasked: Sequence[Mapping[str, str]]) -> None:
    """Write ``unasked.jsonl``, a line per row without a reply; a complete build has none."""
    path = plan.folder / "unasked.jsonl"
    if unasked:
        write_atomic(path, json_lines(unasked))
    else:
        path.unlink(missing_ok=True)


def _too_few(plan: BuildPlan, tally: Tally) -> Iterator[str]:
    if tally.kept.total() < plan.cot.min_rows:
        yield f"{tally.kept.total()} rows were kept, fewer than cot.min_rows = {plan.cot.min_rows}"
    least = plan.cot.min_rows_per_class
    what = "class" if plan.task.labels is not None else "kind"
    for label in sorted({plan.task.class_of(row) for row in plan.split.rows}):
        if tally.kept[label] < least:
            yield f"{what} {label} has {tally.kept[label]} kept rows, fewer than cot.min_rows_per_class = {least}"


def _own_questions(plan: BuildPlan, writer: _Writer) -> dict[str, Any]:
    """What the manifest says where rows bring prompts, or have answers of their own."""
    told: dict[str, Any] = {}
    if "prompt" in plan.columns.names:
        told["distinct_prompts"] = len(writer.prompts)
    if plan.task.labels is not None:
        return told
    asked = [text for _, text in asked_rows(plan.task, plan.split)]
    open_rows = Counter(plan.task.class_of(row) for row in plan.split.rows if closed_answers(plan.task, row) is None)
    told |= {
        "classes": "kind",
        "distinct_questions": len({*asked}),
        "rows_without_closed_answers": dict(sorted(open_rows.items())),
    }
    groups: dict[str, dict[str, Counter[str]]] = {}
    for row in plan.split.rows:
        for name, value in row.groups.items():
            groups.setdefault(name, {}).setdefault(value, Counter())[writer.states[row.id]] += 1
    per_group = {
        name: {value: dict(counts) for value, counts in sorted(values.items(), key=lambda one: in_order(one[0]))}
        for name, values in sorted(groups.items())
        if len(values) <= _MOST_VALUES
    }
    return told | {"per_group": per_group}


def _contents(plan: BuildPlan) -> dict[str, Any]:
    """How the rows and a file of what to observe fit; {} without one."""
    if plan.contents is None:
        return {}
    counted = plan.contents.count(asked_rows(plan.task, plan.split))
    told = {"digest": plan.contents.digest, "rows": counted.rows, "entries": counted.entries, "unused": counted.unused}
    return {"contents": told}


def inputs(plan: BuildPlan) -> dict[str, Any]:
    """Return what the rows follow from, as the manifest records it. Holds names of key variables, never keys."""
    teachers = {name: to_plain(config) for name, config in plan.teachers.items()}
    prompts = plan.prompts if plan.prompt_texts else {}
    own = {"own": True}
    return {
        "recipe": plan.recipe.name,
        "question": plan.task.question,
        "inputs": phase_inputs(plan.config, COT),
        "teachers": {name: {"config": plain, "digest": digest(plain)} for name, plain in teachers.items()},
        "prompts": {
            name: {"digest": prompt.digest, "mode": prompt.mode, **(own if prompt.own else {})}
            for name, prompt in prompts.items()
        },
        **_contents(plan),
        "grammar_version": GRAMMAR_VERSION,
        "labels": list(plan.task.labels.names) if plan.task.labels is not None else [],
        "config": {
            "name": plan.config.name,
            "seed": plan.config.seed,
            "task": to_plain(plan.config.task),
            "cot": to_plain(plan.cot),
        },
    }
