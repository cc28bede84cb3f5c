"""The numbers of a report: plain functions from predictions to `Scores`. No files, no plots, no torch.

Two rules hold everywhere. Every row stays in every denominator: a completion without an answer is wrong, and where answers are
labels it has its own column, ``(unparsable)``. Every rate comes with its count, its n and a 95 % interval.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.config.evaluation import TWO_STEPS
from pipeline.metrics.calibration import by_length, calibration
from pipeline.metrics.intervals import bootstrap_sums, clustered_rate, joined, rate, shared, spread
from pipeline.metrics.paired_tests import Prediction, cluster, judged, right
from pipeline.metrics.scores import (
    Agreement,
    AttributesNamed,
    Averages,
    Balanced,
    Baselines,
    ClassScores,
    CommonestAnswers,
    Confusion,
    ExactTrace,
    FairGuess,
    GroupScores,
    MacroAverages,
    Majority,
    MostAnswered,
    OfClasses,
    Rate,
    Repetition,
    Sampled,
    Scores,
    UnknownAnswer,
    Unparsable,
)
from pipeline.scoring.labels import LabelSet
from pipeline.scoring.response import REASONS, Response, parse

UNPARSABLE = "(unparsable)"
"""The confusion column of completions that gave no label."""
SHOWN = 40
"""Characters that are shown of an answer that is no label."""
# EmoSet's key and label: naming them says nothing about what was seen.
_NOT_ATTRIBUTES = {"image_id", "emotion"}


def score(predictions: Iterable[Prediction], labels: LabelSet | None) -> Scores:
    """Return every number of one evaluated model in one prompt style.

    Args:
        predictions: rows of one style; ``decoding: greedy`` rows are the headline, ``sample`` rows give ``sample``. Rows whose
            gold answer is not published are counted (``unjudged``) and take no part.
        labels: the closed list of answers, in the order of tables and matrices; None for a benchmark whose answers are none.
            Then nothing per class is there.

    Returns:
        Them; undefined values are None. Macro averages run over the classes that have rows (a class without any has no recall).

    Raises:
        ValueError: without a greedy row, on mixed styles, or on a gold or predicted label outside `labels`.
    """
    rows = list(predictions)
    known = judged(rows)
    greedy = [row for row in known if row["decoding"] == "greedy"]
    if not greedy:
        raise ValueError("there is no greedy prediction to score")
    styles = {row["style"] for row in rows}
    if len(styles) > 1:
        raise ValueError(f"predictions of several styles ({', '.join(sorted(styles))}) must be scored apart")
    clusters = [cluster(row) for row in greedy]
    lost = sum(row["label"] is None for row in greedy)
    tokens = [row["completion_tokens"] for row in greedy if row.get("completion_tokens") is not None]
    seconds = [row["seconds"] for row in greedy if row.get("seconds") is not None]
    cut = [bool(row["truncated"]) for row in greedy if row.get("truncated") is not None]
    return Scores(
        n=len(greedy),
        unjudged=sum(row["decoding"] == "greedy" for row in rows) - len(greedy),
        style=greedy[0]["style"],
        labels=tuple(labels.names) if labels else None,
        accuracy=_accuracy(greedy),
        chance=chance(greedy, labels),
        format=clustered_rate([well_formed(row) for row in greedy], clusters),
        parsed=clustered_rate([row["label"] is not None for row in greedy], clusters),
        unparsable=Unparsable(lost, _reasons(greedy), _unknown_answer(greedy)),
        guessed=sum(row.get("guessed") is not None for row in greedy),
        truncated=rate(sum(cut), len(cut)),
        completion_tokens=_mean(tokens),
        seconds_per_row=_mean(seconds),
        most_answered=MostAnswered(*_most(row["label"] for row in greedy if row["label"] is not None)),
        most_thought=_most(row["think"] for row in greedy if row.get("think"))[1],
        groups=by_group(greedy, labels),
        by_length=by_length(greedy),
        calibration=calibration(greedy),
        attributes=attributes_named(greedy),
        sample=_sampled([row for row in known if row["decoding"] == "sample"]),
        classes=_of_classes(greedy, clusters, labels) if labels else None,
        exact_trace=exact_trace(greedy),
        commonest=None if labels else commonest_answers(greedy),
    )


def commonest_answers(rows: Sequence[Prediction]) -> CommonestAnswers | None:
    """Return what the commonest gold answer of each kind earns; None where a row does not tell its kind."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        kinds[row.get("kind") or ""][row["gold"]] += 1
    if "" in kinds:
        return None
    best = {kind: min(found, key=lambda one: (-found[one], one)) for kind, found in sorted(kinds.items())}
    return CommonestAnswers(sum(kinds[kind][gold] for kind, gold in best.items()) / len(rows), best)


