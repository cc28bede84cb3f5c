"""The numbers of a report: plain functions from predictions to dicts. No files, no plots, no torch.

Two rules hold everywhere. Every row stays in every denominator: a completion without a label is a wrong answer in its own
column, ``(unparsable)``. Every rate comes with its count, its n and a 95 % interval.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.labels import LabelSet
from pipeline.response import REASONS

Prediction = Mapping[str, Any]
"""One row of predictions.jsonl."""

UNPARSABLE = "(unparsable)"
"""The confusion column of completions that gave no label."""
RESAMPLES = 2000
SEED = 0
_Z = 1.959963984540054  # 97.5 % point of the normal distribution
_NOT_ATTRIBUTES = {"image_id", "emotion"}  # EmoSet's key and label: naming them says nothing about what was seen.


def score(predictions: Iterable[Prediction], labels: LabelSet) -> dict[str, Any]:
    """Every number of one evaluated model in one prompt style.

    Args:
        predictions: rows of one style; ``decoding: greedy`` rows are the headline, ``sample`` rows give ``sample``.
        labels: the closed list of answers; its order is the order of tables and matrices.

    Returns:
        A JSON-ready dict. Rates are ``{"value", "low", "high", "count", "n"}``; undefined values are None.
        Macro averages run over the classes that have rows (a class without any has no recall).

    Raises:
        ValueError: without a greedy row, on mixed styles, or on a gold or predicted label outside `labels`.
    """
    from sklearn.metrics import confusion_matrix

    rows = list(predictions)
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    if not greedy:
        raise ValueError("there is no greedy prediction to score")
    styles = {row["style"] for row in rows}
    if len(styles) > 1:
        raise ValueError(f"predictions of several styles ({', '.join(sorted(styles))}) must be scored apart")
    names = list(labels.names)
    if UNPARSABLE in names:
        raise ValueError(f"{UNPARSABLE!r} is the column of missing answers and cannot be a label")
    gold = [row["gold"] for row in greedy]
    answers = [UNPARSABLE if row["label"] is None else row["label"] for row in greedy]
    strange = sorted((set(gold) - set(names)) | (set(answers) - {*names, UNPARSABLE}))
    if strange:
        raise ValueError(f"labels {strange} are not of the label set {names}")

    counts = confusion_matrix(gold, answers, labels=[*names, UNPARSABLE])[:-1]
    return {
        "n": len(greedy),
        "style": greedy[0]["style"],
        "labels": names,
        "accuracy": rate(int(counts.diagonal().sum()), len(greedy)),
        **_per_class(gold, answers, names, counts),
        "format": rate(sum(well_formed(row) for row in greedy), len(greedy)),
        "parsed": rate(len(greedy) - int(counts[:, -1].sum()), len(greedy)),
        "unparsable": {"n": int(counts[:, -1].sum()), "reasons": _reasons(greedy)},
        "truncated": rate(sum(bool(row.get("truncated")) for row in greedy), len(greedy)),
        "completion_tokens": _mean(
            [row["completion_tokens"] for row in greedy if row.get("completion_tokens") is not None]
        ),
        "baselines": _baselines(gold, len(names)),
        "confusion": {"rows": names, "columns": [*names, UNPARSABLE], "counts": counts.tolist()},
        "most_answered": _most(row["label"] for row in greedy if row["label"] is not None),
        "most_thought": _most((row["think"] for row in greedy if row.get("think")), name_it=False),
        "agreement": agreement(greedy, labels),
        "attributes": attributes_named(greedy),
        "sample": _sampled([row for row in rows if row["decoding"] == "sample"]),
    }


def rate(count: int, n: int) -> dict[str, Any]:
    """A share with its 95 % Wilson interval; all None when n is 0."""
    low, high = wilson(count, n)
    return {"value": count / n if n else None, "low": low, "high": high, "count": count, "n": n}


def wilson(count: int, n: int) -> tuple[float | None, float | None]:
    """95 % Wilson score interval of a share (Wilson 1927); (None, None) when n is 0."""
    if n == 0:
        return None, None
    share, spread = count / n, _Z**2 / n
    centre = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # The bounds at 0 and n are exactly 0 and 1; rounding must not push them past.
    low = 0.0 if count == 0 else (centre - half) / (1 + spread)
    high = 1.0 if count == n else (centre + half) / (1 + spread)
    return low, high


def paired(a: Iterable[Prediction], b: Iterable[Prediction]) -> dict[str, Any]:
    """Accuracy of `a` minus accuracy of `b` on the rows both answered greedily.

    Returns:
        ``n`` common rows, ``only_a`` and ``only_b`` (rows only one got right), ``difference`` with its 95 % paired
        bootstrap interval ``low``/``high``, and ``p`` of McNemar's exact test (two-sided). None where n is 0.
    """
    import numpy as np
    from scipy.stats import binomtest

    right_a, right_b = _right_by_id(a), _right_by_id(b)
    common = right_a.keys() & right_b.keys()
    n = len(common)
    only_a = sum(right_a[i] and not right_b[i] for i in common)
    only_b = sum(right_b[i] and not right_a[i] for i in common)
    if n == 0:
        return {"n": 0, "only_a": 0, "only_b": 0, "difference": None, "low": None, "high": None, "p": None}
    # Resampling rows with replacement is one multinomial draw over the three kinds of row.
    shares = np.array([only_a, only_b, n - only_a - only_b]) / n
    draws = np.random.default_rng(SEED).multinomial(n, shares, size=RESAMPLES)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / n, [2.5, 97.5])
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return {
        "n": n,
        "only_a": only_a,
        "only_b": only_b,
        "difference": (only_a - only_b) / n,
        "low": float(low),
        "high": float(high),
        "p": float(p),
    }


def agreement(rows: Sequence[Prediction], labels: LabelSet) -> dict[str, Any]:
    """How often the last label named in the thinking is the answer, over rows with both.

    ``silent`` counts the rows whose thinking names no label; they stay in n, as neither agreeing nor disagreeing.
    """
    both = [row for row in rows if row["label"] is not None and row.get("think")]
    last = [last_mentioned(row["think"], labels) for row in both]
    agree = sum(name == row["label"] for name, row in zip(last, both, strict=True))
    silent = last.count(None)
    return {**rate(agree, len(both)), "silent": silent, "disagree": len(both) - agree - silent}


def last_mentioned(text: str, labels: LabelSet) -> str | None:
    """The label whose mention comes last in `text`, or None. `LabelSet.mentioned` decides what a mention is."""
    found = labels.mentioned(text)
    if len(found) < 2:
        return found[0] if found else None
    words = text.split()
    start, stop = 0, len(words)  # words[start:] mentions a label, words[stop:] does not
    while stop - start > 1:
        middle = (start + stop) // 2
        if labels.mentioned(" ".join(words[middle:])):
            start = middle
        else:
            stop = middle
    return (labels.mentioned(" ".join(words[start:])) or found)[-1]


def attributes_named(rows: Sequence[Prediction]) -> dict[str, Any]:
    """Share of the annotated attribute values (text and lists of text) that occur in the thinking as whole words.

    Rows without thinking or attributes are left out; n counts attribute values. It measures recall: a text that names
    every possible value would score 1.
    """
    named: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in rows:
        if not row.get("think"):
            continue
        text = _fold(row["think"])
        for key, value in (row.get("attributes") or {}).items():
            values = value if isinstance(value, list) else [value]
            for item in {_fold(item) for item in values if isinstance(item, str) and item.strip()}:
                if key not in _NOT_ATTRIBUTES and item:
                    total[key] += 1
                    named[key] += bool(re.search(rf"(?<!\w){re.escape(item)}(?!\w)", text))
    by_key = {key: rate(named[key], total[key]) for key in sorted(total)}
    return {**rate(named.total(), total.total()), "by_attribute": by_key}


def _per_class(gold: list[str], answers: list[str], names: list[str], counts: Any) -> dict[str, Any]:
    """The per-class table, its averages and the balanced view."""
    from sklearn.metrics import precision_recall_fscore_support

    with_rows = [name for name in names if name in set(gold)]
    columns = precision_recall_fscore_support(gold, answers, labels=names, zero_division=0)
    table: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        precision, recall, f1 = (column[index].item() for column in columns[:3])
        support = int(counts[index].sum())
        low, high = wilson(int(counts[index, index]), support)
        table[name] = {
            "precision": precision if support or counts[:, index].sum() else None,
            "recall": recall if support else None,
            "recall_low": low,
            "recall_high": high,
            "f1-score": f1 if support else None,
            "support": support,
            "predicted": int(counts[:, index].sum()),
        }
    averages = {}
    for kind in ("macro", "weighted"):
        values = precision_recall_fscore_support(gold, answers, labels=with_rows, average=kind, zero_division=0)[:3]
        averages[f"{kind} avg"] = {
            **{key: float(value) for key, value in zip(("precision", "recall", "f1-score"), values, strict=True)},
            "support": len(gold),
        }
    f1_interval, recall_interval = _bootstrap(counts)
    averages["macro avg"] |= {
        "f1-score_low": f1_interval[0],
        "f1-score_high": f1_interval[1],
        "classes": len(with_rows),
    }
    balanced = {
        "value": averages["macro avg"]["recall"],
        "low": recall_interval[0],
        "high": recall_interval[1],
        "chance": 1 / len(names),
    }
    return {"per_class": table, **averages, "balanced_accuracy": balanced}


def _bootstrap(counts: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % percentile intervals of macro-F1 and of macro recall (balanced accuracy).

    Resampling n rows with replacement is the same as one multinomial draw over the confusion cells, so all resamples
    are one vectorised draw of shape (RESAMPLES, classes, classes + 1). A class that a resample lost leaves its mean.
    """
    import numpy as np

    n = int(counts.sum())
    draws = np.random.default_rng(SEED).multinomial(n, counts.ravel() / n, size=RESAMPLES).reshape(-1, *counts.shape)
    right = draws.diagonal(axis1=1, axis2=2)
    support, predicted = draws.sum(axis=2), draws.sum(axis=1)[:, :-1]
    present = support > 0
    f1 = np.where(present, 2 * right / np.maximum(support + predicted, 1), 0).sum(axis=1) / present.sum(axis=1)
    recall = np.where(present, right / np.maximum(support, 1), 0).sum(axis=1) / present.sum(axis=1)
    intervals = [np.percentile(values, [2.5, 97.5]).tolist() for values in (f1, recall)]
    return (intervals[0][0], intervals[0][1]), (intervals[1][0], intervals[1][1])


