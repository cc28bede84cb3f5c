"""What the tables of a report hold: each table once, as values, for the page and the files alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics.classification import UNPARSABLE
from pipeline.metrics.scores import Scores
from pipeline.reports.entries import Entry
from pipeline.reports.table import Column, Table

SHOWN_PAIRS, SHOWN_ROWS = 5, 4
"""Of the most confused pairs: how many per entry, and example rows of each."""


def tables(summary: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, Table]:
    """Return every table a report has something to say in, by name."""
    rows = [row for row in summary["entries"] if row["scores"]]
    made = [
        _results(summary),
        tests(summary["tests"]),
        _beside(rows),
        _official(rows),
        *_groups(rows),
        _f1(rows),
        _per_class(rows),
        _confusion(rows),
        _confused(rows, entries),
        _unparsable(rows),
        _lengths(rows),
        _calibration(rows),
        _reliability(rows),
    ]
    return {table.name: table for table in made if table.rows}


def _results(summary: Mapping[str, Any]) -> Table:
    tasks = {row["task"] for row in summary["entries"]}
    rows = []
    for row in summary["entries"]:
        scores, clip = row["scores"] or {}, row["clip"]
        found, sample = (Scores.of(scores) if scores else None), scores.get("sample") or {}
        rows.append(
            {
                "entry": row["name"],
                "task": row["task"],
                "status": row["status"],
                "n": scores.get("n"),
                "accuracy": scores.get("accuracy"),
                "chance": scores.get("chance"),
                **{key: _gain(row[key]) for key in ("versus_parent", "versus_baseline")},
                "macro_f1": found.macro_f1.cell() if found and found.macro_f1 else None,
                "format": scores.get("format"),
                "format_sampled": sample.get("format"),
                "accuracy_sampled": sample.get("accuracy"),
                "unparsable": found.unparsable if found else None,
                "unusable": sum(row["unusable"].values()) if scores and row.get("unusable") else None,
                "clip_low": None if not clip else "VOID" if clip["void"] else clip["low"],
                "clip_high": None if not clip else "VOID" if clip["void"] else clip["high"],
                "seconds": row["seconds"],
            }
        )
    columns = [
        Column("entry", "entry"),
        *([Column("task", "task")] if len(tasks) > 1 else []),
        *([Column("status", "status")] if any(row["status"] != "evaluated" for row in summary["entries"]) else []),
        Column("accuracy", "accuracy, %", "percent"),
        Column("versus_parent", "vs parent", "points"),
        Column("versus_baseline", "vs baseline", "points"),
        Column("macro_f1", "macro-F1, %", "percent"),
        Column("format", "format, %", "percent"),
        Column("format_sampled", "format, % T = 1", "percent"),
        Column("accuracy_sampled", "accuracy, % T = 1", "percent"),
        Column("unparsable", "no answer", "count"),
        Column("chance", "chance, %", "percent"),
        Column("n", "rows", "count"),
        Column("unusable", "unusable rows", "count"),
        Column("clip_low", "clip low, %", "fine"),
        Column("clip_high", "clip high, %", "fine"),
        Column("seconds", "training", "duration"),
    ]
    # A column in which nobody has a value says nothing.
    shown = [column for column in columns if any(row[column.key] is not None for row in rows)]
    return Table("results", "Results", tuple(shown), tuple(rows))


def tests(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return paired tests of accuracy as `summarise` lists them."""
    rows = [
        {
            "entry": test["entry"],
            "against": test["name"],
            "n": test["n"],
            "only_entry": test["only_a"],
            "only_against": test["only_b"],
            "difference": {"value": test["difference"], "low": test["low"], "high": test["high"]},
            "p": test["p"],
            "p_holm": test["p_holm"],
            "detectable": test["detectable"],
        }
        for test in found
    ]
    columns = (
        Column("entry", "entry"),
        Column("against", "against"),
        Column("n", "rows", "count"),
        Column("only_entry", "only entry right", "count"),
        Column("only_against", "only other right", "count"),
        Column("difference", "accuracy, points", "points"),
        Column("p", "p", "p"),
        Column("p_holm", "p, Holm", "p"),
        Column("detectable", "detectable, points", "percent"),
    )
    clustered = any(test["clusters"] for test in found)
    note = (
        f"McNemar’s exact test{' with whole clusters flipped' if clustered else ''} on the rows both answered greedily; interval "
        f"by paired bootstrap; Holm’s correction over all {len(rows)} tests of this table. “Detectable” is the smallest "
        "difference that a sample of this size and discordance finds in 80 % of cases at two-sided 5 %."
    )
    return Table("tests", "Paired tests", columns, tuple(rows), note=note)


