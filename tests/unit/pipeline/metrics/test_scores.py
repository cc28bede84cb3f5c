"""Typed scores: what they read of the mapping that a report's files hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.metrics.classification import score
from pipeline.metrics.scores import Rate, Scores
from pipeline.scoring.labels import LabelSet


def row(number: int, label: str | None, **more: Any) -> dict[str, Any]:
    gold = "ab"[number % 2]
    plain = {"id": f"r{number}", "gold": gold, "label": label, "correct": label == gold, "style": "direct"}
    return {**plain, "decoding": "greedy", "completion": str(label), "reason": None if label else "empty", **more}


def stored(labels: LabelSet | None, sampled: bool) -> dict[str, Any]:
    """Scores as they come back from a file."""
    rows = [row(n, "ab"[n % 2] if n % 3 else None) for n in range(12)]
    rows += [{**one, "decoding": "sample"} for one in rows] if sampled else []
    found: dict[str, Any] = json.loads(json.dumps(score(rows, labels)))
    return found


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("labels", [LabelSet.of(["a", "b"]), None])
def test_every_figure_is_the_file_s(labels: LabelSet | None, sampled: bool) -> None:
    file = stored(labels, sampled)
    found = Scores.of(file)
    assert (found.n, found.unparsable) == (12, 4)
    assert found.accuracy == Rate(file["accuracy"]["value"], file["accuracy"]["low"], file["accuracy"]["high"])
    assert (found.format_sampled is None) == (found.accuracy_sampled is None) == (not sampled)
    if labels is None:
        assert found.macro_f1 is found.balanced is None
        return
    assert found.macro_f1 is not None
    macro = file["macro avg"]
    assert list(found.macro_f1.cell().values()) == [macro["f1-score"], macro["f1-score_low"], macro["f1-score_high"]]
    assert found.balanced is not None
    assert found.balanced.value == macro["recall"]


def test_a_rate_reads_as_people_write_it() -> None:
    assert str(Rate(0.5, 0.25, 0.75)) == "50.0 [25.0, 75.0]"
    assert str(Rate(None, None, None)) == "– [–, –]"
    assert Rate.of(None) is None
