"""What is sent to chat servers: where to, with what key, and that the key comes back in no message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from pipeline.system.chat_client import ChatClient, HttpReply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def ask(handler: Handler, key: str | None = "secret", **kwargs: float) -> HttpReply:
    """Post to a server whose every path has this handler."""

    async def work() -> HttpReply:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        try:
            async with ChatClient(key, 2, **kwargs) as client:
                return await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", b"{}")
        finally:
            await runner.cleanup()

    return asyncio.run(work())


@pytest.mark.parametrize(("key", "header"), [("secret", "Bearer secret"), (None, "none"), ("", "none")])
def test_the_key_is_sent_where_there_is_one(key, header, monkeypatch):
    # It would answer nothing.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", "none") + request.content_type)

    assert ask(handler, key).data.decode() == header + "application/json"


def test_a_redirect_is_an_answer_and_is_not_followed():
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    assert ask(handler).status == 302


@pytest.mark.parametrize(
    ("said", "pause"), [("3", 3.0), ("0.5", 0.5), ("900", 60.0), ("-1", 0.0), ("Wed, 21 Oct 2026", 0.0), ("", 0.0)]
)
def test_the_pause_a_server_asks_for_is_heeded_within_reason(said, pause):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": said})

    assert ask(handler).pause == pause


def test_a_server_that_does_not_end_its_answer_is_given_up():
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    with pytest.raises(TimeoutError):
        ask(handler, total_seconds=0.2)


def test_a_message_has_neither_the_key_nor_what_a_file_cannot_hold():
    client = ChatClient("secret", 1)
    assert client.without_key("wrong key: secret, secret \ud800") == "wrong key: ***, *** ?"
    assert ChatClient(None, 1).without_key("") == ""
