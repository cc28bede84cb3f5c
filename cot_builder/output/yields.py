"""The counts of a build: per class, reason, mode and teacher."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cot_builder.row import Outcome
from pipeline.data.usable_rows import usable_line


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

    def drop(self, record: dict[str, Any], reason: str) -> None:
        """Take back a row that was counted as kept."""
        label = record["label"]
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
        lines.append(f"  kept by mode: {join_counts(modes)}")
    width = max((len(label) for label in manifest["per_class"]), default=0)
    for label, counts_of in manifest["per_class"].items():
        total = counts_of["kept"] + sum(counts_of["rejected"].values()) + counts_of["unasked"]
        share = f"{counts_of['kept'] / total:6.1%}" if total else "     -"
        line = f"  {label:<{width}}  {counts_of['kept']:>6} of {total:<6} {share}  {join_counts(counts_of['rejected'])}"
        lines.append(line.rstrip())
    if manifest.get("pictures", {}).get("unusable"):
        lines.append(usable_line(manifest["config"]["cot"]["split"].partition("[")[0], manifest["pictures"]))
    return "\n".join(lines)


def join_counts(counts: Mapping[str, int]) -> str:
    """Return ``wrong_label 3, no_think 1``."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())
