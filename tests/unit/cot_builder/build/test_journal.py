"""The journal: what it holds survives damage, what changes the reply changes the key, other journals can be taken over."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from cot_builder.build.journal import ReplyCache
from cot_builder.teachers.base import Reply, TeacherRequest
from pipeline.errors import UserError


def request(number: int) -> TeacherRequest:
    return TeacherRequest.of({"text": f"question {number}", "padding": "x" * 500})


def fill(folder, numbers) -> None:
    with ReplyCache(folder) as journal:
        for number in numbers:
            journal.add(request(number), Reply(f"reply {number}"), row_id=str(number), teacher="t", attempt=0)


def held(folder, numbers) -> set[int]:
    with ReplyCache(folder) as journal:
        return {number for number in numbers if journal.find(request(number).key) == Reply(f"reply {number}")}


def damage(path, seed) -> None:
    """Overwrite one page with noise."""
    raw = bytearray(path.read_bytes())
    page = random.Random(seed).randrange(10, len(raw) // 4096 - 5) * 4096
    raw[page : page + 4096] = os.urandom(4096)
    path.write_bytes(raw)


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
        "import os, sys; sys.path[:0] = [os.getcwd(), 'tests/unit/cot_builder/build', 'tests/unit/cot_builder']\n"
        "from pathlib import Path; import test_journal as t\n"
        "journal = t.ReplyCache(Path(sys.argv[1]))\n"
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
    damage(tmp_path / "replies.sqlite", seed)
    kept = held(tmp_path, range(300))
    said = capsys.readouterr().err
    assert 250 <= len(kept) < 300 or (len(kept) == 300 and "index" in said.lower())
    assert f"{len(kept)} replies were read from it and are kept" in said
    assert list(tmp_path.glob("replies.damaged-*.sqlite"))
    fill(tmp_path, set(range(300)) - kept)
    assert held(tmp_path, range(300)) == set(range(300))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_batch_that_was_exported_from_a_damaged_file_is_still_taken_in(tmp_path, share):
    fill(tmp_path, range(300))
    exported = [request(number) for number in range(300, 600)]
    with ReplyCache(tmp_path) as journal:
        for each in exported:
            journal.export(each, row_id="row", teacher="t", attempt=0)
    raw = bytearray((tmp_path / "replies.sqlite").read_bytes())
    # One page, among the replies or among the exports.
    page = int(len(raw) * share) // 4096 * 4096
    raw[page : page + 4096] = b"\xff" * 4096
    (tmp_path / "replies.sqlite").write_bytes(raw)
    with ReplyCache(tmp_path) as journal:
        assert list(tmp_path.glob("replies.damaged-*.sqlite"))
        counts = journal.take_in((each.key, Reply("paid for")) for each in exported)
    # All but those of the page, or of the pages that only it led to.
    assert counts["new"] >= 240


@pytest.mark.parametrize(
    "patch",
    [
        "j._readable = lambda path, real=j._readable: (os._exit(9) if n else row for n, row in enumerate(real(path)))",
        "j.os.replace = lambda *_: os._exit(9)",
    ],
    ids=["reading", "moving"],
)
def test_a_build_killed_while_it_salvages_loses_no_more_replies(tmp_path, patch, capsys):
    fill(tmp_path, range(300))
    damage(tmp_path / "replies.sqlite", 0)
    imports = "import os, sys; from pathlib import Path; import cot_builder.build.journal as j"
    code = f"{imports}\n{patch}\nj.ReplyCache(Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    kept = held(tmp_path, range(300))
    assert len(kept) >= 250
    assert f"{len(kept)} replies were read from it and are kept" in capsys.readouterr().err


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
    with ReplyCache(tmp_path / "a") as journal:
        assert journal.take_over(tmp_path / "b" / "replies.sqlite") == 4
        assert journal.take_over(tmp_path / "b" / "replies.sqlite") == 0
        assert len(journal) == 10


def test_a_folder_may_have_any_name(tmp_path):
    odd = tmp_path / "run #1? 100%41"
    fill(odd, range(300))
    with ReplyCache(tmp_path / "a") as journal:
        assert journal.take_over(odd / "replies.sqlite") == 300
    damage(odd / "replies.sqlite", 0)
    assert len(held(odd, range(300))) >= 250


def test_what_was_refused_and_asked_again_replaces_the_refusal_and_never_the_other_way_round(tmp_path):
    refused = Reply("", refused="HTTP 400: too long")
    for folder, number in (("a", 1), ("b", 2)):
        with ReplyCache(tmp_path / folder) as journal:
            journal.add(request(number), refused, row_id=str(number), teacher="t", attempt=0)
    fill(tmp_path / "a", [2])
    fill(tmp_path / "b", [1])
    with ReplyCache(tmp_path / "a") as journal:
        journal.take_over(tmp_path / "b" / "replies.sqlite")
        assert [journal.find(request(number).key) for number in (1, 2)] == [Reply("reply 1"), Reply("reply 2")]
        journal.export(request(3), row_id="3", teacher="t", attempt=0)
        for reply in (refused, Reply("reply 3"), refused):
            journal.take_in([(request(3).key, reply)])
        assert journal.find(request(3).key) == Reply("reply 3")


def test_a_refusal_stands_until_its_request_is_answered_and_then_stays_on_record(tmp_path, monkeypatch):
    refused, again = Reply("", refused="HTTP 400: too long"), {"row_id": "1", "teacher": "t", "attempt": 0}
    with ReplyCache(tmp_path) as journal:
        journal.add(request(1), refused, **again)
        assert journal.ask_refusals_again() == 1
        assert journal.find(request(1).key) is None
        journal.let_refusals_stand()
        assert journal.find(request(1).key) == refused
        journal.ask_refusals_again()
        monkeypatch.setattr("cot_builder.build.journal._INSERT", "(nothing) VALUES (1)")
        with pytest.raises(UserError, match="cannot record a reply"):
            journal.add(request(1), Reply("reply 1"), **again)
        monkeypatch.undo()
        # What comes after a full disk is recorded for itself.
        journal.add(request(2), Reply("reply 2"), **again)
        journal.let_refusals_stand()
        assert journal.find(request(1).key) == refused
        journal.ask_refusals_again()
        journal.add(request(1), Reply("reply 1"), **again)
        assert len(journal) == 3
    assert held(tmp_path, [1, 2]) == {1, 2}


def test_a_disk_without_locks_is_named_as_such(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pipeline.system.locks.fcntl.flock", flock)
    with pytest.raises(UserError, match=r"its file system has no locks \(No locks available\); use a local disk"):
        ReplyCache(tmp_path)


def test_a_journal_that_cannot_be_read_takes_nothing_over(tmp_path):
    fill(tmp_path / "a", range(3))
    (tmp_path / "bad.sqlite").write_bytes(b"x" * 9000)
    with ReplyCache(tmp_path / "a") as journal:
        with pytest.raises(UserError, match="cannot be taken over"):
            journal.take_over(tmp_path / "bad.sqlite")
        assert len(journal) == 3


def test_replies_from_elsewhere_need_a_request_that_was_exported(tmp_path):
    with ReplyCache(tmp_path) as journal:
        journal.export(request(1), row_id="1", teacher="t", attempt=0)
        counts = journal.take_in([(request(1).key, Reply("one")), (request(2).key, Reply("two"))])
        assert counts == {"new": 1, "known": 0, "unknown": 1}
        assert journal.find(request(1).key) == Reply("one")
        assert journal.take_in([(request(1).key, Reply("another"))]) == {"new": 0, "known": 1, "unknown": 0}
        # The first reply stands.
        assert journal.find(request(1).key) == Reply("one")


def test_a_copy_of_the_folder_is_a_journal_like_the_first(tmp_path):
    fill(tmp_path / "a", range(5))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert held(tmp_path / "b", range(5)) == set(range(5))