def _baselines(gold: list[str], classes: int) -> dict[str, Any]:
    """What knowing nothing about the picture earns: the commonest gold label always, and a fair die."""
    support = Counter(gold)
    label = min(support, key=lambda name: (-support[name], name))
    share = support[label] / len(gold)
    return {
        "majority": {"label": label, "accuracy": share, "macro_f1": 2 * share / (1 + share) / len(support)},
        "chance": {"accuracy": 1 / classes},
    }


def _sampled(rows: list[Prediction]) -> dict[str, Any] | None:
    """Format rate and accuracy at temperature 1, with rows (not samples) as the unit of the interval."""
    if not rows:
        return None
    formed: dict[str, list[bool]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        formed[row["id"]].append(well_formed(row))
        right[row["id"]].append(row["label"] == row["gold"])
    return {
        "n": len(rows),
        "rows": len(formed),
        "format": _rate_over_rows(formed),
        "accuracy": _rate_over_rows(right),
        "reasons": _reasons(rows),
    }


def _rate_over_rows(values: Mapping[str, list[bool]]) -> dict[str, Any]:
    """Mean over rows of each row's share; Wilson with one sample per row, bootstrap over rows with several."""
    import numpy as np

    count, n = sum(map(sum, values.values())), len(values)
    if all(len(samples) == 1 for samples in values.values()):
        return rate(count, n)
    shares, weights = np.unique([sum(samples) / len(samples) for samples in values.values()], return_counts=True)
    draws = np.random.default_rng(SEED).multinomial(n, weights / n, size=RESAMPLES) @ shares / n
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return {"value": float(shares @ weights / n), "low": low, "high": high, "count": count, "n": n}


def _right_by_id(rows: Iterable[Prediction]) -> dict[str, bool]:
    return {row["id"]: row["label"] == row["gold"] for row in rows if row["decoding"] == "greedy"}


def well_formed(row: Prediction) -> bool:
    """Whether the grammar holds (think), or whether the whole text is one label (direct, which has no other form)."""
    return row["label"] is not None or (row["style"] == "think" and row.get("reason") not in REASONS)


def _reasons(rows: Sequence[Prediction]) -> dict[str, int]:
    found = Counter(row.get("reason") or "unknown" for row in rows if row["label"] is None)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _most(values: Iterable[str], name_it: bool = True) -> dict[str, Any]:
    """The commonest value (unless it is free text), its share of all values, and how many different ones there are."""
    found = Counter(values)
    value = min(found, key=lambda item: (-found[item], item), default=None)
    share = found[value] / found.total() if value is not None else None
    return {**({"value": value} if name_it else {}), "share": share, "n": found.total(), "distinct": len(found)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _fold(text: str) -> str:
    """Casefolded text with `_`, `-` and white space folded to one space."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
