"""What a build counts, balances, and refuses to call complete."""

from __future__ import annotations

import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from scripted import Scripted, speak, think

from cot_builder.__main__ import main
from cot_builder.row import Outcome, Tried

WORDS = (  # noqa: SIM905
    "peak lake tree road wall roof door lamp bird boat sail hill rock path gate wind rain snow leaf field tower bridge "
    "river cloud fence garden window table chair bottle basket ladder candle mirror curtain carpet blanket pillow kettle "
    "wheel barrel anchor lantern compass hammer saddle bucket shovel feather pebble"
).split()


def story(question) -> str:
    """Reasoning that no other row has."""
    picked = random.Random(f"{question.row.id}:{question.attempt}").sample(WORDS, 8)
    return f"It shows a {' and a '.join(picked)}."


class Built:
    """A scripted build and the files it left."""

    def __init__(self, folder, monkeypatch, say, **options):
        speak(monkeypatch, say)
        self.scripted = Scripted(folder, **options)
        self.cot = folder / "runs" / "scripted" / "cot"

    def run(self, *words: str) -> int:
        return main(["build", "--config", str(self.scripted.config), *words])

    @property
    def rows(self):
        return pq.read_table(self.cot / "train.parquet").to_pylist()

    @property
    def rejected(self):
        return [json.loads(line) for line in (self.cot / "rejected.jsonl").read_text().splitlines()]

    @property
    def manifest(self):
        return json.loads((self.cot / "manifest.json").read_text())


def test_yields_per_class_reason_mode_and_teacher_add_up(tmp_path, monkeypatch):
    def say(name, question):
        if question.row.gold == "awe" and question.mode == "answer_hidden":
            return "no idea"
        return think("fear" if question.row.gold == "anger" else question.row.gold, story(question))

    built = Built(
        tmp_path, monkeypatch, say, teachers=2, rows=80, fallback="answer_given_v1", min_rows_per_class=0,
        filters={"near_duplicate": None},
    )  # fmt: skip
    assert built.run() == 0
    manifest, rows = built.manifest, built.rows
    awe, anger = manifest["per_class"]["awe"], manifest["per_class"]["anger"]
    assert awe["modes"] == {"answer_given": awe["kept"]}
    assert awe["kept"] > 0
    assert anger["kept"] == 0
    assert sum(anger["rejected"].values()) > 0
    assert manifest["kept_rows_by_mode"] == dict(Counter(row["mode"] for row in rows).most_common())
    for label, counts in manifest["per_class"].items():
        mine = [row for row in rows if row["label"] == label]
        assert counts["kept"] == len(mine)
        assert counts["teachers"] == dict(
            sorted(Counter(row["teacher"] for row in mine).items(), key=lambda x: (-x[1], x[0]))
        )
    assert manifest["rejected_replies_by_reason"] == dict(
        Counter(each["reason"] for each in built.rejected).most_common()
    )
    assert manifest["rows"]["kept"] + manifest["rows"]["rejected"] == 80
    for counts in manifest["per_teacher"].values():
        assert counts["prompt_tokens"] == 100 * counts["replies"]


def test_a_class_without_rows_fails_the_build_loudly(tmp_path, monkeypatch, capsys):
    built = Built(tmp_path, monkeypatch, lambda _, q: think("awe", story(q)), rows=80)
    assert built.run() == 2
    said = capsys.readouterr().err
    assert "class fear has 0 kept rows, fewer than cot.min_rows_per_class = 1" in said
    assert "class awe" not in said
    assert built.manifest["status"] == "incomplete"
    assert not (built.cot / "train.parquet").exists()
    assert built.run("cot.min_rows_per_class=0") == 0


def test_balancing_keeps_the_first_rows_of_a_class_and_counts_the_others(tmp_path, monkeypatch):
    def say(_, question):
        rare = question.row.gold == "fear" and not question.row.id.endswith(("0", "3", "7"))
        return "nothing" if rare else think(question.row.gold, story(question))

    plain = Built(tmp_path / "plain", monkeypatch, say, rows=160)
    (tmp_path / "even").mkdir()
    assert plain.run() == 0
    even = Built(tmp_path / "even", monkeypatch, say, rows=160, balance=1.5)
    assert even.run() == 0
    before, after = (Counter(row["label"] for row in built.rows) for built in (plain, even))
    limit = int(1.5 * min(before.values()))
    assert after == {label: min(count, limit) for label, count in before.items()}
    dropped = [each for each in even.rejected if each["reason"] == "balanced_out"]
    assert len(dropped) == before.total() - after.total() > 0
    order = [row["id"] for row in plain.rows]
    assert [row["id"] for row in even.rows] == [i for i in order if i in {row["id"] for row in even.rows}]
    assert even.manifest["rows"]["kept"] == after.total()
    assert sum(counts["kept"] for counts in even.manifest["per_teacher"].values()) == after.total()
    reasons = Counter(each["reason"] for each in even.rejected)
    assert even.manifest["rejected_replies_by_reason"] == dict(reasons)
    assert sum(counts["rejected"] for counts in even.manifest["per_teacher"].values()) == reasons.total()


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "plain").mkdir()


