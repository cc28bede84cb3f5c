"""What the tables of a report hold: each table once, as values, for the page, the markdown and the files alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.config.schema import BASELINE
from pipeline.metrics.classification import UNPARSABLE, in_order
from pipeline.metrics.scores import Gain, GroupScores, Rate, Scores
from pipeline.reports.class_tables import ENTRY, Evaluated, by_class, confusion, every_per_class, recall_changes
from pipeline.reports.entries import Entry
from pipeline.reports.paired_entries import PairedTest
from pipeline.reports.summary import EntrySummary, Summary
from pipeline.reports.table import Column, Table, rows_of

SHOWN_PAIRS, SHOWN_ROWS = 5, 4
"""Of the most confused pairs: how many per entry, and example rows of each."""

# Most letters of a group in the name of its files: of four bytes each they are fewer than a file's name may have.
_NAME = 40


def tables(summary: Summary, entries: Sequence[Entry]) -> dict[str, Table]:
    """Return every table a report has something to say in, by name."""
    rows = summary.evaluated
    made = [
        _results(summary),
        tests(summary.tests),
        _by_entry("beside", "Beside accuracy", BESIDE, rows, lambda _, scores: [scores]).without_empty(),
        _by_entry("official", "Official scores", OFFICIAL, rows, lambda row, _: row.official.items(), _OFFICIAL_NOTE),
        *_groups(rows),
        by_class("recall", "Recall per class, %", rows, lambda one: one.recall, lambda of: of.balanced),
        recall_changes(summary),
        by_class("f1", "F1 per class, %", rows, lambda one: one.f1, lambda of: of.macro.f1),
        every_per_class(rows),
        confusion(rows),
        _confused(rows, entries),
        _by_entry("unparsable", "Answers that could not be read", UNREAD, rows, _unread),
        _by_entry("by_length", _BY_LENGTH, LENGTHS, rows, lambda _, scores: scores.by_length or (), _LENGTH_NOTE),
        _by_entry("calibration", "Calibration", CALIBRATION, rows, _calibrations, _CALIBRATION_NOTE),
        _by_entry(
            "reliability", "Reliability", RELIABILITY, rows, lambda *of: (b for c in _calibrations(*of) for b in c.bins)
        ),
    ]
    return {table.name: table for table in made if table.rows}


def _by_entry(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Evaluated,
    items: Callable[[EntrySummary, Scores], Iterable[Any]],
    note: str = "",
) -> Table:
    """A table with a row per item of every entry."""
    made = [{ENTRY.key: row.name, **one} for row, scores in rows for one in rows_of(columns, items(row, scores))]
    return Table(name, title, (ENTRY, *columns), tuple(made), note=note)


def _scored(read: Callable[[Scores], Any]) -> Callable[[EntrySummary], Any]:
    return lambda row: read(row.scores) if row.scores else None


def _clipped(side: str) -> Callable[[EntrySummary], Any]:
    return lambda row: row.clip and ("VOID" if row.clip.void else getattr(row.clip, side))


def _gain(test: PairedTest | None) -> Gain | None:
    return test.result.gain if test and test.result.n else None


def _rate(gain: Gain | None) -> Rate | None:
    return gain and Rate(gain.value, gain.low, gain.high)


_ACCURACY = Column("accuracy", "accuracy, %", "percent")
_OF_BIN = Column("n", "rows", "count", lambda one: one.accuracy.n)
RESULTS = (
    Column("entry", "entry", of=lambda row: row.name),
    Column("task", "task"),
    Column("status", "status"),
    Column("accuracy", "accuracy, %", "percent", _scored(lambda of: of.accuracy)),
    Column("macro_recall", "macro recall, %", "percent", _scored(lambda of: of.macro_recall)),
    Column("exact_trace", "exact trace, %", "percent", _scored(lambda of: of.exact_trace)),
    Column("versus_parent", "vs parent", "points", lambda row: _gain(row.versus_parent)),
    Column("macro_f1", "macro-F1, %", "percent", _scored(lambda of: of.macro_f1)),
    Column("format", "format, %", "percent", _scored(lambda of: of.format)),
    Column("format_sampled", "format, % T = 1", "percent", _scored(lambda of: of.format_sampled)),
    Column("accuracy_sampled", "accuracy, % T = 1", "percent", _scored(lambda of: of.sample and of.sample.accuracy)),
    Column("unparsable", "no answer", "count", _scored(lambda of: of.unparsable.n)),
    Column("chance", "chance, %", "percent", _scored(lambda of: of.chance)),
    Column("n", "rows", "count", _scored(lambda of: of.n)),
    Column(
        "unusable", "unusable rows", "count", lambda row: row.scores and row.unusable and sum(row.unusable.values())
    ),
    Column("clip_low", "clip low, %", "fine", _clipped("low")),
    Column("clip_high", "clip high, %", "fine", _clipped("high")),
    Column("seconds", "training", "duration"),
)
TESTS = (
    ENTRY,
    Column("against", "against", of=lambda test: test.name),
    Column("n", "rows", "count", lambda test: test.result.n),
    Column("only_entry", "only entry right", "count", lambda test: test.result.only_a),
    Column("only_against", "only other right", "count", lambda test: test.result.only_b),
    Column(
        "difference",
        "accuracy, points",
        "points",
        lambda test: Rate(test.result.difference, test.result.low, test.result.high),
    ),
    Column("p", "p", "p", lambda test: test.result.p),
    Column("p_holm", "p, Holm", "p"),
    Column("macro_recall", "macro recall, points", "points", lambda test: _rate(test.macro_recall)),
    Column("macro_recall_p", "p", "p", lambda test: test.macro_recall and test.macro_recall.p),
    Column("macro_recall_p_holm", "p, Holm", "p", lambda test: test.macro_recall and test.macro_recall.p_holm),
    Column("detectable", "detectable, points", "percent", lambda test: test.result.detectable),
)
BESIDE = (
    Column("weighted_f1", "weighted F1, %", "percent", lambda of: of.classes and of.classes.weighted.f1),
    Column("tokens", "completion tokens", "number", lambda of: of.completion_tokens),
    Column("seconds_per_row", "seconds a row", "number"),
    Column("truncated", "cut at the limit, %", "percent", lambda of: of.truncated.value),
    Column("agreement", "thinking ends on the answer, %", "percent", lambda of: of.agreement),
    Column("silent", "thinking names no label", "count", lambda of: of.agreement and of.agreement.silent),
    Column(
        "lucky",
        "right by steps that are not true, %",
        "percent",
        lambda of: of.exact_trace.lucky if of.exact_trace and of.exact_trace.lucky.n else None,
    ),
    Column(
        "attributes",
        "attributes named in thinking, %",
        "percent",
        lambda of: of.attributes if of.attributes.n else None,
    ),
    Column(
        "thoughts", "different thoughts", "count", lambda of: of.most_thought.distinct if of.most_thought.n else None
    ),
)
OFFICIAL = (
    Column("score", "score", of=lambda named: named[0]),
    Column("value", "value, %", "number", lambda named: named[1]),
)
CONFUSED = (
    Column("gold", "gold"),
    Column("answer", "answer"),
    Column("n", "rows", "count"),
    Column("share", "of the class, %", "percent"),
    Column("examples", "examples", "rows"),
)
UNREAD = (
    Column("reason", "reason", of=lambda one: one[0]),
    Column("n", "rows", "count", lambda one: one[1]),
    Column("share", "of all rows, %", "percent", lambda one: one[1] / one[2]),
)
LENGTHS = (
    Column("from", "words, from", "count", lambda one: one.low),
    Column("to", "to", "count", lambda one: one.high),
    _OF_BIN,
    _ACCURACY,
)
CALIBRATION = (
    Column("n", "rows", "count"),
    Column("without", "without log probability", "count"),
    Column("ece", "ECE, %", "percent"),
    Column("brier", "Brier score, %", "percent"),
)
RELIABILITY = (
    Column("from", "confidence from, %", "percent", lambda one: one.low),
    Column("to", "to, %", "percent", lambda one: one.high),
    _OF_BIN,
    Column("confidence", "mean confidence, %", "percent"),
    _ACCURACY,
)
_BY_LENGTH = "Accuracy by length of the reasoning"
_LENGTH_NOTE = (
    "Bins of about as many rows each, by the words of the reasoning. "
    "Hard pictures may be both long and wrong: no cause."
)
_OFFICIAL_NOTE = (
    "By each benchmark's own formula, which may weigh its parts otherwise than accuracy over all rows does."
)
_CALIBRATION_NOTE = (
    "Confidence is the geometric mean of the probabilities of the tokens a model wrote. ECE and Brier score: 0 is best. "
    "Noise only adds to an ECE: its interval lies high."
)


def _results(summary: Summary) -> Table:
    needless = {
        "task": len({row.task for row in summary.entries}) < 2,
        "status": all(row.status == "evaluated" for row in summary.entries),
    }
    columns = [column for column in RESULTS if not needless.get(column.key)]
    after = 1 + [column.key for column in columns].index("versus_parent")
    columns[after:after] = map(_versus, dict.fromkeys(name for row in summary.entries for name in row.versus_baselines))
    return Table("results", "Results", tuple(columns), rows_of(columns, summary.entries)).without_empty()


def _versus(baseline: str) -> Column:
    """The gain over a baseline."""
    name = f"vs {baseline.removeprefix(BASELINE)}"
    return Column(f"versus_{baseline}", name, "points", lambda row: _gain(row.versus_baselines.get(baseline)))


def tests(found: Sequence[PairedTest]) -> Table:
    """Return paired tests of accuracy and macro recall as `summarise` lists them."""
    recall = any(test.macro_recall for test in found)
    clustered = any(test.result.clusters for test in found)
    note = (
        f"McNemar’s exact test{' with whole clusters flipped' if clustered else ''} on the rows both answered greedily; interval "
        f"by paired bootstrap. {'Macro recall: paired bootstrap. ' if recall else ''}Holm’s correction over all {len(found)} "
        f"tests of this table{', of either measure' if recall else ''}. “Detectable” is the smallest difference in accuracy that "
        "a sample of this size and discordance finds in 80 % of cases at two-sided 5 %."
    )
    made = Table("tests", "Paired tests", TESTS, rows_of(TESTS, found), note=note)
    return made if recall else made.less("macro_recall", "macro_recall_p", "macro_recall_p_holm")


def _unread(_: EntrySummary, scores: Scores) -> Iterable[tuple[str, int, int]]:
    return ((reason, count, scores.n) for reason, count in scores.unparsable.reasons.items())


def _calibrations(_: EntrySummary, scores: Scores) -> Iterable[Any]:
    return [scores.calibration] if scores.calibration else []


def _groups(rows: Evaluated) -> list[Table]:
    """One table per group."""
    groups = dict.fromkeys(key for _, scores in rows for key in scores.groups)
    return [
        _group(one, name, {row.name: scores.groups[one] for row, scores in rows if one in scores.groups})
        for one, name in zip(groups, _names(groups), strict=True)
    ]


def _names(groups: Iterable[str]) -> list[str]:
    """A name per group that can be a file's: short, and another than those before it, on any file system."""
    found: dict[str, str] = {}
    for group in groups:
        plain = "".join(letter if letter.isalnum() else "_" for letter in group)[:_NAME]
        tried = (f"group_{plain}" + (f"_{number}" if number > 1 else "") for number in itertools.count(1))
        name = next(one for one in tried if one.casefold() not in found)
        found[name.casefold()] = name
    return [*found.values()]