def _beside(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = []
    for row in rows:
        scores = row["scores"]
        said, named, thought = scores.get("agreement") or {}, scores["attributes"], scores["most_thought"]
        made.append(
            {
                "entry": row["name"],
                "balanced": scores.get("balanced_accuracy"),
                "weighted_f1": scores["weighted avg"]["f1-score"] if "weighted avg" in scores else None,
                "tokens": scores["completion_tokens"],
                "seconds_per_row": scores["seconds_per_row"],
                "truncated": scores["truncated"]["value"],
                "agreement": said if said.get("n") else None,
                "silent": said["silent"] if said.get("n") else None,
                "attributes": named if named["n"] else None,
                "thoughts": thought["distinct"] if thought["n"] else None,
            }
        )
    columns = (
        Column("entry", "entry"),
        Column("balanced", "balanced accuracy, %", "percent"),
        Column("weighted_f1", "weighted F1, %", "percent"),
        Column("tokens", "completion tokens", "number"),
        Column("seconds_per_row", "seconds a row", "number"),
        Column("truncated", "cut at the limit, %", "percent"),
        Column("agreement", "thinking ends on the answer, %", "percent"),
        Column("silent", "thinking names no label", "count"),
        Column("attributes", "attributes named in thinking, %", "percent"),
        Column("thoughts", "different thoughts", "count"),
    )
    shown = tuple(column for column in columns if any(row[column.key] is not None for row in made))
    return Table("beside", "Beside accuracy", shown, tuple(made))


def _official(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The scores of a benchmark by its own formula, as the lab's cells record them."""
    made = [
        {"entry": row["name"], "score": name, "value": value} for row in rows for name, value in row["official"].items()
    ]
    columns = (Column("entry", "entry"), Column("score", "score"), Column("value", "value, %", "number"))
    note = "By each benchmark's own formula, which may weigh its parts otherwise than accuracy over all rows does."
    return Table("official", "Official scores", columns, tuple(made), note=note)


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table per group: a row per value, a column per entry that has it."""
    made = []
    for group in dict.fromkeys(key for row in rows for key in row["scores"]["groups"]):
        having = [row for row in rows if group in row["scores"]["groups"]]
        found = {row["name"]: row["scores"]["groups"][group] for row in having}
        values = sorted({value for of_entry in found.values() for value in of_entry})
        table = []
        for value in values:
            ones = [of_entry[value] for of_entry in found.values() if value in of_entry]
            accuracies = {f"accuracy:{name}": of.get(value, {}).get("accuracy") for name, of in found.items()}
            lost = {f"unparsable:{name}": of.get(value, {}).get("unparsable") for name, of in found.items()}
            table.append(
                {group: value, "n": max(one["n"] for one in ones), "chance": ones[0]["chance"], **accuracies, **lost}
            )
        columns = (
            Column(group, group),
            Column("n", "rows", "count"),
            Column("chance", "chance, %", "percent"),
            *(Column(f"accuracy:{name}", name, "percent", heat=True) for name in found),
            *(Column(f"unparsable:{name}", f"no answer: {name}", "count") for name in found if _lost(table, name)),
        )
        note = "Accuracy, % with its 95 % interval. Chance is the mean of one part in the options; an open question counts 0."
        name = "".join(letter if letter.isalnum() else "_" for letter in group)
        made.append(Table(f"group_{name}", f"By {group}", columns, tuple(table), note=note))
    return made


def _lost(table: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(row[f"unparsable:{name}"] for row in table)


def _f1(rows: Sequence[Mapping[str, Any]]) -> Table:
    classed = [row for row in rows if "per_class" in row["scores"]]
    names = list(dict.fromkeys(name for row in classed for name in row["scores"]["labels"]))
    found = {row["name"]: row["scores"]["per_class"] for row in classed}
    made = [
        {
            "class": name,
            "support": max(of[name]["support"] for of in found.values() if name in of),
            **{f"f1:{entry}": of[name]["f1-score"] if name in of else None for entry, of in found.items()},
        }
        for name in names
    ]
    columns = (
        Column("class", "class"),
        Column("support", "rows", "count"),
        *(Column(f"f1:{entry}", entry, "percent", heat=True) for entry in found),
    )
    return Table("f1", "F1 per class, %", columns, tuple(made))


PER_CLASS = (
    Column("class", "class"),
    Column("precision", "precision, %", "percent"),
    Column("recall", "recall, %", "percent"),
    Column("f1-score", "F1, %", "percent"),
    Column("support", "rows", "count"),
    Column("predicted", "answered", "count"),
)


def per_class(name: str, scores: Mapping[str, Any]) -> Table:
    """Return one entry's per-class table, its averages at the foot."""
    table = scores["per_class"]
    rows = tuple({"class": label, **values, "recall": _named(values, "recall")} for label, values in table.items())
    foot = tuple({"class": kind, "predicted": None, **scores[kind]} for kind in ("macro avg", "weighted avg"))
    return Table("class", f"Per class: {name}", PER_CLASS, rows, foot)


def _per_class(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The per-class tables of all entries below each other, for the files."""
    made = []
    for row in rows:
        if "per_class" in row["scores"]:
            one = per_class(row["name"], row["scores"])
            made += [{"entry": row["name"], **values} for values in (*one.rows, *one.foot)]
    return Table("per_class", "Per class", (Column("entry", "entry"), *PER_CLASS), tuple(made))


def _confusion(rows: Sequence[Mapping[str, Any]]) -> Table:
    made: list[dict[str, Any]] = []
    answers: dict[str, None] = {}
    for row in rows:
        if matrix := row["scores"].get("confusion"):
            answers |= dict.fromkeys(matrix["columns"][:-1])
            for gold, counts in zip(matrix["rows"], matrix["counts"], strict=True):
                named = dict(zip(matrix["columns"], counts, strict=True))
                made.append({"entry": row["name"], "gold": gold, **{f"answer:{key}": named[key] for key in named}})
    answered = [Column(f"answer:{name}", name, "count") for name in (*answers, UNPARSABLE)]
    return Table("confusion", "Confusion", (Column("entry", "entry"), Column("gold", "gold"), *answered), tuple(made))


def _confused(rows: Sequence[Mapping[str, Any]], entries: Sequence[Entry]) -> Table:
    """The commonest wrong answers of every entry, with rows that show them."""
    greedy = {entry.name: entry.greedy for entry in entries}
    made = []
    for row in rows:
        if matrix := row["scores"].get("confusion"):
            pairs = [
                {"entry": row["name"], "gold": gold, "answer": answer, "n": count, "share": count / sum(counts)}
                for gold, counts in zip(matrix["rows"], matrix["counts"], strict=True)
                for answer, count in zip(matrix["columns"], counts, strict=True)
                if answer not in (gold, UNPARSABLE) and count
            ]
            pairs.sort(key=lambda pair: (-pair["n"], pair["gold"], pair["answer"]))
            for pair in pairs[:SHOWN_PAIRS]:
                wanted = (pair["gold"], pair["answer"])
                ids = [one["id"] for one in greedy[row["name"]] if (one["gold"], one["label"]) == wanted]
                made.append({**pair, "examples": ids[:SHOWN_ROWS]})
    columns = (
        Column("entry", "entry"),
        Column("gold", "gold"),
        Column("answer", "answer"),
        Column("n", "rows", "count"),
        Column("share", "of the class, %", "percent"),
        Column("examples", "examples", "rows"),
    )
    note = f"The {SHOWN_PAIRS} commonest wrong labels of every entry."
    return Table("confused", "Most confused", columns, tuple(made), note=note)


def _unparsable(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = [
        {"entry": row["name"], "reason": reason, "n": count, "share": count / row["scores"]["n"]}
        for row in rows
        for reason, count in row["scores"]["unparsable"]["reasons"].items()
    ]
    columns = (
        Column("entry", "entry"),
        Column("reason", "reason"),
        Column("n", "rows", "count"),
        Column("share", "of all rows, %", "percent"),
    )
    return Table("unparsable", "Answers that could not be read", columns, tuple(made))


def _lengths(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = [
        {
            "entry": row["name"],
            "from": one["from"],
            "to": one["to"],
            "n": one["accuracy"]["n"],
            "accuracy": one["accuracy"],
        }
        for row in rows
        for one in row["scores"]["by_length"] or ()
    ]
    columns = (
        Column("entry", "entry"),
        Column("from", "words, from", "count"),
        Column("to", "to", "count"),
        Column("n", "rows", "count"),
        Column("accuracy", "accuracy, %", "percent"),
    )
    note = "Bins of about as many rows each, by the words of the reasoning. Hard pictures may be both long and wrong: no cause."
    return Table("by_length", "Accuracy by length of the reasoning", columns, tuple(made), note=note)


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = [
        {"entry": row["name"], **{key: found[key] for key in ("n", "without", "ece", "brier")}}
        for row in rows
        if (found := row["scores"]["calibration"])
    ]
    columns = (
        Column("entry", "entry"),
        Column("n", "rows", "count"),
        Column("without", "without log probability", "count"),
        Column("ece", "ECE, %", "percent"),
        Column("brier", "Brier score, %", "percent"),
    )
    note = (
        "Confidence is the geometric mean of the probabilities of the tokens a model wrote. ECE and Brier score: 0 is best. "
        "Noise only adds to an ECE: its interval lies high."
    )
    return Table("calibration", "Calibration", columns, tuple(made), note=note)


def _reliability(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = [
        {"entry": row["name"], **one, "n": one["accuracy"]["n"]}
        for row in rows
        for one in (row["scores"]["calibration"] or {"bins": ()})["bins"]
    ]
    columns = (
        Column("entry", "entry"),
        Column("from", "confidence from, %", "percent"),
        Column("to", "to, %", "percent"),
        Column("n", "rows", "count"),
        Column("confidence", "mean confidence, %", "percent"),
        Column("accuracy", "accuracy, %", "percent"),
    )
    return Table("reliability", "Reliability", columns, tuple(made))


def _gain(versus: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A test as a cell: the difference with its interval."""
    if not versus or not versus["n"]:
        return None
    return {"value": versus["difference"], "low": versus["low"], "high": versus["high"], "p": versus["p"]}


def _named(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """``key``, ``key_low``, ``key_high`` of a mapping as one cell."""
    return {"value": values[key], "low": values.get(f"{key}_low"), "high": values.get(f"{key}_high")}
