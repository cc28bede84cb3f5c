"""The counts of a build: per class, reason, mode and teacher."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cot_builder.output.page import EXPLANATIONS
from cot_builder.output.traces import trace_line
from cot_builder.row import Outcome
from pipeline.data.usable_rows import usable_line
from pipeline.formatting import join_counts
from pipeline.reports.table import Column, Table, text_table


def _counters() -> defaultdict[str, Counter[str]]:
    return defaultdict(Counter)


@dataclass
class Tally:
    """Counts of rows (a rejected one by the reply that came furthest) and of rejected replies."""

    kept: Counter[str] = field(default_factory=Counter)
    """Label: kept rows."""
    modes: defaultdict[str, Counter[str]] = field(default_factory=_counters)
    """Label: mode: kept rows."""
    authors: defaultdict[str, Counter[str]] = field(default_factory=_counters)
    """Label: teacher: kept rows."""
    rejected: defaultdict[str, Counter[str]] = field(default_factory=_counters)
    """Label: reason: rows of which no reply was kept."""
    unasked: Counter[str] = field(default_factory=Counter)
    """Label: rows without a (further) reply."""
    why_unasked: Counter[str] = field(default_factory=Counter)
    teachers: defaultdict[str, Counter[str]] = field(default_factory=_counters)
    """Teacher: its replies about rows, those kept and rejected, and all its requests and tokens, cross-checks included."""
    replies: Counter[str] = field(default_factory=Counter)
    """Reason: rejected replies, those of rows kept later included."""

    def settled(self, label: str, outcome: Outcome) -> None:
        """Count a row that has been asked."""
        for each in outcome.tried:
            mine = self.teachers[each.teacher]
            mine["replies"] += 1
            if each.reason is not None:
                mine["rejected"] += 1
                self.replies[each.reason] += 1
        if outcome.kept is None:
            self.reject(label, str(outcome.reason))
        else:
            self.kept[label] += 1
            self.modes[label][outcome.kept["mode"]] += 1
            self.authors[label][outcome.kept["teacher"]] += 1
            self.teachers[outcome.kept["teacher"]]["kept"] += 1

    def reject(self, label: str, reason: str) -> None:
        """Count a row that was not kept."""
        self.rejected[label][reason] += 1

    def drop(self, label: str, record: dict[str, Any], reason: str) -> None:
        """Take back a row that was counted as kept under a label."""
        self.kept[label] -= 1
        self.modes[label][record["mode"]] -= 1
        self.authors[label][record["teacher"]] -= 1
        self.teachers[record["teacher"]]["kept"] -= 1
        self.teachers[record["teacher"]]["rejected"] += 1
        self.replies[reason] += 1
        self.reject(label, reason)

    def report(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the counts as the manifest holds them."""
        return {
            "rows": {
                "kept": self.kept.total(),
                "rejected": sum(reasons.total() for reasons in self.rejected.values()),
                "unasked": self.unasked.total(),
            },
            "rejected_rows_by_reason": _sorted(sum(self.rejected.values(), Counter())),
            "rejected_replies_by_reason": _sorted(self.replies),
            "unasked_rows_by_reason": _sorted(self.why_unasked),
            "kept_rows_by_mode": _sorted(sum(self.modes.values(), Counter())),
            "per_class": {
                label: {
                    "kept": self.kept[label],
                    "rejected": _sorted(self.rejected[label]),
                    "unasked": self.unasked[label],
                    "modes": _sorted(self.modes[label]),
                    "teachers": _sorted(self.authors[label]),
                }
                for label in labels
            },
            "per_teacher": {name: dict(counts) for name, counts in sorted(self.teachers.items())},
        }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """Counts above zero, most first and then by name, so that the same build gives the same file."""
    return dict(
        sorted(((name, count) for name, count in counts.items() if count > 0), key=lambda item: (-item[1], item[0]))
    )


def yields(manifest: dict[str, Any]) -> str:
    """Return the yields of a build as a small table, with the rejected rows' reasons."""
    rows = manifest["rows"]
    counts = f"{rows['kept']} kept, {rows['rejected']} rejected"
    reasons = join_counts(manifest["rejected_rows_by_reason"])
    lines = [f"{counts} ({reasons})" if reasons else counts]
    if rows["unasked"]:
        lines[0] += f", {rows['unasked']} unasked"
    modes = manifest["kept_rows_by_mode"]
    if len(modes) > 1:
        lines.append(f"kept by mode: {join_counts(modes)}")
    lines.append(text_table(class_table(manifest).less("modes", "teachers")))
    lines += [text_table(each) for each in group_tables(manifest)]
    if told := question_line(manifest):
        lines.append(told)
    if manifest.get("traces"):
        lines.append(trace_line(manifest["traces"]))
    if manifest.get("pictures", {}).get("unusable"):
        lines.append(usable_line(manifest["config"]["cot"]["split"].partition("[")[0], manifest["pictures"]))
    return "\n".join(lines)


