"""What a build leaves in `cot/`: train.parquet, rejected.jsonl, README.md (a dataset card) and, last, manifest.json.

`train.parquet` follows the order of the split and holds nothing that depends on time or place, so the same replies give
the same bytes. `image` is relative to the manifest's `image_root`; trainers find pictures through the task, by `id`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.build import Asked, Plan, Settled
from cot_builder.card import card
from cot_builder.journal import Journal
from cot_builder.verify import Rejected, accept
from pipeline.config import to_plain
from pipeline.errors import UserError
from pipeline.phases import phase_inputs
from pipeline.response import GRAMMAR_VERSION
from pipeline.run import COT, digest, file_digest, write_atomic, write_json
from pipeline.tasks import Example

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("label", pa.string()),
        ("think", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("teacher", pa.string()),
        ("mode", pa.string()),
        ("attempt", pa.int32()),
        ("prompt_version", pa.string()),
    ]
)
_BATCH = 2000
_EXAMPLES = 3


@dataclass
class Tally:
    """Counts of rows (by their last reply) and of rejected replies."""

    kept: Counter[str] = field(default_factory=Counter)
    """Label: kept rows."""
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    """Label: reason: rows of which no reply was kept."""
    unasked: Counter[str] = field(default_factory=Counter)
    """Label: rows without a (further) reply."""
    replies: Counter[str] = field(default_factory=Counter)
    """Reason: rejected replies, those of rows kept later included."""
    teachers: dict[str, Counter[str]] = field(default_factory=dict)
    """Teacher: its rows that were kept, rejected and unasked."""
    why_unasked: Counter[str] = field(default_factory=Counter)
    kept_examples: list[dict[str, Any]] = field(default_factory=list)
    rejected_examples: list[dict[str, Any]] = field(default_factory=list)


class _Writer:
    """Judges replies in the order of the split and writes both files beside their final names."""

    def __init__(self, plan: Plan, journal: Journal, asked: Asked) -> None:
        self.plan, self.journal, self.asked = plan, journal, asked
        self.tally = Tally()
        self.names = list(plan.teachers)
        self.root = Path(os.path.commonpath([row.image.absolute().parent for row in plan.split.examples]))
        self.parquet = plan.folder / ".train.parquet.partial"
        self.rejected = plan.folder / ".rejected.jsonl.partial"

    def write(self) -> Tally:
        """Judge and write every row.

        Returns:
            The counts.
        """
        with self.rejected.open("w", encoding="utf-8") as rejected, pq.ParquetWriter(self.parquet, COLUMNS) as parquet:
            batch: list[dict[str, Any]] = []
            for row, settled in zip(self.plan.split.examples, self.asked.rows, strict=True):
                for record in self._judge(row, settled or Settled(unasked="teacher_down")):
                    if "reason" in record:
                        rejected.write(json.dumps(record, ensure_ascii=False) + "\n")
                    else:
                        batch.append(record)
                if len(batch) >= _BATCH:
                    parquet.write_table(pa.Table.from_pylist(batch, COLUMNS))
                    batch.clear()
            parquet.write_table(pa.Table.from_pylist(batch, COLUMNS))
        return self.tally

    def _judge(self, row: Example, settled: Settled) -> Iterator[dict[str, Any]]:
        """The records of one row: rejected replies (with a reason), then the kept one."""
        tally, teacher = self.tally, self.names[self.plan.teacher_of(row)]
        mode, prompt_version = self.plan.origin(teacher)
        rows_of_teacher = tally.teachers.setdefault(teacher, Counter())
        last_reason = None
        for attempt, number in enumerate(settled.replies):
            reply = self.journal.read(number)
            verdict = accept(row, reply, self.plan.task)
            if isinstance(verdict, Rejected):
                last_reason = verdict.reason
                text = reply.text if reply.refused is None else reply.refused
                yield self._reject(row, teacher, attempt, verdict.reason, text)
                continue
            record = {
                "id": row.id,
                "image": row.image.absolute().relative_to(self.root).as_posix(),
                "label": row.label,
                "think": verdict.think,
                "answer": verdict.answer,
                "completion": verdict.completion,
                "teacher": teacher,
                "mode": mode,
                "attempt": attempt,
                "prompt_version": prompt_version,
            }
            tally.kept[row.label] += 1
            rows_of_teacher["kept"] += 1
            if len(tally.kept_examples) < _EXAMPLES:
                tally.kept_examples.append(record)
            yield record
            return
        if settled.unreadable is not None:
            last_reason = "unreadable_image"
            yield self._reject(row, teacher, len(settled.replies), last_reason, settled.unreadable)
        if settled.unasked is not None or last_reason is None:
            tally.unasked[row.label] += 1
            tally.why_unasked[settled.unasked or "no reply"] += 1
            rows_of_teacher["unasked"] += 1
            return
        tally.rejected.setdefault(row.label, Counter())[last_reason] += 1
        rows_of_teacher["rejected"] += 1

    def _reject(self, row: Example, teacher: str, attempt: int, reason: str, text: str) -> dict[str, Any]:
        origin = {"id": row.id, "label": row.label, "teacher": teacher, "attempt": attempt}
        record = {**origin, "reason": reason, "reply": text}
        self.tally.replies[reason] += 1
        if len(self.tally.rejected_examples) < _EXAMPLES:
            self.tally.rejected_examples.append(record)
        return record


def start(plan: Plan) -> None:
    """Say that a build is under way, so that a killed one is never taken for the complete one before it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    why = "a build is under way or was stopped"
    write_json(plan.folder / "manifest.json", {"status": "incomplete", "why": why, **_inputs(plan)})


