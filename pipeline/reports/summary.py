"""What a report says, before anyone draws it: entries gathered into one JSON-ready summary, and its warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import AlarmConfig
from pipeline.files import read_json
from pipeline.formatting import p_value, size
from pipeline.metrics import alarms, paired_tests
from pipeline.metrics.paired_tests import holm
from pipeline.reports.entries import Entry, read_phase, read_run
from pipeline.run_dir import COT

__all__ = ["Entry", "p_value", "read_cot", "read_json", "read_phase", "read_run", "size", "summarise", "warnings"]

UNPARSABLE_LIMIT = 0.05
UNUSABLE_LIMIT = 0.05
TRUNCATED_LIMIT = 0.05
DISAGREE_LIMIT = 0.2
SAME_ANSWER_LIMIT = 0.9
SAME_THOUGHT_LIMIT = 0.5
MOST_PAIRED = 6
"""Entries of one task up to which every pair is tested; more are tested against the first."""
# Fewer rows than this say nothing about a collapse.
_ENOUGH = 20


def summarise(
    title: str, entries: Sequence[Entry], labels: Sequence[str], cot: dict[str, Any] | None
) -> dict[str, Any]:
    """Return everything a report states, as one dict that holds no time and no absolute path.

    ``tests`` are all its tests of accuracy, in the order they are shown, each with ``p_holm`` corrected over all of them: every
    stage against its parent and the baseline; where nothing is a stage, every pair of entries of one task.
    """
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    staged = any(entry.is_base or entry.record.get("init_from") for entry in entries)
    for entry in entries:
        parent, baseline = entry_parent(entry, entries), next((other for other in entries if other.is_baseline), None)
        against = {"versus_parent": parent, "versus_baseline": None if baseline is entry or entry.is_base else baseline}
        versus = {key: _versus(entry, other) for key, other in against.items()}
        if baseline is parent:
            # One test, shown in two columns.
            versus["versus_baseline"] = versus["versus_parent"]
        tests += [test for test in versus.values() if test and test["n"] and not any(test is one for one in tests)]
        rows.append(
            {
                "name": entry.name,
                "phase": entry.phase,
                "status": status_of(entry),
                "algorithm": entry.record.get("algorithm"),
                "init_from": entry.record.get("init_from"),
                "reward_funcs": entry.record.get("reward_funcs") or [],
                "seconds": entry.record.get("seconds"),
                "clip": clip_of(entry.record),
                "hand_over": hand_over_of(entry.record),
                **versus,
                "task": entry.task,
                "official": entry.official,
                **({"unusable": entry.unusable} if entry.unusable else {}),
                **({"doubts": list(entry.doubts)} if entry.doubts else {}),
                "scores": entry.scores,
            }
        )
    if not staged:
        tests = [found for a, b in _pairs(entries) if (found := _versus(a, b)) and found["n"]]
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    summary = {"title": title, "labels": list(labels), "entries": rows, "tests": tests, "cot": cot}
    return {**summary, "warnings": warnings(entries, rows)}


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
    exact = [other for other in entries if other.phase == wanted]
    found = exact or [other for other in entries if other.phase.startswith(f"{wanted}_")]
    same = [
        other for other in found if other.scores and entry.scores and other.scores["style"] == entry.scores["style"]
    ]
    return next(iter(same or found), None)


def clip_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the clip fractions of a stage that was to clip, and `void`: it never did. None for a stage that was not to."""
    clip = record.get("clip")
    if not isinstance(clip, dict):
        return None
    low, high = float(clip.get("low") or 0), float(clip.get("high") or 0)
    epsilons = {key: clip.get(key) for key in ("epsilon", "epsilon_high")}
    return {"low": low, "high": high, **epsilons, "void": low == 0 and high == 0}


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


