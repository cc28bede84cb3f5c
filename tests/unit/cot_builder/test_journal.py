"""The journal: what it holds survives damage, what changes the reply changes the key, other journals can be taken over."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from cot_builder.journal import Journal
from cot_builder.teachers import Reply, Request
from pipeline.errors import UserError


def request(number: int) -> Request:
    return Request.of({"text": f"question {number}", "padding": "x" * 500})


def fill(folder, numbers) -> None:
    with Journal(folder) as journal:
        for number in numbers:
            journal.add(request(number), Reply(f"reply {number}"), row_id=str(number), teacher="t", attempt=0)


def held(folder, numbers) -> set[int]:
    with Journal(folder) as journal:
        return {number for number in numbers if journal.find(request(number).key) == Reply(f"reply {number}")}


def test_what_is_recorded_is_found_by_its_key_alone(tmp_path):
    fill(tmp_path, range(5))
    assert held(tmp_path, range(9)) == set(range(5))


def test_nothing_is_recorded_twice(tmp_path):
    fill(tmp_path, [1])
    with pytest.raises(sqlite3.IntegrityError):
        fill(tmp_path, [1])


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.999])
def test_a_torn_tail_of_the_log_loses_only_what_was_in_it(tmp_path, cut):
    """As after a power cut: the write-ahead log ends in the middle of a page."""
    code = (
        "import os, sys; sys.path[:0] = [os.getcwd(), 'tests/unit/cot_builder']\n"
        "from pathlib import Path; import test_journal as t\n"
        "journal = t.Journal(Path(sys.argv[1]))\n"
        "for n in range(200): journal.add(t.request(n), t.Reply(f'reply {n}'), row_id=str(n), teacher='t', attempt=0)\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    log = tmp_path / "replies.sqlite-wal"
    os.truncate(log, int(log.stat().st_size * cut))
    kept = held(tmp_path, range(200))
    assert kept == set(range(len(kept)))
    assert len(kept) >= 200 * cut * 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_is_moved_aside_and_what_it_still_gives_is_kept(tmp_path, seed, capsys):
    fill(tmp_path, range(300))
    path = tmp_path / "replies.sqlite"
    raw = bytearray(path.read_bytes())
    page = random.Random(seed).randrange(10, len(raw) // 4096 - 5) * 4096
    raw[page : page + 4096] = os.urandom(4096)
    path.write_bytes(raw)
    kept = held(tmp_path, range(300))
    said = capsys.readouterr().err
    assert 250 <= len(kept) < 300 or (len(kept) == 300 and "index" in said.lower())
    assert f"{len(kept)} replies were read from it and are kept" in said
    assert list(tmp_path.glob("replies.damaged-*.sqlite"))
    fill(tmp_path, set(range(300)) - kept)
    assert held(tmp_path, range(300)) == set(range(300))


def test_a_cut_off_file_is_salvaged_too(tmp_path, capsys):
    fill(tmp_path, range(300))
    path = tmp_path / "replies.sqlite"
    os.truncate(path, path.stat().st_size // 2)
    assert held(tmp_path, range(300)) <= set(range(300))
    assert "was damaged" in capsys.readouterr().err


def test_a_file_that_is_no_journal_is_moved_aside_not_deleted(tmp_path, capsys):
    (tmp_path / "replies.sqlite").write_text("notes of mine " * 400)
    assert held(tmp_path, range(3)) == set()
    assert "0 replies were read from it" in capsys.readouterr().err
    assert next(tmp_path.glob("replies.damaged-*.sqlite")).read_text().startswith("notes of mine")


def test_another_journals_replies_are_taken_over_once(tmp_path):
    fill(tmp_path / "a", range(6))
    fill(tmp_path / "b", range(4, 10))
    with Journal(tmp_path / "a") as journal:
        assert journal.take_over(tmp_path / "b" / "replies.sqlite") == 4
        assert journal.take_over(tmp_path / "b" / "replies.sqlite") == 0
        assert len(journal) == 10


def test_a_journal_that_cannot_be_read_takes_nothing_over(tmp_path):
    fill(tmp_path / "a", range(3))
    (tmp_path / "bad.sqlite").write_bytes(b"x" * 9000)
    with Journal(tmp_path / "a") as journal:
        with pytest.raises(UserError, match="cannot be taken over"):
            journal.take_over(tmp_path / "bad.sqlite")
        assert len(journal) == 3


def test_replies_from_elsewhere_need_a_request_that_was_exported(tmp_path):
    with Journal(tmp_path) as journal:
        journal.export(request(1), row_id="1", teacher="t", attempt=0)
        counts = journal.take_in([(request(1).key, Reply("one")), (request(2).key, Reply("two"))])
        assert counts == {"new": 1, "known": 0, "unknown": 1}
        assert journal.find(request(1).key) == Reply("one")
        assert journal.take_in([(request(1).key, Reply("another"))]) == {"new": 0, "known": 1, "unknown": 0}
        assert journal.find(request(1).key) == Reply("one")  # The first reply stands.


def test_a_copy_of_the_folder_is_a_journal_like_the_first(tmp_path):
    fill(tmp_path / "a", range(5))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert held(tmp_path / "b", range(5)) == set(range(5))
