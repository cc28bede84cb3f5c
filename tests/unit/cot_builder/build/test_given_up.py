"""A row at which a server fails while it answers others is given up with a reason and a name, and asked again when told to."""

from __future__ import annotations

import json
import threading

import pytest
from fault_server import stub_reply

QUICK = {"timeout": 10.0, "retries": 1, "patience": 20.0}
HTML = (500, b"<html><h1>Internal Server Error</h1></html>")


@pytest.fixture(autouse=True)
def no_long_rests(monkeypatch):
    monkeypatch.setattr("cot_builder.teachers.endpoints._FIRST_PAUSE", 0.02)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def cursed(fault, *numbers):
    """A fault of the requests that came first as these numbers, whenever they are sent again."""
    seeds: list[int] = []
    lock = threading.Lock()

    def of(n, seed):
        # A question whether the server works may come between them; those are numbered from 1, and rows' seeds are hashes.
        if seed < 1000:
            return None
        with lock:
            if seed not in seeds:
                seeds.append(seed)
        return fault if seeds.index(seed) in numbers else None

    return of


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "server_error"),
        ("502", "server_error"),
        (HTML, "server_error"),
        ("garbage", "server_error"),
        ("shape", "server_error"),
        ((200, {"error": {"message": "the image encoder crashed", "code": 500}}), "server_error"),
        ("403", "moderated"),
        ("451", "moderated"),
        ("hang", "no_reply"),
        ("reset", "no_reply"),
        ("truncate", "no_reply"),
    ],
)
def test_a_row_that_is_never_answered_is_given_up_named_and_asked_again_on_request(
    project, serve, capsys, fault, reason
):
    # The first, when nothing was answered yet, and the last, when all others are.
    stub = serve(fault=cursed(fault, 0, 39))
    project.ask(stub, teacher={**QUICK, "timeout": 1.0 if fault == "hang" else 10.0})
    assert project.build() == 0
    manifest, rejected = project.manifest(), lines(project.cot / "rejected.jsonl")
    given_up = [row["id"] for row in rejected if row["reason"] == reason]
    assert len(given_up) == 2
    assert manifest["given_up"] == {reason: {"rows": 2, "first": given_up[0]}}
    assert manifest["rejected_rows_by_reason"][reason] == 2
    said = capsys.readouterr().err
    assert f"2 rows were given up as {reason} (first: {given_up[0]})" in said
    assert "--retry" in said
    asked = len(stub.requests)
    # Nothing is asked again by itself.
    assert project.build() == 0
    assert len(stub.requests) == asked
    stub.fault = lambda n, seed: None
    assert project.build("--retry") == 0
    assert len(stub.requests) == asked + 2
    assert project.manifest()["given_up"] == {}


def test_rows_left_by_an_earlier_build_do_not_stop_the_teacher_when_they_are_denied(project, serve):
    stub = serve(fault=cursed("403", 7, 21))
    project.ask(stub, teacher=QUICK)
    assert project.build() == 0
    # Only these two are asked, and both are denied.
    assert project.build("--retry") == 0
    assert project.manifest()["rejected_rows_by_reason"]["moderated"] == 2


def test_many_rows_that_are_refused_again_do_not_stop_a_teacher_that_answers_others(project, serve):
    stub = serve(fault=lambda n, seed: "400" if n >= 10 else None)
    project.ask(stub, rows=50)
    assert project.build() == 0
    asked = len(stub.requests)
    answered = {body["seed"] for body in stub.requests[:10]}
    stub.fault = lambda n, seed: None if seed in answered else "400"
    assert project.build("--retry") == 0
    assert project.manifest()["rejected_rows_by_reason"]["request_refused"] == 40
    # Each once, and once what it had answered before.
    assert len(stub.requests) == asked + 41
    # A server that is set up wrongly refuses that as well.
    stub.fault = lambda n, seed: "400"
    assert project.build("--retry") == 3
    assert "refuses every request" in project.manifest()["teachers_down"][0]


def test_a_retry_whose_first_rows_are_all_refused_again_tells_by_the_later_ones_that_the_teacher_answers(
    project, serve
):
    stub = serve(fault=lambda n, seed: "400")
    project.ask(stub, rows=50)
    assert project.build() == 3
    refused = {body["seed"] for body in stub.requests}
    # Once mended, as with a larger max-model-len.
    stub.fault = lambda n, seed: "400" if seed in refused else None
    assert project.build() == 0
    asked = len(stub.requests)
    assert project.build("--retry") == 0
    assert project.manifest()["rejected_rows_by_reason"]["request_refused"] == len(refused)
    assert len(stub.requests) == asked + len(refused) + 1


