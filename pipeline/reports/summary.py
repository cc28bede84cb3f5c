"""What a report says, before anyone draws it: entries gathered into one summary, which summary.json holds, and its warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.shared_pictures import SharedPictures
from pipeline.files import read_json
from pipeline.formatting import p_value, size
from pipeline.metrics import alarms
from pipeline.metrics.scores import Rate, Scores
from pipeline.reports.entries import Entry
from pipeline.reports.findings import Finding, finding
from pipeline.reports.looking import ENOUGH, alarms_of, looks_at_nothing, where_they_look
from pipeline.reports.paired_entries import PairedTest, RecallTest, corrected, every_pair, versus, versus_per_class
from pipeline.run_dir import COT

UNPARSABLE_LIMIT = 0.05
UNUSABLE_LIMIT = 0.05
TRUNCATED_LIMIT = 0.05
DISAGREE_LIMIT = 0.2
SAME_ANSWER_LIMIT = 0.9
SAME_THOUGHT_LIMIT = 0.5


@dataclass(frozen=True)
class Clip:
    """The clip fractions of a stage that was to clip, and `void`: it never did."""

    low: float
    high: float
    epsilon: float | None
    epsilon_high: float | None
    void: bool


@dataclass(frozen=True, kw_only=True)
class EntrySummary:
    """What a report says of one entry."""

    name: str
    phase: str
    status: str
    algorithm: str | None
    init_from: str | None
    reward_funcs: tuple[str, ...]
    seconds: float | None
    clip: Clip | None
    hand_over: str | None
    versus_parent: PairedTest | None
    task: str
    official: Mapping[str, float]
    unusable: Mapping[str, int] | None = None
    doubts: tuple[str, ...] = ()
    versus_baselines: Mapping[str, PairedTest] = field(default_factory=dict)
    """By the baseline's phase."""
    scores: Scores | None


@dataclass(frozen=True)
class ClassYield:
    """CoT rows of one class."""

    kept: int
    rejected: int


@dataclass(frozen=True)
class TakenRows:
    """CoT rows of another run: who built them, how many, the sha256 of their file, and what was asked for them here."""

    built_by: str
    rows: int
    data_digest: str
    requests: int


@dataclass(frozen=True, kw_only=True)
class CotYields:
    """CoT rows of a run, in all, by reason and per class."""

    status: str | None
    kept: int
    rejected: int
    unasked: int
    unusable: Mapping[str, int] | None = None
    reasons: Mapping[str, int]
    per_class: Mapping[str, ClassYield]
    taken_over: TakenRows | None = None
    """Whose rows they are; None where they were built here."""


@dataclass(frozen=True)
class Remark:
    """What a reader must know before the numbers; `level` is warning or note."""

    entry: str
    level: str
    text: str


@dataclass(frozen=True)
class Summary:
    """Everything a report states; it holds no time and no absolute path.

    `tests` are all its tests of accuracy and macro recall, in the order they are shown, `recall` the same pairs class by class.
    """

    title: str
    labels: tuple[str, ...]
    entries: tuple[EntrySummary, ...]
    tests: tuple[PairedTest, ...]
    cot: CotYields | None
    warnings: tuple[Remark, ...]
    shared_pictures: tuple[SharedPictures, ...] = ()
    """What the run is judged on and trained on."""
    findings: tuple[Finding, ...] = ()
    """Which stage helped, a sentence each."""
    recall: tuple[RecallTest, ...] = ()

    @property
    def evaluated(self) -> list[tuple[EntrySummary, Scores]]:
        """The entries that have scores."""
        return [(row, row.scores) for row in self.entries if row.scores]

    @property
    def balanced(self) -> bool:
        """Whether macro recall is the accuracy of every entry, as where every class has as many rows: one of them says it all."""
        told = [
            (scores.accuracy.share, recall.value)
            for _, scores in self.evaluated
            if (recall := scores.macro_recall) and recall.value is not None
        ]
        return bool(told) and all(math.isclose(accuracy, recall, abs_tol=1e-9) for accuracy, recall in told)


