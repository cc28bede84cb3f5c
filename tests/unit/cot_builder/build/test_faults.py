"""Servers that fail in every way there is: nothing is lost, nothing is asked twice, the bytes are those of a quiet build."""

from __future__ import annotations

import re
import socket

import pytest
from fault_server import parts

from cot_builder.__main__ import main

PATIENT = {"patience": 30.0}


@pytest.fixture
def quiet(tmp_path, project, serve):
    """train.parquet of an undisturbed build of the same rows; the model's name makes the seeds, not the address."""
    calm = type(project)(tmp_path / "calm")
    calm.ask(serve())
    assert calm.build() == 0
    return calm.parquet()


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "truncate", "garbage", 1.0])
def test_a_fault_in_transport_loses_nothing(project, serve, quiet, fault):
    stub = serve(fault=lambda n, seed: fault if n in (3, 17) else None)
    project.ask(stub, teacher={**PATIENT, "timeout": 0.4 if fault == 1.0 else 10.0})
    assert project.build() == 0
    assert project.parquet() == quiet
    assert set(stub.answered.values()) == {1}
    assert len(stub.requests) == 42


@pytest.mark.parametrize("status", ["400", "413", "422"])
def test_a_refused_request_is_data_and_is_not_repeated(project, serve, status):
    stub = serve(fault=lambda n, seed: status if n == 2 else None)
    project.ask(stub)
    assert project.build() == 0
    assert len(stub.requests) == 40
    assert project.manifest()["rejected_rows_by_reason"]["request_refused"] == 1
    assert project.build() == 0
    assert len(stub.requests) == 40
    # The server was the cause, and is mended.
    stub.fault = lambda n, seed: None
    assert project.build("--retry-refused") == 0
    assert len(stub.requests) == 41
    assert "request_refused" not in project.manifest()["rejected_rows_by_reason"]


def test_a_server_that_refuses_from_the_first_request_is_stopped_with_the_cure(project, serve, quiet, capsys):
    stub = serve(fault=lambda n, seed: "400")
    project.ask(stub)
    assert project.build() == 3
    assert 20 <= len(stub.requests) < 28
    said = capsys.readouterr().err
    assert "refuses every request (HTTP 400" in said
    assert "mend it and build again with --retry-refused" in said
    assert project.manifest()["rows"]["unasked"] == 40 - len(stub.requests)
    stub.fault = lambda n, seed: None
    assert project.build("--retry-refused") == 0
    assert project.parquet() == quiet


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_wrong_key_or_model_stops_the_teacher_and_rejects_no_row(project, serve, capsys, status):
    stub = serve(fault=lambda n, seed: status)
    project.ask(stub)
    assert project.build() == 3
    assert len(stub.requests) <= 4
    assert project.manifest()["rows"] == {"selected": 40, "kept": 0, "rejected": 0, "unasked": 40}
    assert f"HTTP {status}" in capsys.readouterr().err


def test_a_dead_endpoint_ends_incomplete_and_a_later_build_goes_on(project, serve, quiet, capsys):
    stub = serve(fault=lambda n, seed: "503" if n >= 20 else None)
    project.ask(stub, teacher={"retries": 1})
    assert project.build() == 3
    assert "run the same command again to go on" in capsys.readouterr().err
    manifest = project.manifest()
    assert manifest["status"] == "incomplete"
    assert manifest["rows"]["unasked"] == 20
    assert manifest["rows"]["kept"] + manifest["rows"]["rejected"] == 20
    assert not (project.cot / "train.parquet").exists()
    stub.fault = lambda n, seed: None
    assert project.build() == 0
    assert project.parquet() == quiet
    assert set(stub.answered.values()) == {1}


