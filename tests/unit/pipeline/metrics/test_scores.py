"""Typed scores and the JSON that files hold of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.metrics.classification import score
from pipeline.metrics.scores import Balanced, MostAnswered, Rate, Repetition, Scores
from pipeline.metrics.stored import from_json, to_json
from pipeline.scoring.labels import LabelSet


def row(number: int, label: str | None, **more: Any) -> dict[str, Any]:
    gold = "ab"[number % 2]
    plain = {"id": f"r{number}", "gold": gold, "label": label, "correct": label == gold, "style": "direct"}
    return {**plain, "decoding": "greedy", "completion": str(label), "reason": None if label else "empty", **more}


def scored(labels: LabelSet | None, **more: Any) -> Scores:
    rows = [row(n, "ab"[n % 2] if n % 3 else None, think="word " * n, groups={"g": n % 4}, **more) for n in range(30)]
    return score([*rows, *({**one, "decoding": "sample"} for one in rows[:9] if more)], labels)


BOTH = (LabelSet.of(["a", "b"]), None)


@pytest.mark.parametrize("more", [{}, {"logprob": -0.1, "cluster": "c", "attributes": {"scene": "word"}}])
@pytest.mark.parametrize("labels", BOTH)
def test_scores_come_back_from_their_file(labels: LabelSet | None, more: dict[str, Any]) -> None:
    found = scored(labels, **more)
    file = json.dumps(to_json(found), allow_nan=False)
    assert from_json(Scores, json.loads(file)) == found
    assert json.dumps(to_json(from_json(Scores, json.loads(file)))) == file


@pytest.mark.parametrize("labels", BOTH)
def test_a_file_s_keys_and_their_order_are_those_of_old_ones(labels: LabelSet | None) -> None:
    file = to_json(scored(labels, logprob=-0.1))
    of_all = "n unjudged style labels accuracy chance format parsed unparsable guessed truncated completion_tokens"
    of_all += " seconds_per_row most_answered most_thought groups by_length calibration attributes sample"
    of_labels = ["per_class", "macro avg", "weighted avg", "balanced_accuracy", "baselines", "confusion", "agreement"]
    assert list(file) == of_all.split() + (of_labels if labels else [])
    assert list(file["accuracy"]) == ["value", "low", "high", "count", "n"]
    assert list(file["calibration"]["bins"][0]) == ["from", "to", "confidence", "accuracy"]
    assert list(file["calibration"]["ece"]) == ["value", "low", "high"]
    assert list(file["most_thought"]) == ["share", "n", "distinct"]
    if labels is None:
        return
    macro = ["precision", "recall", "f1-score", "support", "f1-score_low", "f1-score_high", "classes"]
    assert list(file["macro avg"]) == macro
    assert list(file["weighted avg"]) == macro[:4]
    assert list(file["balanced_accuracy"]) == ["value", "low", "high", "chance"]
    assert list(file["agreement"]) == ["value", "low", "high", "count", "n", "silent", "disagree"]
    one = ["precision", "recall", "recall_low", "recall_high", "f1-score", "support", "predicted"]
    assert list(file["per_class"]["a"]) == one


def test_a_value_with_a_default_is_left_out_and_none_without_one_is_kept() -> None:
    assert to_json(Rate(None, None, None)) == {"value": None, "low": None, "high": None}
    assert to_json(MostAnswered(None, Repetition(None, 0, 0))) == {"value": None, "share": None, "n": 0, "distinct": 0}


def test_a_file_without_a_key_reads_where_none_may_be_and_is_refused_where_not() -> None:
    file = to_json(scored(None))
    del file["seconds_per_row"]
    assert from_json(Scores, file).seconds_per_row is None
    del file["accuracy"], file["n"]
    with pytest.raises(ValueError, match="no n, accuracy where Scores should be"):
        from_json(Scores, file)


def test_a_rate_reads_as_people_write_it() -> None:
    assert str(Rate(0.5, 0.25, 0.75)) == "50.0 [25.0, 75.0]"
    assert str(Rate(None, None, None)) == "– [–, –]"
    assert str(Balanced(0.5, 0.25, 0.75, chance=0.5)) == "50.0 [25.0, 75.0]"
