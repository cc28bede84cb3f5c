"""Files of what to observe: by id before question, counted against the rows, refused with every reason."""

from __future__ import annotations

import json

import pytest

from pipeline.data.contents import read_contents
from pipeline.errors import UserError

ROWS = [("0", "How many?"), ("1", "What  colour?\n"), ("2", "How many?")]


def test_an_id_goes_before_a_question_and_texts_become_one_line(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"0": "cups\n on the table.", "How many?": "things", "What colour?": "hues"}))
    found = read_contents("contents", str(file))
    assert [found.find(*row) for row in ROWS] == ["cups on the table", "hues", "things"]
    assert found.find("3", "Where?") is None


def test_lines_hold_an_id_or_a_question(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 0, "text": "cups"}\n\n{"question": "What colour?", "text": "hues"}\n')
    found = read_contents("contents", str(file))
    assert [found.find(*row) for row in ROWS] == ["cups", "hues", None]


def test_rows_without_an_entry_are_refused_and_idle_entries_counted(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"0": "cups", "9": "dogs", "What colour?": "hues"}))
    counted = read_contents("contents", str(file)).count(ROWS)
    assert (counted.rows, counted.missing, counted.entries, counted.unused) == (3, ("2",), 3, 1)
    assert counted.problem("c").startswith("c: 1 of 3 rows have no entry, neither by id nor by question (first: 2)")
    whole = read_contents("contents", str(file)).count(ROWS[:2])
    assert whole.problem("c") is None
    assert str(whole) == "what to observe is given for all 2 rows; 1 of its 3 entries belong to none of them"


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.json", "[1, 2]", ["is not read (it is no object)"]),
        ("a.json", '{"0": "a"', ["is not read"]),
        ("a.jsonl", '{"id": 1}\n', ["is not read ('text')"]),
        ("a.json", "{}", ["holds no entry"]),
        ("a.json", '{"0": "", "1": "<image> b", "2": "c", "2": "d"}', ["entry '0' says nothing", "'<image>'", "twice"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told_at_once(tmp_path, name, text, parts):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as raised:
        read_contents("cot.contents", str(tmp_path / name))
    said = "\n".join(raised.value.problems)
    assert all(part in said for part in parts)
    assert len(raised.value.problems) == len(parts)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="is no file"):
        read_contents("cot.contents", str(tmp_path / "none.json"))