def exact_trace(rows: Sequence[Prediction], cluster_of: Callable[[Prediction], str] = cluster) -> ExactTrace | None:
    """Return how often the written steps are the true ones, over the rows whose task can tell; None without any."""
    told = [row for row in rows if row.get("exact_trace") is not None]
    if not told:
        return None
    exact = clustered_rate([row["exact_trace"] for row in told], [cluster_of(row) for row in told])
    hits = [row for row in told if right(row)]
    lucky = clustered_rate([not row["exact_trace"] for row in hits], [cluster_of(row) for row in hits])
    return ExactTrace(**vars(exact), lucky=lucky)


def chance(rows: Sequence[Prediction], labels: LabelSet | None) -> float | None:
    """Return what guessing at random earns on average: one part in the number of labels, or of a row's options, half of yes and
    no; 0 on an open question.

    None where no row has labels or options to guess among.
    """
    if labels:
        return 1 / len(labels)
    options = [len(row.get("options") or ()) or 2 * (row.get("kind") == "yes_no") for row in rows]
    return sum(1 / number for number in options if number) / len(rows) if any(options) else None


def by_group(rows: Sequence[Prediction], labels: LabelSet | None) -> dict[str, dict[str, GroupScores]]:
    """Return accuracy, chance and unparsable answers of every value of every group: ``{group: {value: …}}``, whole
    numbers in their order, then the others in text order; exact traces where the task can tell.

    The group ``label`` is left to the per-class table where there is one.
    """
    found: dict[str, dict[str, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for key, value in (row.get("groups") or {}).items():
            if not (labels and key == "label"):
                found[key][str(value)].append(row)
    return {
        key: {
            value: GroupScores(
                n=len(members),
                chance=chance(members, labels),
                accuracy=_accuracy(members),
                unparsable=sum(row["label"] is None for row in members),
                exact_trace=exact_trace(members),
            )
            for value, members in sorted(values.items(), key=lambda item: in_order(item[0]))
        }
        for key, values in sorted(found.items())
    }


def in_order(value: str) -> tuple[bool, int, str]:
    """Return the key by which values of a group are sorted: whole numbers by size, then texts."""
    # str.isdigit alone takes digits that int does not.
    number = value.isascii() and value.isdigit()
    return not number, int(value) if number else 0, value


def _accuracy(rows: Sequence[Prediction]) -> Rate:
    return clustered_rate([right(row) for row in rows], [cluster(row) for row in rows])


def _of_classes(greedy: Sequence[Prediction], clusters: Sequence[str], labels: LabelSet) -> OfClasses:
    """What a closed list of answers adds: per-class table, confusion matrix, blind baselines, agreement with the thinking."""
    from sklearn.metrics import confusion_matrix

    names = list(labels.names)
    if UNPARSABLE in names:
        raise ValueError(f"{UNPARSABLE!r} is the column of missing answers and cannot be a label")
    gold = [row["gold"] for row in greedy]
    answers = [UNPARSABLE if row["label"] is None else row["label"] for row in greedy]
    strange = sorted((set(gold) - set(names)) | (set(answers) - {*names, UNPARSABLE}))
    if strange:
        raise ValueError(f"labels {strange} are not of the label set {names}")
    counts = confusion_matrix(gold, answers, labels=[*names, UNPARSABLE])[:-1]
    with_rows = [name for name in names if name in set(gold)]
    macro, weighted = (_averages(gold, answers, with_rows, kind) for kind in ("macro", "weighted"))
    per_class = _per_class(gold, answers, names, counts, clusters)
    draws, parts = _macro_draws(gold, answers, names, clusters), [per_class[name].recall for name in with_rows]
    # Where macro-F1 has no spread, macro recall has none: it may lie as far away as that (our reading).
    (f1_low, f1_high), (low, high) = (
        spread(drawn) or joined(mean, parts, together=shared(clusters))
        for drawn, mean in zip(draws, (macro.f1, macro.recall), strict=True)
    )
    return OfClasses(
        per_class=per_class,
        macro=MacroAverages(**vars(macro), f1_low=f1_low, f1_high=f1_high, classes=len(with_rows)),
        weighted=weighted,
        balanced=Balanced(macro.recall, low, high, chance=1 / len(names)),
        baselines=_baselines(gold, len(names)),
        confusion=Confusion(tuple(names), (*names, UNPARSABLE), tuple(map(tuple, counts.tolist()))),
        agreement=agreement(greedy, labels),
    )


def agreement(rows: Sequence[Prediction], labels: LabelSet) -> Agreement:
    """Return how often the last label named in the thinking is the answer, over rows with both.

    ``silent`` counts the rows whose thinking names no label; they stay in n, as neither agreeing nor disagreeing.
    """
    both = [row for row in rows if row["label"] is not None and row.get("think")]
    last = [last_mentioned(row["think"], labels) for row in both]
    agree = [name == row["label"] for name, row in zip(last, both, strict=True)]
    found, silent = clustered_rate(agree, [cluster(row) for row in both]), last.count(None)
    return Agreement(**vars(found), silent=silent, disagree=len(both) - sum(agree) - silent)


def last_mentioned(text: str, labels: LabelSet) -> str | None:
    """Return the label whose mention comes last in `text`, or None. `LabelSet.mentioned` decides what a mention is."""
    found = labels.mentioned(text)
    if len(found) < 2:
        return found[0] if found else None
    words = text.split()
    # words[start:] mentions a label, words[stop:] does not
    start, stop = 0, len(words)
    while stop - start > 1:
        middle = (start + stop) // 2
        if labels.mentioned(" ".join(words[middle:])):
            start = middle
        else:
            stop = middle
    return (labels.mentioned(" ".join(words[start:])) or found)[-1]


def attributes_named(rows: Sequence[Prediction]) -> AttributesNamed:
    """Share of the annotated attribute values (text and lists of text) that occur in the thinking as whole words.

    Rows without thinking or attributes are left out; n counts attribute values, and those of one row are one cluster. It measures
    recall: a text that names every possible value would score 1.
    """
    named: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for row in rows:
        if not row.get("think"):
            continue
        text = _fold(row["think"])
        for key, value in (row.get("attributes") or {}).items():
            values = value if isinstance(value, list) else [value]
            for item in {_fold(item) for item in values if isinstance(item, str) and item.strip()}:
                if key not in _NOT_ATTRIBUTES and item:
                    said = re.search(rf"(?<!\w){re.escape(item)}(?!\w)", text) is not None
                    named[key].append((said, _row_cluster(row)))
    by_key = {key: _of_pairs(named[key]) for key in sorted(named)}
    return AttributesNamed(**vars(_of_pairs([pair for pairs in named.values() for pair in pairs])), by_attribute=by_key)


def _of_pairs(pairs: Sequence[tuple[bool, str]]) -> Rate:
    return clustered_rate([said for said, _ in pairs], [name for _, name in pairs])


def _row_cluster(row: Prediction) -> str:
    """What holds several values of one row together."""
    return cluster(row) or f"row {row['id']}"


def _per_class(
    gold: list[str], answers: list[str], names: list[str], counts: Any, clusters: Sequence[str]
) -> dict[str, ClassScores]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(gold, answers, labels=names, zero_division=0)
    table = {}
    for index, name in enumerate(names):
        precision, recall, f1 = (column[index].item() for column in columns[:3])
        support, predicted = int(counts[index].sum()), int(counts[:, index].sum())
        own = [place for place, label in enumerate(gold) if label == name]
        found = clustered_rate([answers[place] == name for place in own], [clusters[place] for place in own])
        table[name] = ClassScores(
            precision=precision if support or predicted else None,
            recall_value=recall if support else None,
            recall_low=found.low,
            recall_high=found.high,
            f1=f1 if support else None,
            support=support,
            predicted=predicted,
        )
    return table


def _averages(gold: list[str], answers: list[str], with_rows: list[str], kind: str) -> Averages:
    from sklearn.metrics import precision_recall_fscore_support

    found = precision_recall_fscore_support(gold, answers, labels=with_rows, average=kind, zero_division=0)
    precision, recall, f1 = map(float, found[:3])
    return Averages(precision, recall, f1, support=len(gold))


def _macro_draws(gold: list[str], answers: list[str], names: list[str], clusters: Sequence[str]) -> tuple[Any, Any]:
    """Macro-F1 and macro recall (balanced accuracy) of every draw of a bootstrap. A class that a draw lost leaves its mean."""
    import numpy as np

    place = {name: index for index, name in enumerate(names)}
    # The last one stands for no label.
    one_hot = np.eye(len(names) + 1, dtype=np.int8)[:, :-1]
    wanted = one_hot[[place[name] for name in gold]]
    said = one_hot[[place.get(name, len(names)) for name in answers]]
    sums = bootstrap_sums(np.hstack([wanted, said, wanted * said]), clusters)
    support, predicted, hits = np.split(sums, 3, axis=1)
    present = support > 0
    f1 = np.where(present, 2 * hits / np.maximum(support + predicted, 1), 0).sum(axis=1) / present.sum(axis=1)
    recall = np.where(present, hits / np.maximum(support, 1), 0).sum(axis=1) / present.sum(axis=1)
    return f1, recall


def _baselines(gold: list[str], classes: int) -> Baselines:
    """What knowing nothing about the picture earns: the commonest gold label always, and a fair die."""
    support = Counter(gold)
    label = min(support, key=lambda name: (-support[name], name))
    share = support[label] / len(gold)
    return Baselines(Majority(label, share, 2 * share / (1 + share) / len(support)), FairGuess(1 / classes))


def _sampled(rows: list[Prediction]) -> Sampled | None:
    """Format rate and accuracy at temperature 1, with rows (not samples) as the unit of the interval."""
    if not rows:
        return None
    ids = [_row_cluster(row) for row in rows]
    return Sampled(
        n=len(rows),
        rows=len({row["id"] for row in rows}),
        format=clustered_rate([well_formed(row) for row in rows], ids),
        accuracy=clustered_rate([right(row) for row in rows], ids),
        reasons=_reasons(rows),
        exact_trace=exact_trace(rows, _row_cluster),
    )


def well_formed(row: Prediction) -> bool:
    """Check whether the grammar holds (think), or whether the text states one answer (direct, which has no other form)."""
    if row["label"] is not None or row["style"] != "think":
        return row["label"] is not None
    if row.get("mode") in TWO_STEPS:
        # A reasoner over text is asked for a line with its answer, not for the grammar.
        return row.get("reason") not in REASONS
    # Its judge may give the grammar's reasons too: "A or C" inside of the tags states several answers.
    return row.get("think") is not None


def _reasons(rows: Sequence[Prediction]) -> dict[str, int]:
    found = Counter(row.get("reason") or "unknown" for row in rows if row["label"] is None)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _unknown_answer(rows: Sequence[Prediction]) -> UnknownAnswer | None:
    """The commonest answer that is none of the labels, with the gold label it is given for."""
    found: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.get("reason") == "not_a_label":
            text = row.get("completion") or ""
            parsed = parse(text)
            said = parsed.answer if isinstance(parsed, Response) else text.strip()
            found[said[:SHOWN], str(row["gold"])] += 1
    if not found:
        return None
    answer, gold = min(found, key=lambda one: (-found[one], one))
    return UnknownAnswer(answer, gold, found[answer, gold])


def _most(values: Iterable[str]) -> tuple[str | None, Repetition]:
    """The commonest value, its share of all values, and how many different ones there are."""
    found = Counter(values)
    value = min(found, key=lambda item: (-found[item], item), default=None)
    return value, Repetition(None if value is None else found[value] / found.total(), found.total(), len(found))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _fold(text: str) -> str:
    """Casefolded text with `_`, `-` and white space folded to one space."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