def finish(plan: Plan, journal: Journal, asked: Asked, seconds: float) -> dict[str, Any]:
    """Judge and write everything.

    Returns:
        The manifest as written; its `status` is incomplete when rows are unasked.

    Raises:
        UserError: when fewer rows than `cot.min_rows` were kept; the manifest then says incomplete, and why.
    """
    writer = _Writer(plan, journal, asked)
    tally = writer.write()
    kept, unasked, least = tally.kept.total(), tally.unasked.total(), plan.cot.min_rows
    why = None
    if unasked:
        why = f"{unasked} rows were not answered; run the same command again to go on"
    elif kept < least:
        why = f"{kept} rows were kept, fewer than cot.min_rows = {least}"
    manifest = {
        "status": "incomplete" if why else "complete",
        "why": why,
        "rows": {
            "selected": len(plan.split.examples),
            "kept": kept,
            "rejected": sum(reasons.total() for reasons in tally.rejected.values()),
            "unasked": unasked,
        },
        "rejected_rows_by_reason": dict(sum(tally.rejected.values(), Counter()).most_common()),
        "rejected_replies_by_reason": dict(tally.replies.most_common()),
        "unasked_rows_by_reason": dict(tally.why_unasked.most_common()),
        "per_class": {
            label: {
                "kept": tally.kept[label],
                "rejected": dict(tally.rejected.get(label, Counter()).most_common()),
                "unasked": tally.unasked[label],
            }
            for label in plan.task.labels.names
        },
        "per_teacher": {name: dict(counts) for name, counts in sorted(tally.teachers.items())},
        "task_problems": dict(Counter(problem.reason for problem in plan.split.problems).most_common()),
        "requests_this_time": asked.requests,
        "replies_in_journal": len(journal),
        "teachers_down": asked.down,
        **_inputs(plan),
        "image_root": str(writer.root),
        "seconds": round(seconds, 2),
    }
    os.replace(writer.rejected, plan.folder / "rejected.jsonl")
    final = plan.folder / "train.parquet"
    if why:
        writer.parquet.unlink()
        final.unlink(missing_ok=True)
    else:
        with writer.parquet.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(writer.parquet, final)
        manifest["data_digest"] = file_digest(final)
    write_atomic(plan.folder / "README.md", card(plan, manifest, tally.kept_examples, tally.rejected_examples))
    write_json(plan.folder / "manifest.json", manifest)
    if why and not unasked:
        raise UserError(f"cot: {why}\n{yields(manifest)}")
    return manifest


def yields(manifest: dict[str, Any]) -> str:
    """The yields of a build as a small table, with the rejected rows' reasons."""
    rows = manifest["rows"]
    counts = f"{rows['kept']} kept, {rows['rejected']} rejected"
    reasons = ", ".join(f"{reason} {count}" for reason, count in manifest["rejected_rows_by_reason"].items())
    lines = [f"{counts} ({reasons})" if reasons else counts]
    if rows["unasked"]:
        lines[0] += f", {rows['unasked']} unasked"
    width = max((len(label) for label in manifest["per_class"]), default=0)
    for label, counts_of in manifest["per_class"].items():
        total = counts_of["kept"] + sum(counts_of["rejected"].values()) + counts_of["unasked"]
        share = f"{counts_of['kept'] / total:6.1%}" if total else "     -"
        why = ", ".join(f"{reason} {count}" for reason, count in counts_of["rejected"].items())
        lines.append(f"  {label:<{width}}  {counts_of['kept']:>6} of {total:<6} {share}  {why}".rstrip())
    return "\n".join(lines)


def _inputs(plan: Plan) -> dict[str, Any]:
    """What the rows follow from, as the manifest records it. Holds names of key variables, never keys."""
    teachers = {name: to_plain(config) for name, config in plan.teachers.items()}
    return {
        "inputs": phase_inputs(plan.config, COT),
        "teachers": {name: {"config": plain, "digest": digest(plain)} for name, plain in teachers.items()},
        "prompt": {"name": plan.prompt.name, "digest": plan.prompt.digest, "mode": plan.prompt.mode},
        "grammar_version": GRAMMAR_VERSION,
        "labels": list(plan.task.labels.names),
        "config": {
            "name": plan.config.name,
            "seed": plan.config.seed,
            "task": to_plain(plan.config.task),
            "cot": to_plain(plan.cot),
        },
    }
