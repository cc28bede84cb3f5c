"""Arms compared by the kind of question: accuracy with its interval, each beside the first arm on the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from benchmarks.seeds import holm_per_seed, interval, joined, told_of_accuracies, told_per_seed
from pipeline.metrics.intervals import clustered_rate
from pipeline.metrics.paired_tests import Paired, Prediction, cluster, paired, right
from pipeline.metrics.scores import Rate
from pipeline.reports import charts
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table

ALL = "all"
Kinds = Mapping[str, Sequence[Prediction]]
"""Greedy answers by the kind of their question; `ALL` holds every one."""


def kind_of(groups: Mapping[str, str], gold: object) -> str:
    """Return the kind of a question: the group ``task``, else the gold label."""
    return str(groups.get("task") or gold)


def by_kind(entry: Entry, apart: Collection[str] = ()) -> Kinds:
    """Return the greedy answers of a model by the kind of their question.

    Args:
        entry: an evaluated stage.
        apart: kinds that are not among all; the name of all says so.
    """
    kinds: dict[str, list[Prediction]] = {}
    for row in entry.greedy:
        kinds.setdefault(kind_of(row.get("groups") or {}, row["gold"]), []).append(row)
    whole = [row for kind, rows in kinds.items() if kind not in apart for row in rows]
    told = f"{ALL} but {', '.join(sorted(apart))}" if apart else ALL
    return {told: whole, **(dict(sorted(kinds.items())) if len(kinds) > 1 else {})}


def table(called: str, runs: Mapping[str, Sequence[Entry]], seeds: Sequence[int], apart: Collection[str] = ()) -> str:
    """Return accuracy of the arms per kind of question as markdown, each beside the first on the same rows.

    Args:
        called: what an arm is, the head of its column.
        runs: arm: the compared stage of each seed.
        seeds: theirs.
        apart: kinds that are not among all.
    """
    first, *others = runs
    kinds = {name: [by_kind(entry, apart) for entry in entries] for name, entries in runs.items()}
    tests: dict[tuple[str, str], list[Paired]] = {
        (kind, arm): [paired(one[kind], base[kind]) for one, base in zip(kinds[arm], kinds[first], strict=True)]
        for kind in kinds[first][0]
        for arm in others
    }
    corrected = holm_per_seed(tests)
    head = ["questions", "rows", "commonest answer, %", called, "accuracy, %", f"against {first}, points"]
    head.append("per seed (p, Holm)")
    lines = []
    for kind, rows in kinds[first][0].items():
        blind = _blind(kind, runs[first][0], rows)
        for arm in runs:
            cells = [kind, str(len(rows)), blind] if arm == first else ["", "", ""]
            cells += [arm, str(_accuracy([one[kind] for one in kinds[arm]]))]
            if arm == first:
                cells += ["", ""]
            else:
                gains = [100 * one.gain.share for one in tests[kind, arm]]
                cells += [interval(gains), told_per_seed(gains, corrected[kind, arm])]
            lines.append(cells)
    note = f"{told_of_accuracies(seeds)} Commonest answer: what giving it to every question of the kind earns."
    return f"{markdown_table(head, lines, {1, 2, 4, 5, 6})}\n{note}\n"


def _blind(kind: str, entry: Entry, rows: Sequence[Prediction]) -> str:
    """What the commonest gold answer of a kind earns, in percent; a dash for a class, whose rows all have one."""
    golds = Counter(str(row["gold"]) for row in rows)
    known = entry.scores.blind_answer if kind == ALL and entry.scores else max(golds.values()) / len(rows)
    return f"{100 * known:.1f}" if known is not None and len(golds) > 1 else "–"


def _accuracy(answers: Sequence[Sequence[Prediction]]) -> Rate:
    """Accuracy over the seeds."""
    return joined([clustered_rate([right(row) for row in rows], [cluster(row) for row in rows]) for rows in answers])


def figure(
    runs: Mapping[str, Sequence[Entry]], seeds: Sequence[int], apart: Collection[str] = ()
) -> charts.Chart | None:
    """Draw accuracy of the arms per kind of question with its intervals; the arguments are those of `table`."""
    colour = dict(zip(runs, charts.OTHERS * len(runs), strict=False))
    rows = []
    for kind in by_kind(next(iter(runs.values()))[0], apart):
        for arm, entries in runs.items():
            rows.append(
                (f"{kind}: {arm}", colour[arm], [_accuracy([by_kind(entry, apart)[kind] for entry in entries])])
            )
    over = f", mean over {len(seeds)} seeds" if len(seeds) > 1 else ""
    return charts.intervals(rows, f"accuracy, %{over} (95 % interval)")