def _group(group: str, called: str, found: Mapping[str, Mapping[str, GroupScores]]) -> Table:
    """A row per value of a group, a column per entry that has it."""

    def of(name: str, key: str) -> Callable[[str], Any]:
        return lambda value: getattr(found[name].get(value), key, None)

    def ones(value: str) -> list[GroupScores]:
        return [of_entry[value] for of_entry in found.values() if value in of_entry]

    traced = [name for name, of_entry in found.items() if any(one.exact_trace for one in of_entry.values())]
    lost = [name for name, of_entry in found.items() if any(one.unparsable for one in of_entry.values())]
    columns = (
        Column(f"value:{group}" if group in ("n", "chance") else group, group, of=str),
        Column("n", "rows", "count", lambda value: max(one.n for one in ones(value))),
        Column("chance", "chance, %", "percent", lambda value: ones(value)[0].chance),
        *(Column(f"accuracy:{name}", name, "percent", of(name, "accuracy"), heat=True) for name in found),
        *(
            Column(f"exact:{name}", f"exact trace: {name}", "percent", of(name, "exact_trace"), heat=True)
            for name in traced
        ),
        *(Column(f"unparsable:{name}", f"no answer: {name}", "count", of(name, "unparsable")) for name in lost),
    )
    note = (
        "Accuracy, % with its 95 % interval. Chance is the mean of one part in the options; an open question counts 0."
    )
    values = sorted({value for of_entry in found.values() for value in of_entry}, key=in_order)
    return Table(called, f"By {group}", columns, rows_of(columns, values), note=note)


def _confused(rows: Evaluated, entries: Sequence[Entry]) -> Table:
    """The commonest wrong answers of every entry, with rows that show them."""
    greedy = {entry.name: entry.greedy for entry in entries}

    def pairs(row: EntrySummary, scores: Scores) -> Iterator[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"gold": gold, "answer": answer, "n": count, "share": count / sum(counts.values())}
            for gold, counts in (scores.classes.confusion.lines() if scores.classes else ())
            for answer, count in counts.items()
            if answer not in (gold, UNPARSABLE) and count
        ]
        found.sort(key=lambda pair: (-pair["n"], pair["gold"], pair["answer"]))
        for pair in found[:SHOWN_PAIRS]:
            wanted = (pair["gold"], pair["answer"])
            ids = [one["id"] for one in greedy[row.name] if (one["gold"], one["label"]) == wanted]
            yield {**pair, "examples": ids[:SHOWN_ROWS]}

    note = f"The {SHOWN_PAIRS} commonest wrong labels of every entry."
    return _by_entry("confused", "Most confused", CONFUSED, rows, pairs, note)