def summarise(
    title: str,
    entries: Sequence[Entry],
    labels: Sequence[str],
    cot: CotYields | None,
    shared: Sequence[SharedPictures] = (),
) -> Summary:
    """Return everything a report states.

    Its tests are every stage against its parent and every baseline of its run; where nothing is a stage, every pair of entries
    of one task.
    """
    staged = any(entry.is_base or entry.record.get("init_from") for entry in entries)
    against = [(entry_parent(entry, entries), _baselines(entry, entries)) for entry in entries]
    pairs = [
        (entry, other) for entry, (parent, others) in zip(entries, against, strict=True) for other in (parent, *others)
    ]
    # Where a baseline is the parent it is one test, shown in two columns.
    shown = {(a.name, b.name): (a, b) for a, b in pairs if b and a.scores and b.scores}
    tested = {names: versus(a, b) for names, (a, b) in shown.items()}
    if not staged:
        shown = {(a.name, b.name): (a, b) for a, b in every_pair(entries)}
        tests = corrected([versus(a, b) for a, b in shown.values()])
    else:
        tests = corrected(list(tested.values()))
        tested |= {(test.entry, test.name): test for test in tests}
    recall = [one for a, b in shown.values() if (one := versus_per_class(a, b))]
    # One phase's own report knows no other, and says nothing of what it brought.
    told = len({entry.phase for entry in entries}) > 1
    found = [finding(entry, parent, tests) for entry, (parent, _) in zip(entries, against, strict=True) if told]
    rows = [
        EntrySummary(
            name=entry.name,
            phase=entry.phase,
            status=status_of(entry),
            algorithm=entry.record.get("algorithm"),
            init_from=entry.record.get("init_from"),
            reward_funcs=tuple(entry.record.get("reward_funcs") or ()),
            seconds=entry.record.get("seconds"),
            clip=clip_of(entry.record),
            hand_over=hand_over_of(entry.record),
            versus_parent=tested.get((entry.name, parent.name)) if parent else None,
            versus_baselines={
                other.phase: tested[entry.name, other.name] for other in others if (entry.name, other.name) in tested
            },
            task=entry.task,
            official=entry.official,
            unusable=entry.unusable or None,
            doubts=entry.doubts,
            scores=entry.scores,
        )
        for entry, (parent, others) in zip(entries, against, strict=True)
    ]
    remarks = [Remark("", "warning", f"{one}.") for one in shared]
    remarks += warnings(entries, rows)
    if text := where_they_look(entries):
        remarks.append(Remark("", "note", text))
    if cot and (taken := cot.taken_over):
        text = (
            f"The CoT rows are the {taken.rows:,} that {taken.built_by} built (sha256 {taken.data_digest[:12]}), taken over with "
            f"{taken.requests} requests."
        )
        remarks.append(Remark("", "note", text))
    return Summary(
        title=title,
        labels=tuple(labels),
        entries=tuple(rows),
        tests=tests,
        cot=cot,
        warnings=tuple(remarks),
        shared_pictures=tuple(shared),
        findings=tuple(filter(None, found)),
        recall=tuple(recall),
    )


NO_LONGER = "no longer holds"


def status_of(entry: Entry) -> str:
    """Return what a table says of an entry: evaluated, no longer holds, not run, or the status of its record."""
    if entry.doubts:
        return NO_LONGER
    return "evaluated" if entry.scores else str(entry.record.get("status") or "not run")