def test_a_row_that_repeats_an_earlier_one_is_rejected_as_a_near_duplicate(tmp_path, monkeypatch):
    same = "Tall peaks rise over a still lake under wide skies, and a boat lies by the shore in the evening light."

    def say(_, question):
        return think(question.row.gold, same if int(question.row.id[-1]) % 2 else story(question))

    built = Built(tmp_path, monkeypatch, say, rows=40, min_rows_per_class=0)
    assert built.run() == 0
    repeats = built.manifest["rejected_rows_by_reason"]["near_duplicate"]
    kept = [row for row in built.rows if same in row["think"]]
    # The conclusion, and so the text, differs from class to class.
    assert 1 <= len(kept) <= 8
    assert repeats > 5
    first = built.manifest["requests_this_time"]
    assert built.run("cot.filters.near_duplicate=null") == 0
    assert built.manifest["rows"]["kept"] == built.manifest["rows"]["selected"]
    assert (first, built.manifest["requests_this_time"]) == (40, 0)


def test_changing_a_filter_judges_again_and_asks_nothing(tmp_path, monkeypatch):
    built = Built(tmp_path, monkeypatch, lambda _, q: think(q.row.gold, story(q)), rows=40)
    assert built.run() == 0
    assert built.manifest["requests_this_time"] == 40
    assert built.run("cot.filters.min_words=200", "cot.min_rows_per_class=0") == 2
    assert built.manifest["rejected_rows_by_reason"] == {"too_short": 40}
    assert built.manifest["requests_this_time"] == 0
    assert built.run() == 0
    assert built.manifest["rows"]["kept"] == 40


def test_changing_the_fallback_prompt_asks_only_the_rows_that_fall_back(tmp_path, monkeypatch):
    def say(_, question):
        if question.row.gold == "awe" and question.mode == "answer_hidden":
            return "no idea"
        return think(question.row.gold, story(question))

    built = Built(tmp_path, monkeypatch, say, rows=80, fallback="answer_given_v1")
    assert built.run() == 0
    fell_back = built.manifest["kept_rows_by_mode"]["answer_given"]
    assert built.manifest["requests_this_time"] == 80 + fell_back
    assert built.run("cot.fallback=answer_given_v2") == 0
    assert built.manifest["requests_this_time"] == fell_back


def test_raising_the_attempts_does_not_ask_the_fallback_again(tmp_path, monkeypatch):
    def say(_, question):
        return "no idea" if question.mode == "answer_hidden" else think(question.row.gold, story(question))

    built = Built(tmp_path, monkeypatch, say, rows=40, fallback="answer_given_v1", min_rows_per_class=0)
    assert built.run() == 0
    assert built.manifest["requests_this_time"] == 80
    assert built.run("cot.attempts=2") == 0
    # The second attempts; the fallback is the same request.
    assert built.manifest["requests_this_time"] == 40


def test_what_the_cross_check_costs_is_counted_with_the_teacher_that_reads(tmp_path, monkeypatch):
    def say(_, question):
        return question.row.gold if question.mode.startswith("check") else think(question.row.gold, story(question))

    # For its file b.yaml.
    Scripted(tmp_path, teachers=2)
    reader = {"teacher": str(tmp_path / "b.yaml"), "samples": 2}
    built = Built(tmp_path, monkeypatch, say, cross_check=reader, min_rows_per_class=0)
    assert built.run() == 0
    counts = built.manifest["per_teacher"]
    assert {name: counts[name]["requests"] for name in counts} == {"a": 24, "b": 24 * 4}
    assert {name: counts[name]["prompt_tokens"] for name in counts} == {"a": 2400, "b": 9600}
    assert built.manifest["requests_this_time"] == 24 * 5


def test_the_forecast_of_a_preview_counts_the_cross_check(tmp_path, monkeypatch, capsys):
    def say(_, question):
        return question.row.gold if question.mode.startswith("check") else think(question.row.gold, story(question))

    # For its file b.yaml.
    Scripted(tmp_path, teachers=2)
    built = Built(tmp_path, monkeypatch, say, cross_check={"teacher": str(tmp_path / "b.yaml")}, min_rows_per_class=0)
    assert main(["preview", "--config", str(built.scripted.config), "--rows", "6"]) == 0
    assert "its 24 rows come to about 7,200 in and 1,440 out" in capsys.readouterr().out


def test_a_recipes_own_reason_counts_like_the_others():
    tried = [Tried("t", "own", number, None, "", reason) for number, reason in enumerate(["too_short", "own_reason"])]
    assert Outcome(None, tuple(tried)).reason == "own_reason"


def test_votes_and_scores_are_columns_that_datasets_reads(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def say(name, question):
        return question.row.gold if question.mode.startswith("check") else think(question.row.gold, story(question))

    built = Built(tmp_path, monkeypatch, say, teachers=2, teachers_per_row=2, cross_check={}, rows=40)
    assert built.run() == 0
    loaded = datasets.load_dataset(str(built.cot), cache_dir=str(tmp_path / "cache"))["train"]
    assert {vote["teacher"] for vote in loaded[0]["votes"]} == {"a", "b"}
    assert set(loaded["agreement"]) == set(loaded["check_text"]) == {1.0}