def read_cot(run_root: Path) -> dict[str, Any] | None:
    """Return kept and rejected CoT rows of a run, in all, by reason and per class; None when it built none."""
    manifest = read_json(run_root / COT / "manifest.json")
    if "rows" not in manifest:
        return None
    per_class = {
        label: {"kept": counts.get("kept", 0), "rejected": sum(counts.get("rejected", {}).values())}
        for label, counts in manifest.get("per_class", {}).items()
    }
    return {
        "status": manifest.get("status"),
        "kept": manifest["rows"].get("kept", 0),
        "rejected": manifest["rows"].get("rejected", 0),
        "unasked": manifest["rows"].get("unasked", 0),
        **({"unusable": manifest["task_problems"]} if manifest.get("task_problems") else {}),
        "reasons": manifest.get("rejected_rows_by_reason", {}),
        "per_class": per_class,
    }


def warnings(entries: Sequence[Entry], rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return what a reader must know before the numbers: ``{"entry", "level": "warning"|"note", "text"}``, in reading order."""
    found: list[dict[str, str]] = []
    for entry, row in zip(entries, rows, strict=True):
        level = "note" if entry.is_base else "warning"
        clip = row["clip"]
        if clip and clip["void"]:
            found.append(
                _warning(entry, "warning", "VOID: this stage was to clip and never did (both clip fractions are 0).")
            )
        if entry.doubts:
            found.append(_warning(entry, "warning", f"{NO_LONGER}: {'; '.join(entry.doubts)}."))
        if entry.record.get("status") not in (None, "complete"):
            found.append(_warning(entry, "warning", f"its record says {entry.record['status']!r}, not complete."))
        gate = entry.record.get("gate") or {"missed": []}
        for miss in gate["missed"]:
            level_of_miss = "note" if gate["action"] == "continue" else "warning"
            found.append(_warning(entry, level_of_miss, f"missed its gate ({gate['action']}): {miss}."))
        found += [_warning(entry, "warning", text) for text in _of_training(entry)]
        if entry.scores:
            found += [_warning(entry, level, text) for text in _doubts(entry.scores, judged=not entry.is_base)]
        if entry.duplicates:
            found.append(
                _warning(entry, "note", f"{entry.duplicates} predictions were written twice; the later ones count.")
            )
        versus = row["versus_parent"]
        if (
            versus
            and versus["p"] is not None
            and versus["p"] < 0.05
            and versus["difference"] < 0
            and not entry.is_baseline
        ):
            points = -100 * versus["difference"]
            text = f"accuracy fell {points:.1f} points below {versus['name']} (p {p_value(versus['p'])})."
            found.append(_warning(entry, "warning", text))
    found += unusable_rows(entries)
    for task in dict.fromkeys(entry.task for entry in entries):
        sizes = {entry.scores["n"] for entry in entries if entry.scores and entry.task == task}
        if len(sizes) > 1:
            what = f"the entries of {task}" if task else "the entries"
            text = f"{what} were evaluated on different numbers of rows ({', '.join(map(str, sorted(sizes)))})."
            found.append({"entry": "", "level": "warning", "text": text})
    return sorted(found, key=lambda item: (item["level"] != "warning", not item["text"].startswith("VOID")))


def unusable_rows(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Return rows that are in no figure: of the splits evaluated on, and of those trained on; entries that say the
    same share a line.
    """
    told: dict[str, tuple[list[str], float]] = {}
    for entry in entries:
        if entry.scores and entry.unusable:
            n = entry.scores["n"] + entry.scores["unjudged"]
            _tell(told, entry.name, "evaluated", entry.unusable, n)
        problems = entry.record.get("problems")
        if isinstance(problems, dict) and any(problems.values()):
            rows = entry.record.get("rows")
            _tell(told, entry.name, "training", problems, rows if isinstance(rows, int) else 0)
    return [
        {"entry": ", ".join(names), "level": "warning" if share > UNUSABLE_LIMIT else "note", "text": text}
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


def _of_training(entry: Entry) -> list[str]:
    """The alarms of a stage, as its record counts them; from the log and the default thresholds when it does not."""
    found = entry.record.get("alarms")
    if found is None:
        trainer = ((entry.record.get("inputs") or {}).get("stage") or {}).get("trainer") or {}
        clips = bool({"epsilon", "epsilon_high"} & set(trainer))
        found = alarms.summary(entry.log, AlarmConfig(), str(entry.record.get("algorithm")), clips)
    return [alarms.describe_alarm(name, one) for name, one in found.items()]


def _doubts(scores: dict[str, Any], judged: bool) -> list[str]:
    """Reasons not to take an entry's accuracy at face value; `judged` adds what is no news about an untrained model."""
    texts = []
    share = scores["unparsable"]["n"] / scores["n"]
    if share > UNPARSABLE_LIMIT:
        reasons = ", ".join(f"{name} {count}" for name, count in scores["unparsable"]["reasons"].items())
        texts.append(f"{100 * share:.1f} % of the greedy answers give no label ({reasons}).")
    if (scores["truncated"]["value"] or 0) > TRUNCATED_LIMIT:
        texts.append(f"{100 * scores['truncated']['value']:.1f} % of the completions were cut at max_new_tokens.")
    if scores["unjudged"]:
        texts.append(f"{scores['unjudged']} rows have no published gold answer and take no part in any figure.")
    if scores["guessed"]:
        texts.append(
            f"in {scores['guessed']} rows a random option stood in for an unparsable answer, as its benchmark has it."
        )
    answer, thought = scores["most_answered"], scores["most_thought"]
    majority = (scores.get("baselines") or {}).get("majority")
    if answer["n"] >= _ENOUGH and answer["share"] > max(SAME_ANSWER_LIMIT, majority["accuracy"] if majority else 0):
        texts.append(f"collapse: {100 * answer['share']:.0f} % of the parsed answers are {answer['value']!r}.")
    if thought["n"] >= _ENOUGH and thought["share"] > SAME_THOUGHT_LIMIT:
        texts.append(f"collapse: {100 * thought['share']:.0f} % of the rows have word for word the same thinking.")
    said = scores.get("agreement")
    if said and said["n"] >= _ENOUGH and said["disagree"] / said["n"] > DISAGREE_LIMIT:
        share = said["disagree"] / said["n"]
        texts.append(f"in {100 * share:.0f} % of the parsed rows the thinking ends on another label than the answer.")
    if judged and majority:
        texts += _beside(scores["accuracy"], majority["accuracy"], f"always answering {majority['label']!r}")
    elif judged and scores["chance"] is not None:
        texts += _beside(scores["accuracy"], scores["chance"], "chance")
    return texts


def _beside(accuracy: Mapping[str, Any], blind: float, what: str) -> list[str]:
    """How an accuracy's interval lies beside what knowing nothing earns; nothing where all of it is above."""
    if accuracy["low"] > blind:
        return []
    if accuracy["high"] < blind:
        return [f"its whole accuracy interval lies below {what} ({100 * blind:.1f} %)."]
    below = accuracy["value"] < blind
    how = "is below" if below else "interval reaches down to"
    return [f"its accuracy {how} {what} ({100 * blind:.1f} %{', which its interval holds' if below else ''})."]


def _warning(entry: Entry, level: str, text: str) -> dict[str, str]:
    return {"entry": entry.name, "level": level, "text": text}


def _versus(entry: Entry, other: Entry | None) -> dict[str, Any] | None:
    if other is None or not entry.scores or not other.scores:
        return None
    return {"entry": entry.name, "name": other.name, **paired_tests.paired(entry.predictions, other.predictions)}


def _pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """(later, earlier): every pair of evaluated entries of one task, or each against the first where they are many."""
    pairs = []
    for task in dict.fromkeys(entry.task for entry in entries):
        same = [entry for entry in entries if entry.task == task and entry.scores]
        firsts = same if len(same) <= MOST_PAIRED else same[:1]
        pairs += [(b, a) for place, a in enumerate(firsts) for b in same[place + 1 :]]
    return pairs