def entry_parent(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """Return the entry this one was trained from (`init_from`), in the same prompt style when the parent has it."""
    wanted = str(entry.record.get("init_from") or "")
    if not wanted or entry.is_base:
        return None
    wanted = f"stage{wanted}" if wanted.isdigit() else wanted
    near = [other for other in entries if other.run == entry.run]
    exact = [other for other in near if other.phase == wanted]
    found = exact or [other for other in near if other.phase.startswith(f"{wanted}_")]
    style = entry.scores and entry.scores.style
    same = [other for other in found if other.scores and other.scores.style == style]
    return next(iter(same or found), None)


def _baselines(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """The baselines that a stage of their run is tested against. One that was trained from it has that test as its own."""
    if entry.is_base or entry.is_baseline:
        return []
    near = [other for other in entries if other.is_baseline and other.run == entry.run]
    return [other for other in near if entry_parent(other, entries) is not entry]


def clip_of(record: Mapping[str, Any]) -> Clip | None:
    """Return what a record says of clipping; None for a stage that was not to."""
    clip = record.get("clip")
    if not isinstance(clip, dict):
        return None
    low, high = float(clip.get("low") or 0), float(clip.get("high") or 0)
    return Clip(low, high, clip.get("epsilon"), clip.get("epsilon_high"), void=low == 0 and high == 0)


def hand_over_of(record: dict[str, Any]) -> str | None:
    """Return how a stage's final/ was verified, how it did at its gate and what was deleted, in one line; None
    without any of it.
    """
    parts = []
    if checked := record.get("verification"):
        if checked.get("problems"):
            parts.append(f"NOT handed over: {'; '.join(checked['problems'])}")
        else:
            logits, answers = checked["logits"], checked["answers"]
            parts.append(
                f"final/ loaded anew gives the trainer's logits within {logits['difference']:.1e} (largest "
                f"{logits['largest']:.1f}, {logits['dtype']}), {answers['parsed']} of {answers['asked']} answers well formed"
            )
    if gate := record.get("gate"):
        rates = {"format": gate["format_rate"], "accuracy": gate["accuracy"]}
        judged = [
            f"{name} {100 * rate['value']:.1f} %, "
            + (f"at least {100 * rate['least']:.1f} %" if rate["least"] is not None else "its parent has no answers")
            for name, rate in rates.items()
            if rate
        ]
        parts.append(f"gate {'MISSED' if gate['missed'] else 'passed'} ({gate['action']}): {', '.join(judged)}")
    if record.get("freed_bytes"):
        parts.append(f"{size(record['freed_bytes'])} of checkpoints deleted")
    return "; ".join(parts) or None


def read_cot(run_root: Path) -> CotYields | None:
    """Return kept and rejected CoT rows of a run; None when it built none."""
    manifest = read_json(run_root / COT / "manifest.json")
    if "rows" not in manifest:
        return None
    per_class = {
        label: ClassYield(counts.get("kept", 0), sum(counts.get("rejected", {}).values()))
        for label, counts in manifest.get("per_class", {}).items()
    }
    return CotYields(
        status=manifest.get("status"),
        kept=manifest["rows"].get("kept", 0),
        rejected=manifest["rows"].get("rejected", 0),
        unasked=manifest["rows"].get("unasked", 0),
        unusable=manifest.get("task_problems") or None,
        reasons=manifest.get("rejected_rows_by_reason", {}),
        per_class=per_class,
        taken_over=_taken(manifest),
    )


def _taken(manifest: Mapping[str, Any]) -> TakenRows | None:
    there = manifest.get("source")
    if not there:
        return None
    return TakenRows(str(there["built_by"]), there["rows"], there["data_digest"], manifest.get("requests_this_time", 0))


def warnings(entries: Sequence[Entry], rows: Sequence[EntrySummary]) -> list[Remark]:
    """Return what a reader must know before the numbers, in reading order."""
    found: list[Remark] = []
    unseeing = looks_at_nothing(entries, {entry.name: entry_parent(entry, entries) for entry in entries})
    for entry, row in zip(entries, rows, strict=True):
        level = "note" if entry.is_base else "warning"
        if row.clip and row.clip.void:
            text = "VOID: this stage was to clip and never did (both clip fractions are 0)."
            found.append(Remark(entry.name, "warning", text))
        if entry.doubts:
            found.append(Remark(entry.name, "warning", f"{NO_LONGER}: {'; '.join(entry.doubts)}."))
        if entry.record.get("status") not in (None, "complete"):
            found.append(Remark(entry.name, "warning", f"its record says {entry.record['status']!r}, not complete."))
        gate = entry.record.get("gate") or {"missed": []}
        for miss in gate["missed"]:
            level_of_miss = "note" if gate["action"] == "continue" else "warning"
            found.append(Remark(entry.name, level_of_miss, f"missed its gate ({gate['action']}): {miss}."))
        if entry.name in unseeing:
            found.append(Remark(entry.name, level, unseeing[entry.name]))
        found += [
            Remark(entry.name, "warning", alarms.describe_alarm(name, one))
            for name, one in alarms_of(entry).items()
            if not (name == alarms.UNSEEN and entry.name in unseeing)
        ]
        if entry.scores:
            found += [Remark(entry.name, level, text) for text in _doubts(entry.scores, judged=not entry.is_base)]
        if entry.duplicates:
            text = f"{entry.duplicates} predictions were written twice; the later ones count."
            found.append(Remark(entry.name, "note", text))
        test = row.versus_parent
        if test and test.result.n and not entry.is_baseline:
            gain = test.result.gain
            if gain.p is not None and gain.p < 0.05 and gain.share < 0:
                text = f"accuracy fell {-100 * gain.share:.1f} points below {test.name} (p {p_value(gain.p)}, not corrected)."
                found.append(Remark(entry.name, "warning", text))
    found += unusable_rows(entries)
    for task in dict.fromkeys(entry.task for entry in entries):
        sizes = {entry.scores.n for entry in entries if entry.scores and entry.task == task}
        if len(sizes) > 1:
            what = f"the entries of {task}" if task else "the entries"
            text = f"{what} were evaluated on different numbers of rows ({', '.join(map(str, sorted(sizes)))})."
            found.append(Remark("", "warning", text))
    return sorted(found, key=lambda one: (one.level != "warning", not one.text.startswith("VOID")))


def unusable_rows(entries: Sequence[Entry]) -> list[Remark]:
    """Return rows that are in no figure: of the splits evaluated on, and of those trained on; entries that say the
    same share a line.
    """
    told: dict[str, tuple[list[str], float]] = {}
    for entry in entries:
        if entry.scores and entry.unusable:
            _tell(told, entry.name, "evaluated", entry.unusable, entry.scores.n + entry.scores.unjudged)
        problems = entry.record.get("problems")
        if isinstance(problems, dict) and any(problems.values()):
            rows = entry.record.get("rows")
            _tell(told, entry.name, "training", problems, rows if isinstance(rows, int) else 0)
    return [
        Remark(", ".join(names), "warning" if share > UNUSABLE_LIMIT else "note", text)
        for text, (names, share) in told.items()
    ]


def _tell(
    told: dict[str, tuple[list[str], float]], name: str, kind: str, counts: Mapping[str, int], usable: int
) -> None:
    lost = sum(counts.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    what = {"evaluated": "it was evaluated on", "training": "it was trained on"}[kind]
    text = f"{lost} of {usable + lost} rows of the split {what} could not be used and are in no figure ({reasons})."
    told.setdefault(text, ([], lost / (usable + lost)))[0].append(name)


def _doubts(scores: Scores, judged: bool) -> list[str]:
    """Reasons not to take an entry's accuracy at face value; `judged` adds what is no news about an untrained model."""
    texts = []
    share, kind = scores.unparsable.n / scores.n, "label" if scores.classes else "answer"
    if share > UNPARSABLE_LIMIT:
        reasons = ", ".join(f"{name} {count}" for name, count in scores.unparsable.reasons.items())
        if unknown := scores.unparsable.unknown:
            reasons += f"; {unknown.n} times {unknown.answer!r} for {unknown.gold}"
        texts.append(f"{100 * share:.1f} % of the greedy answers give no {kind} ({reasons}).")
    if (scores.truncated.value or 0) > TRUNCATED_LIMIT:
        texts.append(f"{100 * scores.truncated.share:.1f} % of the completions were cut at max_new_tokens.")
    if scores.unjudged:
        texts.append(f"{scores.unjudged} rows have no published gold answer and take no part in any figure.")
    if scores.guessed:
        texts.append(
            f"in {scores.guessed} rows a random option stood in for an unparsable answer, as its benchmark has it."
        )
    answer, thought = scores.most_answered.of, scores.most_thought
    majority = scores.classes.baselines.majority if scores.classes else None
    most = max(SAME_ANSWER_LIMIT, scores.blind_answer or 0)
    if answer.n >= ENOUGH and answer.share is not None and answer.share > most:
        texts.append(f"collapse: {100 * answer.share:.0f} % of the parsed answers are {scores.most_answered.value!r}.")
    if thought.n >= ENOUGH and thought.share is not None and thought.share > SAME_THOUGHT_LIMIT:
        texts.append(f"collapse: {100 * thought.share:.0f} % of the rows have word for word the same thinking.")
    said = scores.agreement
    if said and said.n and said.n >= ENOUGH and said.disagree / said.n > DISAGREE_LIMIT:
        share = said.disagree / said.n
        texts.append(f"in {100 * share:.0f} % of the parsed rows the thinking ends on another label than the answer.")
    if judged and majority:
        texts += _beside(scores.accuracy, majority.accuracy, f"always answering {majority.label!r}")
    elif judged and scores.commonest is not None and scores.commonest.accuracy > (scores.chance or 0):
        texts += _beside(scores.accuracy, scores.commonest.accuracy, "always giving the commonest answer of each kind")
    elif judged and scores.chance is not None:
        texts += _beside(scores.accuracy, scores.chance, "chance")
    return texts


def _beside(accuracy: Rate, blind: float, what: str) -> list[str]:
    """How an accuracy's interval lies beside what knowing nothing earns; nothing where all of it is above."""
    if accuracy.low is None or accuracy.high is None or accuracy.low > blind:
        return []
    if accuracy.high < blind:
        return [f"its whole accuracy interval lies below {what} ({100 * blind:.1f} %)."]
    below = accuracy.share < blind
    how = "is below" if below else "interval reaches down to"
    return [f"its accuracy {how} {what} ({100 * blind:.1f} %{', which its interval holds' if below else ''})."]
