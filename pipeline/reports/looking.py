"""Which entries answer without looking at their pictures, how that is known, and since which phase; and where others look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.config.schema import AlarmConfig
from pipeline.metrics import alarms
from pipeline.reports.entries import Entry

ENOUGH = 20
"""Fewer rows than this say nothing about a collapse."""


def looks_at_nothing(entries: Sequence[Entry], parents: Mapping[str, Entry | None]) -> dict[str, str]:
    """Return a sentence of each entry that answers without looking: how that is known, and since which phase.

    It is known from its logits, which other pictures did not move after its training, or from its answers to the same question
    about different pictures, which are one text.

    Args:
        entries: of a report.
        parents: of each, by its name: the entry it was trained from.
    """
    known = {entry.name: signs for entry in entries if (signs := [*_by_logits(entry), *_by_texts(entry)])}
    found = {entry.name: entry for entry in entries if entry.name in known}
    return {
        name: f"it answers without looking at its pictures{_since(entry, found, parents)}: {'; '.join(known[name])}."
        for name, entry in found.items()
    }


def where_they_look(entries: Sequence[Entry]) -> str | None:
    """Return what the occlusion maps of a report are, how many there are and what they do not show; None where there is none."""
    mapped = [entry for entry in entries if entry.occlusion]
    if not mapped:
        return None
    counts = ", ".join(f"{entry.name} {len(entry.occlusion.rows)}" for entry in mapped if entry.occlusion)
    # Counted per phase, of which a prompt style is a part.
    left_out = {
        entry.phase: entry.occlusion.left_out for entry in mapped if entry.occlusion and entry.occlusion.left_out
    }
    without = [f"{phase} {reason} {count}" for phase, reasons in left_out.items() for reason, count in reasons.items()]
    without += [f"all of {entry.name}" for entry in entries if entry.greedy and not entry.occlusion]
    told = f" Rows without a map: {', '.join(without)}." if without else ""
    return (
        f"Occlusion maps of {counts} rows: how far a grey patch on each part of a picture lowers the log-probability of the "
        "stored answer. They show what that probability hangs on, not why, and covered pictures are of a kind that nobody was "
        f"trained on.{told}"
    )


def alarms_of(entry: Entry) -> dict[str, dict[str, Any]]:
    """Return the alarms of a stage, as its record counts them; from the log and the default thresholds when it does not."""
    found: dict[str, dict[str, Any]] | None = entry.record.get("alarms")
    if found is None:
        trainer = ((entry.record.get("inputs") or {}).get("stage") or {}).get("trainer") or {}
        clips = bool({"epsilon", "epsilon_high"} & set(trainer))
        found = alarms.summary(entry.log, AlarmConfig(), str(entry.record.get("algorithm")), clips)
    return found


def _by_logits(entry: Entry) -> Iterable[str]:
    """The alarm of its training, where it was on at the last step."""
    alarm = alarms_of(entry).get(alarms.UNSEEN)
    if alarm and entry.log and alarm["last"] == entry.log[-1]["step"]:
        far = f"by {alarm['worst']:.1g} of the largest, below {alarm['threshold']:g}"
        yield f"other pictures move its logits {far if alarm['worst'] else 'no more than rounding does'}"


def _by_texts(entry: Entry) -> Iterable[str]:
    """One text for all pictures, or for each question one; silent where all right answers to a question are the same."""
    asked: tuple[Callable[[Mapping[str, Any]], str], ...] = (lambda row: "", lambda row: str(row.get("prompt") or ""))
    for question in asked:
        rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in entry.greedy:
            if row.get("image") and row.get("gold") is not None and row.get("mode") != "blind":
                rows[question(row)].append(row)
        told = [of for of in rows.values() if _different(of, "image") > 1 and _different(of, "gold") > 1]
        pictures = sum(_different(of, "image") for of in told)
        if pictures >= ENOUGH and all(_different(of, "completion") == 1 for of in told):
            each = f" to each of {len(told)} questions" if len(told) > 1 else ""
            yield f"{pictures} pictures with different right answers got one and the same text{each}"
            return


def _different(rows: Iterable[Mapping[str, Any]], column: str) -> int:
    return len({str(row.get(column)) for row in rows})


def _since(entry: Entry, known: Mapping[str, Entry], parents: Mapping[str, Entry | None]) -> str:
    """The first phase of its line from which on none looks; nothing of what no stage has trained."""
    if not entry.record.get("init_from"):
        return ""
    while (parent := parents.get(entry.name)) is not None and parent.name in known:
        entry = parent
    alarm = alarms_of(entry).get(alarms.UNSEEN)
    # Only a stage that starts from the base model is asked before its first step.
    early = parent is not None and parent.is_base and alarm and alarm["first"] == entry.log[0]["step"] < alarm["last"]
    return f", since {parent.name if parent and early else entry.name}"
