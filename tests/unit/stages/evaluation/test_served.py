"""A served model: what is sent, what is tried again, what is given up, and that no key shows."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from pipeline.config.evaluation import LabModel
from pipeline.errors import UserError
from stages.evaluation.backends.base import Generation, GenerationRequest, SamplingParams
from stages.evaluation.backends.openai import Served

KEY = "sk-do-not-tell"


class Server:
    """Answers each request with the next of `replies`, (status, body) or a function of the request, then "fine"."""

    def __init__(self):
        self.requests, self.headers, self.replies = [], [], []
        self.busy = self.most = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.busy += 1
                    server.most = max(server.most, server.busy)
                    server.requests.append(body)
                    server.headers.append(dict(self.headers))
                    status, text = server.replies.pop(0) if server.replies else (200, completion("fine"))
                if callable(text):
                    text = text(self)
                with lock:
                    server.busy -= 1
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def completion(text, reason="stop"):
    choice = {"message": {"content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()


@pytest.fixture
def model(server, monkeypatch):
    monkeypatch.setenv("LAB_KEY", KEY)
    return LabModel(
        name_or_path="big", backend="openai", base_url=server.url, api_key_env="LAB_KEY", options={"top_k": 1}
    )


def said(model, asks, how=SamplingParams(64), concurrency=4):  # noqa: B008
    return {one.id: one for batch in Served(model, concurrency, first_pause=0.01).answer(asks, how) for one in batch}


def test_pictures_travel_in_the_places_of_their_marks_and_the_key_in_the_header(server, model, tmp_path):
    paths = (tmp_path / "a.png", tmp_path / "b.jpg")
    for path in paths:
        Image.new("RGB", (8, 8), "red").save(path)
    found = said(model, [GenerationRequest("r", "See <image 2> and <image 1>.", paths)])
    assert (found["r"].text, found["r"].tokens, found["r"].prompt_tokens) == ("fine", 2, 3)
    body = server.requests[0]
    assert [part["type"] for part in body["messages"][0]["content"]] == [
        "text",
        "image_url",
        "text",
        "image_url",
        "text",
    ]
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    assert base64.b64decode(url.split(",")[1]) == paths[1].read_bytes()
    assert (body["model"], body["temperature"], body["max_tokens"], body["top_k"]) == ("big", 0.0, 64, 1)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_options_take_fields_away_and_rename_them(server, model):
    own = {
        "temperature": None,
        "seed": None,
        "rename": {"max_tokens": "max_completion_tokens"},
        "reasoning_effort": "low",
    }
    said(replace(model, options=own), [GenerationRequest("r", "a")])
    assert server.requests[0] == {
        "model": "big",
        "max_completion_tokens": 64,
        "top_p": 1.0,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": "a"}],
    }


def test_of_two_fields_that_a_server_does_not_take_together_one_is_left_out(server, model):
    both = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    server.replies = [(400, json.dumps({"error": {"message": both}}))]
    assert said(model, [GenerationRequest("r", "a")])["r"].text == "fine"
    assert ["top_p" in body for body in server.requests] == [True, False]
    assert server.requests[1]["temperature"] == 0.0


def test_an_answer_that_was_begun_is_gone_on_with(server, model):
    said(model, [GenerationRequest("r", "Why?", said="Because\n\nAnswer:")])
    body = server.requests[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "Because\n\nAnswer:"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_what_fails_in_transport_is_sent_again_and_what_is_refused_is_not(server, model):
    server.replies = [(500, "oops"), (200, "no json"), (200, completion("at last"))]
    assert said(model, [GenerationRequest("r", "a")])["r"].text == "at last"
    server.requests, server.replies = [], [(400, "too long")]
    refused = said(model, [GenerationRequest("r", "a")])["r"]
    assert (refused.failed, len(server.requests)) == ("request_refused", 1)
    assert "too long" in refused.detail


def test_no_more_requests_are_in_flight_than_allowed(server, model):
    import time

    server.replies = [(200, lambda _: (time.sleep(0.02), completion("fine"))[1])] * 20
    assert len(said(model, [GenerationRequest(str(number), "a") for number in range(20)], concurrency=3)) == 20
    assert 1 < server.most <= 3


def test_one_row_that_always_fails_is_counted_and_the_others_are_answered(server, model):
    asks = [GenerationRequest(str(number), "bad" if number == 3 else "good") for number in range(12)]

    def reply(handler):
        return completion("fine")

    class Picky(list):
        def pop(self, _):
            bad = server.requests[-1]["messages"][0]["content"] == "bad"
            return (500, "again") if bad else (200, completion("fine"))

    server.replies = Picky([1])
    found = said(model, asks)
    assert set(found) == {ask.id for ask in asks}
    assert {row.failed for row in found.values() if row.id != "3"} == {None}
    assert found["3"].failed == "server_error"
    assert "HTTP 500: again" in found["3"].detail


def test_a_dead_server_is_given_up_and_said_so(server, model):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"does not answer .* the same command goes on"):
        said(model, [GenerationRequest(str(number), "a") for number in range(30)])


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_name_ends_it_at_once_and_shows_no_key(server, model, status):
    server.replies = [(status, f"bad key {KEY}")]
    with pytest.raises(UserError) as caught:
        said(model, [GenerationRequest("r", "a")])
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_a_cut_answer_is_truncated(server, model):
    server.replies = [(200, completion("and then", "length"))]
    assert said(model, [GenerationRequest("r", "a")])["r"].truncated


def picky(server, bad):
    """Let the server answer "fine", and `bad` to each request whose words are "bad"."""

    class Picky(list):
        def pop(self, _):
            return bad if server.requests[-1]["messages"][0]["content"] == "bad" else (200, completion("fine"))

    server.replies = Picky([1])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((500, "the encoder crashed"), "server_error"),
        ((200, '{"error": {"message": "upstream", "code": 502}}'), "server_error"),
        ((200, "<html>"), "server_error"),
        ((403, "flagged"), "moderated"),
        ((451, "flagged"), "moderated"),
        ((200, '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'), "moderated"),
    ],
)
def test_a_row_the_server_fails_at_while_it_answers_others_is_a_row_with_a_reason(server, model, bad, reason):
    picky(server, bad)
    found = said(
        model,
        [
            GenerationRequest("first", "bad"),
            GenerationRequest("a", "good"),
            GenerationRequest("b", "good"),
            GenerationRequest("last", "bad"),
        ],
        concurrency=2,
    )
    assert {row.id: row.failed for row in found.values()} == {"first": reason, "a": None, "b": None, "last": reason}


def test_a_key_that_is_denied_everything_ends_it(server, model):
    server.replies = [(403, f"bad key {KEY}")] * 9
    with pytest.raises(UserError, match="check base_url, the model's name and its key"):
        said(model, [GenerationRequest("r", "a")])
    assert len(server.requests) <= 3


def test_a_row_is_not_blamed_while_the_server_answers_nothing(server, model, capsys):
    picky(server, (500, "again"))
    assert said(model, [GenerationRequest("r", "bad")]) == {}
    assert "r: not answered: HTTP 500" in capsys.readouterr().err


def test_a_thinking_model_is_read_in_the_style_that_asks_for_reasoning(server, model):
    message = {"content": "<answer>red</answer>", "reasoning_content": "It is red."}
    server.replies = [(200, json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))]
    (row,) = said(model, [GenerationRequest("r", "a")]).values()
    assert (row.text, row.with_thought().text) == (
        "<answer>red</answer>",
        "<think>It is red.</think>\n<answer>red</answer>",
    )
    assert Generation("r", "", thought="It is", truncated=True).with_thought().text == "<think>It is"
    assert Generation("r", "<think>a</think>b", thought="x").with_thought().text == "<think>a</think>b"


def test_fields_the_server_takes_no_more_are_left_out(server, model):
    server.replies = [
        (400, "'max_tokens' is not supported, use 'max_completion_tokens' instead"),
        (400, "unsupported: seed"),
    ]
    assert said(model, [GenerationRequest("r", "a")])["r"].text == "fine"
    assert server.requests[-1]["max_completion_tokens"] == 64
    assert not {"max_tokens", "seed"} & set(server.requests[-1])
