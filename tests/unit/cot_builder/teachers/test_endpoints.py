"""How many requests a server gets, which server gets them, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cot_builder.prompts import load_prompt
from cot_builder.teachers import endpoints
from cot_builder.teachers.base import Reply, TeacherDown, TeacherQuestion, Unanswered
from cot_builder.teachers.concurrency import Limit
from cot_builder.teachers.config import OpenAIConfig
from cot_builder.teachers.endpoints import Failure, Pool
from cot_builder.teachers.images import TeacherImage
from cot_builder.teachers.openai import OpenAITeacher
from pipeline.types import labelled_image


class Simulated:
    """A server in virtual time that is always given all that a limit allows.

    `rate(n)` is what it completes per second with n requests at once, which share it evenly; beyond `slots` they queue,
    from `refuse` on they are answered with HTTP 429.
    """

    def __init__(self, rate: Callable[[int], float], slots: int = 10**6, refuse: int = 10**6) -> None:
        self.rate, self.slots, self.refuse = rate, slots, refuse
        self.now = self.progress = self.hold = 0.0
        self.load = self.refused = 0
        self.done: list[float] = []
        self._work: list[tuple[float, int, float]] = []
        self._queue: list[float] = []
        self._draw = random.Random(0)

    def run(self, limit: Any, until: float) -> None:
        while self.now < until:
            step = limit.grow(self.now, self.load)
            while self.load < limit.value and self.now >= self.hold:
                if self.load >= self.refuse:
                    limit.overloaded(self.now, self.now, told=True)
                    self.refused, self.hold = self.refused + 1, self.now + 0.5
                    break
                self.load += 1
                self._queue.append(self.now)
                step = limit.grow(self.now, self.load)
            while self._queue and len(self._work) < self.slots:
                effort = self._draw.lognormvariate(0, 0.2)
                heapq.heappush(self._work, (self.progress + effort, len(self.done) + self.load, self._queue.pop(0)))
            speed = self.rate(len(self._work)) / max(1, len(self._work))
            ends = self.now + max(0.0, self._work[0][0] - self.progress) / speed if self._work else self.hold
            moment = min([ends, *(t for t in (step, self.hold) if t is not None and t > self.now)])
            self.progress += (moment - self.now) * speed
            self.now = moment
            if moment == ends and self._work:
                sent = heapq.heappop(self._work)[2]
                limit.done(self.now, sent, self.load)
                self.load -= 1
                self.done.append(self.now)

    def completed(self, start: float, end: float) -> float:
        """Requests per second between two moments."""
        return sum(start <= moment < end for moment in self.done) / (end - start)


class Fixed:
    """A limit that stays what it is."""

    def __init__(self, value: int) -> None:
        self.value = value

    def grow(self, now: float, load: int) -> None:
        pass

    def done(self, now: float, sent: float, load: int) -> None:
        pass


def batching(saturates_at: int, latency: float) -> Simulated:
    return Simulated(lambda n: min(n, saturates_at) / latency)


@pytest.mark.parametrize("latency", [0.05, 0.2])
def test_a_batching_server_gets_what_saturates_it_and_little_more(latency):
    server, limit = batching(32, latency), Limit(256)
    server.run(limit, 60)
    assert 32 <= limit.value <= 80
    best = batching(32, latency)
    best.run(Fixed(256), 60)
    assert server.completed(0, 60) >= 0.95 * best.completed(0, 60)
    assert server.completed(30, 60) >= 0.95 * best.completed(30, 60)


@pytest.mark.parametrize("latency", [0.05, 1.0])
def test_a_server_that_does_four_at_a_time_is_not_flooded(latency):
    server, limit = Simulated(lambda n: n / latency, slots=4), Limit(256)
    server.run(limit, 60)
    assert 4 <= limit.value <= 12
    # Efforts are 1.02 on average.
    assert server.completed(0, 60) >= 0.95 * 4 / latency / 1.02


@pytest.mark.parametrize("latency", [0.05, 1.0])
def test_a_server_that_turns_requests_away_gets_as_many_as_it_takes(latency):
    server, limit = Simulated(lambda n: n / latency, refuse=16), Limit(256)
    server.run(limit, 60)
    assert 8 <= limit.value <= 24
    assert server.refused < 20
    assert server.completed(10, 60) >= 0.9 * 16 / latency / 1.02


def test_a_server_that_grows_is_noticed():
    server, limit = Simulated(lambda n: n / 0.2, slots=16), Limit(256)
    server.run(limit, 60)
    server.slots = 64
    server.run(limit, 180)
    assert server.completed(120, 180) >= 0.9 * 64 / 0.2 / 1.02


@pytest.mark.parametrize("latency", [0.2, 1.0, 3.0])
def test_the_start_costs_a_short_run_nearly_nothing(latency):
    """Throughput that still rises at 256 in flight, as on a large GPU; the best is to send 256 at once."""
    server, best = (Simulated(lambda n: 80 * n / (n + 80) / latency) for _ in range(2))
    limit = Limit(256)
    server.run(limit, 20)
    best.run(Fixed(256), 20)
    assert server.completed(0, 20) >= 0.95 * best.completed(0, 20)


def test_the_ceiling_holds_and_a_low_one_is_used_at_once():
    low, high = Limit(3), Limit(20)
    assert (low.value, high.value) == (3, 8)
    Simulated(lambda n: n / 0.05).run(high, 10)
    assert high.value == 20


def full(limit: Limit, seconds: float = 1.0) -> Limit:
    """A limit after `seconds` of a server that answers everything in 0.1 s."""
    Simulated(lambda n: n / 0.1).run(limit, seconds)
    return limit


def test_a_429_halves_once_for_all_that_were_in_flight_together():
    limit = full(Limit(64))
    for _ in range(20):
        limit.overloaded(2.0, 1.9, told=True)
    assert limit.value == 32
    limit.done(2.1, 2.05, 32)
    for _ in range(20):
        limit.overloaded(2.2, 2.05, told=True)
    assert limit.value == 16


def test_a_server_that_turns_away_one_request_in_two_hundred_keeps_its_limit():
    limit, server = full(Limit(64)), Simulated(lambda n: n / 0.1)
    for number in range(1, 100):
        # 192 replies.
        server.run(limit, 0.3 * number)
        limit.overloaded(server.now, server.now - 0.1, told=True)
    assert limit.value == 64


def test_stray_timeouts_cut_nothing_and_many_do():
    limit = full(Limit(64))
    limit.overloaded(2.0, 1.9, told=False)
    assert limit.value == 64
    for _ in range(5):
        limit.overloaded(2.0, 1.9, told=False)
    assert limit.value == 32


def test_a_server_that_answers_nothing_is_down_and_keeps_its_limit():
    limit = full(Limit(64))
    for second in range(3, 60):
        limit.overloaded(second, second - 0.1, told=True)
    assert limit.value == 32


def test_too_little_to_ask_changes_nothing():
    limit = Limit(256)
    for number in range(2000):
        limit.grow(number / 10, 2)
        limit.done(number / 10, number / 10 - 0.2, 2)
    assert limit.value == 8


# The pool ------------------------------------------------------------------------------------------------------------


def test_a_cancelled_wait_and_a_cancelled_request_give_their_place_back():
    async def scenario() -> None:
        pool = Pool(["a"], 2, 10.0)
        first, second = await pool.take(), await pool.take()
        waiting = [asyncio.create_task(pool.take()) for _ in range(2)]
        await asyncio.sleep(0)
        # Hands the place to the first that waits, …
        pool.give_back(first, answered=False)
        # … which is cancelled before it runs.
        waiting[0].cancel()
        third = await waiting[1]
        assert pool.states()[0].load == 2
        pool.give_back(second)
        pool.give_back(third, answered=False)
        state = pool.states()[0]
        assert (state.load, state.answered, state.failed) == (0, 1, 0)

    asyncio.run(scenario())


def test_a_rest_the_server_asked_for_is_kept_whatever_else_is_answered():
    async def scenario() -> None:
        pool = Pool(["a"], 4, 10.0)
        first, second = await pool.take(), await pool.take()
        pool.give_back(first, Failure("http_429", "slow down", pause=0.3))
        pool.give_back(second)
        started = time.monotonic()
        await pool.take()
        assert time.monotonic() - started > 0.25

    asyncio.run(scenario())


def test_the_quicker_endpoint_is_asked_first():
    async def scenario() -> None:
        pool = Pool(["slow", "quick"], 8, 10.0)
        for endpoint, latency in zip(pool.endpoints, (2.0, 0.1), strict=True):
            endpoint.limit.latency = latency
        assert [(await pool.take()).endpoint.url for _ in range(7)] == ["quick"] * 7
        pool.close()

    asyncio.run(scenario())


# The teacher ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> TeacherImage:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    return TeacherImage(tmp_path / "red.png")


def question(picture: TeacherImage | None, number: int = 0, **more: Any) -> TeacherQuestion:
    row = labelled_image(f"row{number}", Path("none.jpg"), "awe")
    return TeacherQuestion(
        row, "answer_hidden", 0, load_prompt("answer_hidden_v1"), "What is felt?", (picture,) if picture else (), **more
    )


def teacher_of(*urls: str, run_seed: int = 0, concurrency: int = 8, **more: Any) -> OpenAITeacher:
    config = OpenAIConfig(**{"model": "stub", "base_urls": list(urls), "patience": 20.0, "timeout": 5.0, **more})
    return OpenAITeacher("stub", config, run_seed, concurrency)


def ask_all(teacher: OpenAITeacher, questions: list[TeacherQuestion]) -> list[Reply | BaseException]:
    async def scenario() -> list[Reply | BaseException]:
        asked = (teacher.ask(question, teacher.request(question)) for question in questions)
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await teacher.close()

    return asyncio.run(scenario())


def test_a_request_names_everything_that_changes_the_reply(picture):
    teacher = teacher_of("http://localhost:1/v1")
    same = teacher.request(question(picture))
    assert same == teacher.request(question(picture))
    others = [
        teacher.request(question(picture, 1)),
        teacher.request(question(picture, temperature=0.0)),
        teacher.request(question(picture, max_tokens=9)),
        teacher.request(question(picture, choices=("awe", "fear"))),
        teacher.request(question(picture, picture_first=True)),
        teacher.request(question(None)),
        teacher_of("http://localhost:1/v1", run_seed=1).request(question(picture)),
        teacher_of("http://localhost:1/v1", model="other").request(question(picture)),
        teacher_of("http://localhost:1/v1", image_size=8).request(question(picture)),
    ]
    assert len({request.key for request in [same, *others]}) == 10
    assert teacher_of("http://elsewhere/v1", retries=9).request(question(picture)) == same


def test_a_question_about_text_alone_is_the_same_for_every_row(picture):
    teacher = teacher_of("http://localhost:1/v1")
    first, second = teacher.request(question(None, 1)), teacher.request(question(None, 2))
    assert first == second
    assert "image_sha256" not in first.record
    assert "encoding" not in first.record


def test_what_is_sent(serve, picture):
    stub = serve()
    teacher = teacher_of(stub.url, extra_body={"top_k": 3})
    ask_all(teacher, [question(picture, temperature=0.25, max_tokens=7)])
    assert stub.picture(0).size == (16, 16)
    (sent,) = stub.requests
    content = sent.pop("messages")[0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert sent.pop("seed") == teacher.request(question(picture)).record["sampling"]["seed"]
    assert sent == {"model": "stub", "temperature": 0.25, "top_p": 0.95, "max_tokens": 7, "top_k": 3}
    assert stub.paths == ["/v1/chat/completions"]


def test_the_picture_can_come_first_and_a_text_can_come_alone(serve, picture):
    stub = serve()
    ask_all(teacher_of(stub.url), [question(picture, picture_first=True)])
    ask_all(teacher_of(stub.url), [question(None)])
    kinds = [[part["type"] for part in request["messages"][0]["content"]] for request in stub.requests]
    assert kinds == [["image_url", "text"], ["text"]]


@pytest.mark.parametrize("structured", [True, False])
def test_choices_are_enforced_where_the_server_can(serve, picture, structured):
    stub = serve()
    ask_all(teacher_of(stub.url, structured_outputs=structured), [question(picture, choices=("awe", "fear"))])
    assert stub.requests[0].get("structured_outputs") == ({"choice": ["awe", "fear"]} if structured else None)
    assert not any("guided" in name for name in stub.requests[0])


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "truncate", "garbage", "shape", "redirect", "hang"])
def test_a_fault_in_transport_is_asked_again_and_answered_once(serve, picture, fault):
    stub = serve(fault=lambda n, seed: fault if n in (3, 9) else None)
    replies = ask_all(teacher_of(stub.url, timeout=0.5), [question(picture, number) for number in range(30)])
    assert all(isinstance(reply, Reply) and reply.text for reply in replies)
    assert len(stub.requests) == 32
    assert set(stub.answered_bodies.values()) == {1}
    # No redirect was followed.
    assert set(stub.paths) == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"\xff", b"[" * 99999]
)
def test_a_reply_of_another_shape_is_malformed(serve, picture, monkeypatch, body):
    stub = serve()
    monkeypatch.setattr("fault_server.completion", lambda *_: body)
    (reply,) = ask_all(teacher_of(stub.url, retries=0), [question(picture)])
    assert isinstance(reply, Unanswered)
    assert "malformed_reply" in str(reply)


def test_usage_of_another_shape_costs_no_reply(serve, picture, monkeypatch):
    odd = {"choices": [{"message": {"content": "hm \ud800"}, "finish_reason": 4}], "usage": {"prompt_tokens": "many"}}
    monkeypatch.setattr("fault_server.completion", lambda *_: json.dumps(odd).encode())
    assert ask_all(teacher_of(serve().url), [question(picture)]) == [Reply("hm ?", usage={"finish_reason": None})]


@pytest.mark.parametrize("status", ["400", "413", "415", "422"])
def test_a_refusal_is_a_reply_without_the_key(serve, picture, monkeypatch, status):
    monkeypatch.setenv("STUB_KEY", "sk-very-secret")
    stub = serve(fault=lambda n, seed: status)
    (reply,) = ask_all(teacher_of(stub.url, api_key_env="STUB_KEY"), [question(picture)])
    assert isinstance(reply, Reply)
    assert reply.refused is not None
    assert reply.refused.startswith(f"HTTP {status}")
    assert "secret" not in reply.refused
    assert stub.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "secret" not in json.dumps(stub.requests)


@pytest.mark.parametrize("status", ["401", "403", "404", "405"])
def test_a_wrong_key_or_address_stops_the_teacher(serve, picture, status):
    stub = serve(fault=lambda n, seed: status)
    replies = ask_all(teacher_of(stub.url, concurrency=2), [question(picture, number) for number in range(20)])
    assert {type(reply) for reply in replies} == {TeacherDown}
    assert len(stub.requests) <= 2


def test_one_endpoint_that_answers_404_after_it_worked_leaves_the_rest_to_the_others(serve, picture):
    changed, other = serve(fault=lambda n, seed: None if n < 5 else "404"), serve(latency=0.02)
    teacher = teacher_of(changed.url, other.url, concurrency=2)
    replies = ask_all(teacher, [question(picture, number) for number in range(40)])
    assert all(isinstance(reply, Reply) and reply.text for reply in replies)
    assert changed.count > 5
    assert changed.answered.total() == 5
    assert other.answered.total() == 35


def test_proxies_of_the_environment_are_not_asked(serve, picture, monkeypatch):
    stub, proxy = serve(), serve()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(ask_all(teacher_of(stub.url), [question(picture)])[0], Reply)
    assert proxy.requests == []


def test_a_killed_server_that_comes_back_is_used_again(serve, picture):
    first = serve(latency=0.05)
    teacher, questions = teacher_of(first.url, concurrency=4), [question(picture, number) for number in range(60)]

    async def scenario() -> list[Reply]:
        asked = asyncio.gather(*(teacher.ask(question, teacher.request(question)) for question in questions))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(first.stop)
        await asyncio.sleep(0.7)
        serve(port=first.port)
        replies = await asked
        await teacher.close()
        return replies

    assert len(asyncio.run(scenario())) == 60


def test_the_end_of_a_build_does_not_wait_for_a_slow_endpoint(serve, picture, monkeypatch):
    monkeypatch.setattr(endpoints, "_MOVE_AFTER", 0.1)
    slow, quick = serve(fault=lambda n, seed: "hang"), serve(latency=0.01)
    replies = ask_all(teacher_of(slow.url, quick.url, timeout=600.0), [question(picture, n) for n in range(60)])
    assert all(isinstance(reply, Reply) for reply in replies)
    # Those that were at the slow one, too.
    assert slow.count > 0
    assert quick.answered.total() == 60


def test_a_cancelled_request_gives_its_place_back(serve, picture):
    stub = serve(fault=lambda n, seed: "hang" if n < 4 else None)
    teacher = teacher_of(stub.url, concurrency=4)

    async def scenario() -> None:
        hanging = [
            asyncio.create_task(teacher.ask(question(picture, n), teacher.request(question(picture, n))))
            for n in range(4)
        ]
        await asyncio.sleep(0.3)
        assert teacher.endpoints()[0].load == 4
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)
        assert teacher.endpoints()[0].load == 0
        await teacher.ask(question(picture, 9), teacher.request(question(picture, 9)))
        assert teacher.endpoints()[0].answered == 1
        await teacher.close()

    asyncio.run(scenario())