def test_nobody_at_the_address(project, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    project.configure({"t": {"kind": "openai", "model": "stub", "base_urls": [url], "patience": 0.5}})
    assert project.build() == 3
    said = capsys.readouterr().err
    # At once, not when patience has run out.
    assert f"no reply from {url}" in said.splitlines()[0]
    assert said.count("launch/serve_teacher.sh") == 2
    assert project.manifest()["rows"]["unasked"] == 40


def test_one_row_that_always_fails_does_not_hold_up_the_others(project, serve):
    cursed: list[int] = []

    def fault(n, seed):
        if n == 5:
            cursed.append(seed)
        return "500" if seed in cursed else None

    stub = serve(fault=fault)
    project.ask(stub, teacher={**PATIENT, "retries": 2})
    assert project.build() == 0
    assert project.manifest()["rows"]["unasked"] == 0
    assert project.manifest()["rejected_rows_by_reason"]["server_error"] == 1
    assert [request["seed"] for request in stub.requests].count(cursed[0]) == 3


def test_a_dead_endpoint_beside_a_live_one_costs_no_row(project, serve, quiet):
    dead, live = serve(), serve()
    dead.stop()
    project.ask(dead, live, teacher=PATIENT)
    assert project.build() == 0
    assert project.parquet() == quiet
    assert len(live.requests) == 40


def test_an_endpoint_that_comes_back_is_used_again(project, serve, quiet, monkeypatch):
    monkeypatch.setattr("cot_builder.teachers.endpoints._LONGEST_PAUSE", 0.5)
    stub = serve(fault=lambda n, seed: "503" if 10 <= n < 16 else None)
    project.ask(stub, teacher=PATIENT)
    assert project.build() == 0
    assert project.parquet() == quiet


def test_requests_in_flight_stay_within_the_limit_and_go_to_the_free_endpoint(project, serve):
    slow, fast = serve(fault=lambda n, seed: 0.3), serve(fault=lambda n, seed: 0.01)
    project.ask(slow, fast, concurrency=3)
    assert project.build() == 0
    assert max(slow.most_in_flight, fast.most_in_flight) <= 3
    assert len(fast.requests) > 2 * len(slow.requests)


def test_proxy_variables_and_redirects_lead_nowhere(project, serve, monkeypatch):
    elsewhere = serve()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, elsewhere.url.removesuffix("/v1"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    stub = serve()
    project.ask(stub)
    assert project.build() == 0
    assert elsewhere.requests == []
    assert len(stub.requests) == 40


@pytest.mark.parametrize("where", ["reasoning_content", "reasoning"])
def test_a_thinking_teacher_s_thought_is_the_reasoning(project, serve, where):
    """Its server tells the thought apart from the text; a build out of such replies has rows like any other."""
    import pyarrow.parquet as pq

    def reply(body):
        shown = re.search(r"answered: (\w+)\.", parts(body)[0])
        return {
            "content": f"\n\n<answer>{shown[1]}</answer>",
            where: f"Wide skies speak of it. This suggests {shown[1]}.",
        }

    project.ask(serve(reply=reply))
    assert project.build() == 0
    rows = pq.read_table(project.cot / "train.parquet").to_pylist()
    assert rows
    assert all(row["think"] == f"Wide skies speak of it. This suggests {row['answer']}." for row in rows)


def test_a_server_that_takes_no_max_tokens_and_no_temperature_is_asked_without(project, serve, capsys):
    def fault(n, seed):
        sent = stub.requests[-1]
        if "max_tokens" in sent:
            return 400, {"error": {"message": "'max_tokens' is not supported, use 'max_completion_tokens' instead"}}
        if "temperature" in sent:
            return 400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.7"}}
        return None

    stub = serve(fault=fault)
    project.ask(stub)
    assert project.build() == 0
    assert "request_refused" not in project.manifest()["rejected_rows_by_reason"]
    assert all("max_completion_tokens" in sent and "temperature" not in sent for sent in stub.requests[-30:])
    assert "takes no max_tokens; it is asked with max_completion_tokens" in capsys.readouterr().err
    stub.fault = lambda n, seed: "500"
    # The request's key is what was meant to be asked: nothing is asked again.
    assert project.build() == 0


def test_an_address_without_v1_is_hinted_at(project, serve, capsys):
    stub = serve(fault=lambda n, seed: "404")
    project.ask(stub, teacher={"base_urls": [stub.url.removesuffix("/v1")]})
    assert project.build() == 3
    assert f"is /v1 missing? most servers want {stub.url}" in capsys.readouterr().err


def test_preview_tells_why_no_reply_would_be_kept_and_fails(project, serve, capsys):
    stub = serve(fault=lambda n, seed: (401, {"error": {"message": "invalid api key"}}))
    project.ask(stub)
    assert main(["preview", "--config", str(project.config), "--rows", "3"]) == 2
    assert "invalid api key" in capsys.readouterr().err
    stub.fault, stub.reply = (lambda n, seed: None), (lambda body: "<answer>awe</answer>")
    assert main(["preview", "--config", str(project.config), "--rows", "3"]) == 2
    assert "none of 3 replies is kept (no_think 3)" in capsys.readouterr().err
