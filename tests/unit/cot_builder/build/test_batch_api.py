"""Requests as OpenAI-batch JSONL and their replies back: the same rows as asking directly, and nothing asked twice."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import pytest

from cot_builder.__main__ import main
from cot_builder.build.batch_api import _Exporter
from cot_builder.build.journal import ReplyCache
from cot_builder.build.plan import plan
from cot_builder.prompts import load_prompt
from cot_builder.teachers.base import TeacherQuestion, Unanswered
from cot_builder.teachers.images import TeacherImage
from pipeline.config.loader import load


def export(project, folder) -> list[dict]:
    assert main(["export", "--config", str(project.config), "--out", str(folder)]) == 0
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def take_in(project, *files) -> int:
    return main(["import", "--config", str(project.config), *map(str, files)])


def batch_service(stub, requests, file, broken=()) -> None:
    """What a batch service does with a file of requests; those whose position is in `broken` fail."""
    lines = []
    for number, request in enumerate(requests):
        if number in broken:
            lines.append(
                {"custom_id": request["custom_id"], "response": {"status_code": 500, "body": None}, "error": {}}
            )
            continue
        body = json.dumps(request["body"]).encode()
        call = urllib.request.Request(f"{stub.url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call) as response:
            answer = {"status_code": 200, "body": json.load(response)}
        lines.append({"id": "b", "custom_id": request["custom_id"], "response": answer, "error": None})
    file.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))


def test_batches_give_the_bytes_of_a_direct_build(tmp_path, project, serve):
    direct = type(project)(tmp_path / "direct")
    direct.ask(serve(), attempts=3)
    assert direct.build() == 0

    stub = serve()
    project.ask(stub, attempts=3)
    rounds = 0
    while requests := export(project, tmp_path / f"requests-{rounds}"):
        replies = tmp_path / f"replies-{rounds}.jsonl"
        batch_service(stub, requests, replies, broken={3} if rounds == 0 else ())
        assert take_in(project, replies) == 0
        rounds += 1
    # One per attempt, and the request that failed comes again.
    assert rounds >= 3
    assert set(stub.answered.values()) == {1}
    asked = len(stub.requests)
    assert project.build() == 0
    assert len(stub.requests) == asked
    assert project.parquet() == direct.parquet()


def test_what_is_exported_is_what_would_be_asked(tmp_path, project, serve):
    stub = serve()
    project.ask(stub, rows=4)
    bodies = [request["body"] for request in export(project, tmp_path / "out")]
    assert stub.requests == []
    assert project.build() == 0
    by_seed = {body["seed"]: body for body in bodies}
    assert by_seed == {request["seed"]: request for request in stub.requests}


def test_a_request_that_is_wanted_twice_at_once_is_exported_once(tmp_path, project, serve):
    project.ask(serve())
    planned = plan(load(project.config))
    row, prompt = planned.split.rows[0], load_prompt("answer_given_v1")

    async def twice() -> None:
        with ReplyCache(tmp_path / "journal") as journal:
            exporter = _Exporter(planned, journal, tmp_path, 10**6)
            question = TeacherQuestion(row, "answer_given", 0, prompt, "What is felt?", (TeacherImage(row.images[0]),))
            asked = (exporter("stub", question) for _ in range(2))
            assert {type(reply) for reply in await asyncio.gather(*asked, return_exceptions=True)} == {Unanswered}
            assert exporter.requests == {"stub": 1}

    asyncio.run(twice())


def test_files_stay_below_the_services_limit(tmp_path, project, serve, monkeypatch):
    monkeypatch.setattr("cot_builder.build.batch_api.MOST_REQUESTS", 15)
    project.ask(serve())
    requests = export(project, tmp_path / "out")
    sizes = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "out").glob("*.jsonl"))]
    assert sizes == [15, 15, 10]
    assert len({request["custom_id"] for request in requests}) == 40


def test_lines_without_a_reply_are_counted_and_asked_again(tmp_path, project, serve, capsys):
    stub = serve()
    project.ask(stub)
    requests = export(project, tmp_path / "out")
    replies = tmp_path / "replies.jsonl"
    batch_service(stub, requests, replies, broken={0, 1})
    with replies.open("a") as file:
        file.write('{"custom_id": "nobody", "response": {"status_code": 200, "body": ')
    assert take_in(project, replies) == 0
    shown = capsys.readouterr()
    assert "38 new replies, 0 known already, 0 not of this build" in shown.out
    assert "2 lines without a reply (http_500)" in shown.err
    assert "1 lines without a reply (malformed_line)" in shown.err
    assert len(export(project, tmp_path / "again")) == 2


def test_lines_of_another_shape_are_counted_and_stop_nothing(tmp_path, project, serve, capsys):
    project.ask(serve(), rows=10)
    requests = export(project, tmp_path / "out")
    answer = {"status_code": 200, "body": {"choices": [{"message": {"content": "x"}}]}}
    broken_off = {"status_code": 200, "body": {"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]}}
    lines = [
        # Latin-1.
        b'{"custom_id": "\xe9"}',
        b"",
        b"null",
        b"[3]",
        b'{"custom_id": "x", "response": 3}',
        json.dumps({"custom_id": {"a": 1}, "response": answer}).encode(),
        json.dumps({"custom_id": requests[0]["custom_id"], "response": answer}).encode(),
        json.dumps({"custom_id": requests[2]["custom_id"], "response": broken_off}).encode(),
        json.dumps(
            {
                "custom_id": requests[1]["custom_id"],
                "response": {"status_code": 400, "body": None},
                "error": {"message": "too long"},
            }
        ).encode(),
    ]
    (tmp_path / "replies.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert take_in(project, tmp_path / "replies.jsonl") == 0
    shown = capsys.readouterr()
    assert "2 new replies, 0 known already, 1 not of this build" in shown.out
    assert "(malformed_line)" in shown.err
    assert "1 lines without a reply (error_reply)" in shown.err
    assert project.build() == 0
    assert "too long" in (project.cot / "rejected.jsonl").read_text()


def test_a_refused_request_is_data(tmp_path, project, serve):
    project.ask(serve(), rows=10)
    request = export(project, tmp_path / "out")[0]
    refusal = {"custom_id": request["custom_id"], "response": {"status_code": 400, "body": {"message": "too long"}}}
    (tmp_path / "replies.jsonl").write_text(json.dumps(refusal) + "\n")
    assert take_in(project, tmp_path / "replies.jsonl") == 0
    assert len(export(project, tmp_path / "again")) == 9
    assert project.build() == 0
    assert project.manifest()["rejected_rows_by_reason"]["request_refused"] == 1


@pytest.mark.parametrize(
    ("words", "omit", "sent"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens",
            {"max_completion_tokens", "seed", "temperature", "top_p"},
        ),
        (
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
            "temperature",
            {"max_tokens", "seed", "top_p"},
        ),
        ("Extra inputs are not permitted: seed, top_p", "seed,top_p", {"max_tokens", "temperature"}),
    ],
)
def test_refused_fields_are_no_refused_rows_and_the_cure_is_told(tmp_path, project, serve, caplog, words, omit, sent):
    project.ask(serve(), rows=4)
    requests = export(project, tmp_path / "out")
    body = {"error": {"message": words, "code": "unsupported_parameter"}}
    lines = [{"custom_id": one["custom_id"], "response": {"status_code": 400, "body": body}} for one in requests]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert take_in(project, tmp_path / "replies.jsonl") == 0
    assert f"export with --omit {omit}" in caplog.text
    command = ["export", "--config", str(project.config), "--out", str(tmp_path / "again"), "--omit", omit]
    assert main(command) == 0
    again = [json.loads(line) for line in (tmp_path / "again" / "stub-00000.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in again] == [one["custom_id"] for one in requests]
    fields = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"}
    assert all(set(one["body"]) & fields == sent for one in again)


def test_a_field_that_cannot_be_left_out_is_refused(tmp_path, project, serve, caplog):
    project.ask(serve(), rows=4)
    assert main(["export", "--config", str(project.config), "--out", str(tmp_path / "x"), "--omit", "modell"]) == 2
    assert "--omit: 'modell' cannot be left out" in caplog.text


def test_an_export_never_overwrites_another(tmp_path, project, serve, capsys):
    project.ask(serve())
    export(project, tmp_path / "out")
    assert main(["export", "--config", str(project.config), "--out", str(tmp_path / "out")]) == 2
    assert "holds .jsonl files already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.jsonl"])
def test_a_file_that_is_not_there(tmp_path, project, serve, capsys, name):
    project.ask(serve())
    assert take_in(project, tmp_path / name) == 2
    assert "No such file" in capsys.readouterr().err


def test_words_change_an_import_as_they_change_a_build(tmp_path, project, serve, caplog, capsys):
    project.ask(serve())
    replies = tmp_path / "replies.jsonl"
    batch_service(serve(), export(project, tmp_path / "requests"), replies)
    assert take_in(project, "cot.attempt=2", replies) == 2
    assert "did you mean attempts?" in caplog.text
    assert take_in(project, "cot.attempts=2") == 2
    assert "no FILE is named" in caplog.text
    # Longer than the name of any file.
    assert take_in(project, replies, f"task.nosuch={'x' * 300}") == 2
    assert "task.nosuch" in caplog.text
    assert take_in(project, replies, "cot.attempts=2") == 0
    assert ", 0 not of this build" in capsys.readouterr().out