_CLASSES = (
    Column("class", "class"),
    Column("bar", "of its rows", "bar"),
    Column("share", "kept, %", "percent"),
    Column("kept", "kept", "count"),
    Column("rejected", "rejected", "count"),
    Column("unasked", "unasked", "count"),
    Column("modes", "kept by mode"),
    Column("teachers", "kept by teacher"),
    Column("reasons", "rejected as"),
)
_MODES = (Column("mode", "mode"), Column("kept", "kept", "count"), Column("share", "of the kept rows, %", "percent"))
_TEACHERS = (
    Column("teacher", "teacher"),
    Column("model", "model"),
    Column("revision", "revision"),
    Column("replies", "replies", "count"),
    Column("rejected", "rejected", "count"),
    Column("kept", "rows kept", "count"),
    Column("prompt_tokens", "tokens in", "count"),
    Column("completion_tokens", "tokens out", "count"),
)
_REASONS = (
    Column("reason", "reason"),
    Column("rows", "rows", "count"),
    Column("replies", "replies", "count"),
    Column("what", "what it means"),
)


def class_table(manifest: Mapping[str, Any]) -> Table:
    """Return what became of the rows of every class."""
    rows = []
    for label, counts in manifest["per_class"].items():
        rejected = sum(counts["rejected"].values())
        total = counts["kept"] + rejected + counts["unasked"]
        joined = {key: join_counts(counts[key]) for key in ("modes", "teachers")}
        rows.append(
            {
                **{"class": label, "kept": counts["kept"], "rejected": rejected, "unasked": counts["unasked"]},
                "share": counts["kept"] / total if total else None,
                "bar": (counts["kept"] / total, rejected / total) if total else None,
                **{**joined, "reasons": join_counts(counts["rejected"]) or None},
            }
        )
    if manifest.get("classes") != "kind":
        return Table("classes", "Yields per class", _CLASSES, tuple(rows))
    return Table("classes", "Yields per kind of answer", (Column("class", "kind"), *_CLASSES[1:]), tuple(rows))


def group_tables(manifest: Mapping[str, Any]) -> list[Table]:
    """Return what became of the rows of every group, where each row asks its own question."""
    tables = []
    for name, values in manifest.get("per_group", {}).items():
        rows = []
        for value, counts in values.items():
            kept, rejected, unasked = (counts.get(state, 0) for state in ("kept", "rejected", "unasked"))
            total = kept + rejected + unasked
            rows.append(
                {
                    **{"class": value, "kept": kept, "rejected": rejected, "unasked": unasked},
                    **{"share": kept / total, "bar": (kept / total, rejected / total)},
                }
            )
        columns = (Column("class", name), *_CLASSES[1:6])
        tables.append(Table(f"group_{name}", f"Yields per {name}", columns, tuple(rows)))
    return tables


def question_line(manifest: Mapping[str, Any]) -> str:
    """Return in a sentence how many questions and prompts there are; "" where all rows share one."""
    questions, prompts = manifest.get("distinct_questions"), manifest.get("distinct_prompts")
    told = [f"{questions:,} different questions"] if questions is not None else []
    told += [f"{prompts:,} different prompts in the kept rows"] if prompts is not None else []
    return ", ".join(told)


def mode_table(manifest: Mapping[str, Any]) -> Table:
    """Return how the kept rows were asked for."""
    modes, kept = manifest["kept_rows_by_mode"], manifest["rows"]["kept"]
    rows = ({"mode": mode_words(name), "kept": count, "share": count / kept} for name, count in modes.items())
    return Table("modes", "Kept rows per mode", _MODES, tuple(rows))


def teacher_table(manifest: Mapping[str, Any]) -> Table:
    """Return what every teacher wrote and used."""
    rows = []
    for name, teacher in manifest["teachers"].items():
        counts, model = manifest["per_teacher"].get(name, {}), teacher["config"].get("model")
        revision = teacher["config"].get("revision") or "as served"
        who = {"model": model, "revision": revision} if model else {"model": "offline, from annotations"}
        rows.append({**{one.key: 0 for one in _TEACHERS[3:]}, **counts, "teacher": name, **who})
    return Table("teachers", "Yields per teacher", _TEACHERS, tuple(rows))


def reason_table(manifest: Mapping[str, Any]) -> Table:
    """Return every reason that came up, and the rows and replies it took out."""
    rows, replies = manifest["rejected_rows_by_reason"], manifest["rejected_replies_by_reason"]
    made = (
        {"reason": name, "rows": rows.get(name, 0), "replies": replies.get(name, 0), "what": EXPLANATIONS.get(name, "")}
        for name in replies | rows
    )
    return Table("reasons", "Reasons", _REASONS, tuple(made))


def mode_words(mode: str) -> str:
    """Return a mode as people read it; one that was told the answer is flagged."""
    return f"{'⚑ ' * (mode == 'answer_given')}{mode.replace('_', ' ')}"