def test_a_retry_whose_server_is_away_leaves_the_rows_that_there_are(project, serve, capsys):
    stub = serve(fault=cursed("400", 5, 9))
    project.ask(stub)
    assert project.build() == 0
    rows = project.parquet()
    stub.stop()
    assert project.build("--retry") == 3
    assert "2 rows were not answered when they were asked again" in capsys.readouterr().err
    assert (project.parquet(), project.manifest()["status"]) == (rows, "complete")
    # Nobody has to be there for what is on record.
    assert project.build() == 0
    stub = serve(fault=lambda n, seed: "400" if n == 0 else None)
    project.ask(stub)
    assert project.build("--retry") == 0
    assert len(stub.requests) == 2
    assert project.manifest()["rejected_rows_by_reason"]["request_refused"] == 1


@pytest.mark.parametrize("why", [{"finish_reason": "abort"}, {"finish_reason": "error", "error": {"code": 502}}])
def test_a_reply_that_its_server_broke_off_is_asked_for_again_and_never_kept(project, serve, why):
    part = {"choices": [{"message": {"content": "<think>Tall peaks rise over a still"}, **why}]}
    stub = serve(fault=lambda n, seed: (200, part) if n == 4 else None)
    project.ask(stub, teacher=QUICK)
    assert project.build() == 0
    assert len(stub.requests) == 41
    assert "unclosed_think" not in project.manifest()["rejected_rows_by_reason"]


def test_a_moderation_of_the_very_first_rows_is_no_wrong_key(project, serve):
    words = (403, {"error": {"message": "Your request was flagged by our moderation."}})
    stub = serve(fault=cursed(words, 0, 1, 2, 3))
    project.ask(stub, teacher=QUICK)
    assert project.build() == 0
    assert project.manifest()["rejected_rows_by_reason"]["moderated"] == 4


def test_a_server_that_broke_for_all_gives_no_row_up(project, serve):
    stub = serve(fault=lambda n, seed: "500" if n >= 20 else None)
    project.ask(stub, teacher={**QUICK, "patience": 0.5})
    assert project.build() == 3
    assert project.manifest()["given_up"] == {}
    assert project.manifest()["rows"]["unasked"] == 20
    stub.fault = lambda n, seed: None
    assert project.build() == 0
    assert set(stub.answered.values()) == {1}


def test_a_key_that_is_revoked_midway_gives_no_row_up(project, serve):
    stub = serve(fault=lambda n, seed: "403" if n >= 20 else None)
    project.ask(stub, teacher={**QUICK, "patience": 0.5})
    assert project.build() == 3
    assert project.manifest()["given_up"] == {}


def test_rows_without_a_reply_are_listed_and_the_first_is_named(project, serve, capsys):
    stub = serve(fault=lambda n, seed: "500" if n >= 30 else None)
    project.ask(stub, teacher={**QUICK, "patience": 0.2})
    assert project.build() == 3
    unasked = lines(project.cot / "unasked.jsonl")
    assert len(unasked) == 10
    assert all("HTTP 500" in row["why"] or row["why"] == "not asked yet" for row in unasked)
    assert f"10 rows were not answered (first: {unasked[0]['id']}" in capsys.readouterr().err
    stub.fault = lambda n, seed: None
    assert project.build() == 0
    assert not (project.cot / "unasked.jsonl").exists()


def test_a_content_filter_that_leaves_nothing_is_moderation(project, serve):
    filtered = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    stub = serve(fault=cursed((200, filtered), 4))
    project.ask(stub)
    assert project.build() == 0
    assert project.manifest()["rejected_rows_by_reason"]["moderated"] == 1
    assert len(stub.requests) == 40


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("<answer>awe</answer>", "no_think"),
        ("<think>I look at it and", "unclosed_think"),
        ("**Answer:** awe", "no_think"),
        ("", "empty"),
        ({"content": None, "reasoning_content": "It is all"}, "empty"),
    ],
)
def test_a_teacher_whose_first_replies_all_fail_for_one_reason_is_stopped(project, serve, capsys, reply, reason):
    stub = serve(reply=lambda body: reply)
    project.ask(stub, rows=90)
    assert project.build() == 3
    assert 50 <= len(stub.requests) < 60
    said = capsys.readouterr().err
    assert f"its first 50 replies all fail as {reason}" in said
    assert "cot.stop_after_failures=0" in said
    # All are asked, and no row is kept.
    assert project.build("cot.stop_after_failures=0") == 2
    assert len(stub.requests) == 90


def test_one_good_reply_among_the_first_lets_a_build_go_on(project, serve):
    stub = serve(reply=lambda body: stub_reply(2, "awe") if len(stub.requests) == 40 else "<answer>awe</answer>")
    project.ask(stub, rows=90)
    project.build()
    assert len(stub.requests) == 90
