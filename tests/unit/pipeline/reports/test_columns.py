"""Predictions that another tool wrote: what they must hold, what they may call it, and what is refused, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import __main__
from pipeline.errors import UserError
from pipeline.files import ROOT
from pipeline.reports.columns import COLUMNS, parse_columns
from pipeline.reports.entries import read_folders

PLAIN = [{"id": n, "gold": "cat", "label": "cat" if n else "dog"} for n in range(4)]


def write(folder: Path, rows: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def refusal(folder: Path, rows: list[Any], columns: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as refused:
        read_folders([write(folder, rows)], columns)
    return str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"correct": None, "style": None, "decoding": None, "completion": None},
        {"scores": {"a": [1, 2]}, "model": "other", "style ": "x"},
        {"completion": "a long text", "image": "a.png"},
    ],
)
def test_three_columns_are_enough_and_extra_ones_are_ignored(tmp_path: Path, more: dict[str, Any]) -> None:
    (entry,) = read_folders([write(tmp_path / "one", [row | more for row in PLAIN])])
    assert entry.scores is not None
    assert (entry.scores.n, entry.scores.accuracy.count) == (4, 3)
    # Nobody said whether they were cut.
    assert entry.scores.truncated.value is None
    assert entry.scores.labels == ("cat", "dog")


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    rows = [{"qid": f"q{n}", "answer": "A", "pred": "A" if n % 2 else None, "ok": n % 2} for n in range(6)]
    columns = parse_columns("id=qid, gold=answer,label=pred,correct=ok")
    (entry,) = read_folders([write(tmp_path / "one", rows)], columns)
    assert entry.scores is not None
    assert entry.scores.accuracy.value == 0.5
    assert entry.scores.unparsable.n == 3


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    told = refusal(
        tmp_path / "one", [{"qid": 1, "pred": "A", "truncated": "yes"}, {"qid": 2, "id": 2}], {"gold": "answer"}
    )
    for sign in (
        "1 of 2 rows have no 'id'",
        "first line 1",
        "--columns id=NAME",
        "no row has a column 'answer' (for gold); rows have id, pred, qid, truncated",
        "2 of 2 rows have no 'label'",
        "'truncated' must be bool or null; in 1 rows it is not, first line 1: 'yes'",
    ):
        assert sign in told


@pytest.mark.parametrize(
    ("rows", "sign"),
    [
        ([["a"]], "1 of 1 lines are no JSON objects"),
        ([{**PLAIN[0], "label": ["cat"]}], "'label' must be"),
        ([{**PLAIN[0], "groups": "task"}], "'groups' must be dict or null"),
        ([{**PLAIN[0], "gold": None}], "gold answer is known"),
    ],
)
def test_rows_of_a_wrong_kind_are_refused_with_the_line(tmp_path: Path, rows: list[Any], sign: str) -> None:
    assert sign in refusal(tmp_path / "one", rows)


@pytest.mark.parametrize("score", [0.5, 2, -1.0, float("inf")])
def test_a_score_between_right_and_wrong_is_not_counted_as_right(tmp_path: Path, score: float) -> None:
    told = refusal(tmp_path / "one", [PLAIN[0] | {"correct": 1.0}, PLAIN[1] | {"correct": score}])
    assert f"'correct' must be true or false, 1 or 0; in 1 rows it is not, first line 2: {score}" in told


def test_nan_says_that_there_is_no_value(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("correct", "completion_tokens", "seconds", "logprob", "question"), float("nan"))
    rows = [row | nothing for row in PLAIN] + [{"id": 9, "gold": "cat", "label": float("nan")}]
    (entry,) = read_folders([write(tmp_path / "one", rows)])
    assert entry.scores is not None
    assert (entry.scores.n, entry.scores.accuracy.count, entry.scores.unparsable.n) == (5, 3, 1)
    assert entry.scores.labels == ("cat", "dog")
    assert (entry.scores.completion_tokens, entry.scores.calibration) == (None, None)


def test_a_last_line_without_a_newline_counts_and_half_of_one_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "one", PLAIN) / "predictions.jsonl"
    whole = path.read_text()
    for text, number in ((whole[:-1], 4), (whole[:-2], 3), (whole, 4)):
        path.write_text(text)
        (entry,) = read_folders([path.parent])
        assert len(entry.greedy) == number


def test_half_a_character_of_a_name_or_an_answer_does_not_end_a_report(tmp_path: Path) -> None:
    rows = [
        {"id": f"caf\udce9{n}", "gold": "\ud83d", "label": "\ud83d", "reason": "\udc00", "groups": {"\ud800": "\udfff"}}
        for n in range(3)
    ]
    folder = write(tmp_path / "one", rows)
    assert __main__.main(["report", str(folder)]) == 0
    # They stay apart, as no replacement for what cannot be written would leave them.
    assert "caf\\\\udce90" in (folder / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("gold", "label", "sign"),
    [
        (["Cat", "dog"], "cat", "'cat' would mean both 'Cat' and 'cat'; write each class in one spelling"),
        (["!", "?"], "?", "'!' is empty after normalisation"),
        (["(unparsable)", "b"], "b", "null says that there is none"),
    ],
)
def test_answers_that_cannot_be_classes_are_refused_in_a_line(
    tmp_path: Path, gold: list[str], label: str, sign: str
) -> None:
    told = refusal(tmp_path / "one", [{"id": n, "gold": one, "label": label} for n, one in enumerate(gold)])
    assert sign in told
    assert "task.labels" not in told


def test_an_empty_label_is_an_answer_that_could_not_be_read(tmp_path: Path) -> None:
    (entry,) = read_folders([write(tmp_path / "one", [PLAIN[0], PLAIN[1] | {"label": ""}, PLAIN[2] | {"label": " "}])])
    assert entry.scores is not None
    assert (entry.scores.unparsable.n, entry.scores.labels) == (2, ("cat", "dog"))


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", PLAIN)
    (folder / "predictions.jsonl").write_text('{"id": 1\n' + (folder / "predictions.jsonl").read_text())
    with pytest.raises(UserError, match=r"predictions\.jsonl:1: not JSON"):
        read_folders([folder])


def test_a_map_that_cannot_be_meant_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as refused:
        parse_columns("label,pred=label,gold=")
    assert len(refused.value.problems) == 3
    with pytest.raises(UserError, match="--columns goes with folders"):
        __main__.main(["report", "--columns", "label=pred"])
    rows = [{"id": n, "truth": "x", "label": "x"} for n in range(2)]
    assert __main__.main(["report", str(write(tmp_path / "one", rows)), "--columns", "gold=truth"]) == 0
    assert "index.html" in capsys.readouterr().out


def test_the_guide_lists_every_column() -> None:
    guide = (ROOT / "docs" / "reports.md").read_text()
    lines = [f"| `{column.name}` | {column.meaning} | {column.otherwise or '**required**'} |" for column in COLUMNS]
    assert "\n".join(lines) in guide
