"""A server of the OpenAI chat API for tests and benchmarks: thousands of replies a second, and every way to fail.

In a test, `FaultServer` runs in a thread and `fault(n, seed)` decides what happens to the n-th request. On its own::

    python tests/fault_server.py --port 8123 --seed 1 --faults 500=0.01,reset=0.01,hang=0.001 --latency 0.05

GET /counts gives the requests, the answers, and how many requests were answered more than once. A fault is one of

- an HTTP status, with seconds for Retry-After behind a colon: ``500``, ``429:2``
- ``reset`` (RST instead of a reply), ``truncate`` (the connection closes amid the body), ``hang`` (no reply ever)
- ``garbage`` (cut JSON), ``shape`` (JSON that is no completion), ``redirect`` (to another path)
- a number of seconds to wait before a good reply, as a float (``0.5``)
- a status with a body of its own, as a pair (``(200, {"error": …})``)

It speaks just enough HTTP/1.1 for that, by hand, so that it costs less than the clients it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

Fault = str | float | tuple[int, Any] | None
LABELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def stub_reply(seed: int, label: str) -> str:
    """The reply to a request: right for three seeds of four, otherwise wrong or malformed."""
    if seed % 8 == 0:
        return f"<answer>{label}</answer>"
    if seed % 8 == 1:
        label = LABELS[(LABELS.index(label) + 1) % len(LABELS)] if label in LABELS else LABELS[0]
    return f" <think>Picture number {seed} speaks of {label}.</think>\n<answer>{label.upper()}.</answer>"


def parts(body: dict[str, Any]) -> tuple[str, str]:
    """The text of a request and the data URL of its picture ('' without one)."""
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return content, ""
    text = next(part["text"] for part in content if part["type"] == "text")
    return text, next((part["image_url"]["url"] for part in content if part["type"] == "image_url"), "")


def default_reply(body: dict[str, Any], salt: int = 0) -> str:
    """A reply that follows from the seed, the text and the picture alone.

    A prompt that shows the label gets that one; any other prompt one drawn from the three, or from the choices allowed.
    """
    text, url = parts(body)
    seed = body.get("seed", 0)
    drawn = int.from_bytes(hashlib.sha256(f"{salt}:{seed}:{text}:{url}".encode()).digest()[:8])
    choices = body.get("structured_outputs", {}).get("choice")
    if choices:
        return str(choices[drawn % len(choices)])
    shown = re.findall(r"answered: (\w+)\.", text)
    return stub_reply(seed, shown[0] if shown else LABELS[drawn % len(LABELS)])


class FaultServer:
    """A server on a port of this machine, in a thread of its own.

    Args:
        fault: what happens to the n-th request (from 0), given n and its sampling seed; called in the server's thread.
        port: 0 takes a free one.
        reply: the text of a good reply to a request's body, or its whole message.
        latency: seconds before every reply.
        keep: whether to remember `requests` and `headers`.
        retry_after: seconds in the Retry-After of a status that names none; 0 sends no such header.
    """

    def __init__(
        self,
        fault: Callable[[int, int], Fault] = lambda n, seed: None,
        port: int = 0,
        *,
        reply: Callable[[dict[str, Any]], str | dict[str, Any]] = default_reply,
        latency: float = 0.0,
        keep: bool = True,
        retry_after: float = 0.0,
    ) -> None:
        self.fault, self.reply, self.latency, self.keep = fault, reply, latency, keep
        self.retry_after = retry_after
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.answered: Counter[int] = Counter()
        """Good replies by sampling seed."""
        self.answered_bodies: Counter[bytes] = Counter()
        """Good replies by the digest of everything that was sent."""
        self.count = self.in_flight = self.most_in_flight = 0
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=4096)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result()

    def picture(self, number: int) -> Image.Image:
        """The picture that came with the n-th request."""
        return Image.open(BytesIO(base64.b64decode(parts(self.requests[number])[1].partition(",")[2])))

    def stop(self) -> None:
        """Close the port and reset every connection, as a killed server does. A second call does nothing."""
        if not self._thread.is_alive():
            return

        def end() -> None:
            self._server.close()
            for connection in list(self._connections):
                connection.reset()
            self._loop.call_soon(self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join()
        self._loop.close()

    def join(self) -> None:
        """Serve until interrupted."""
        self._thread.join()

    def counts(self) -> dict[str, int]:
        """Requests, answers, and requests that were answered more than once."""
        twice = sum(count > 1 for count in self.answered_bodies.values())
        return {"requests": self.count, "answered": self.answered_bodies.total(), "answered_again": twice}


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, as HTTP/1.1 without pipelining sends them."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.data = bytearray()
        self.need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= self.need:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.data[:end])
            found = _LENGTH.search(head)
            self.need = end + 4 + (int(found[1]) if found else 0)
            if len(self.data) < self.need:
                return
            body = bytes(self.data[end + 4 : self.need])
            del self.data[: self.need]
            self.need = 0
            self.received(head, body)

    def received(self, head: bytes, raw: bytes) -> None:
        server, (line, *lines) = self.server, head.decode("latin-1").split("\r\n")
        path = line.split(" ")[1]
        if line.startswith("GET "):
            self.write(200, json.dumps(server.counts()).encode())
            return
        number, body = server.count, json.loads(raw)
        server.count += 1
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if server.keep:
            server.requests.append(body)
            server.headers.append(headers)
            server.paths.append(path)
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        fault = server.fault(number, body.get("seed", 0))
        wait = server.latency + (fault if isinstance(fault, float) else 0.0)
        if fault == "hang":
            server.in_flight -= 1
        elif wait:
            server._loop.call_later(wait, self.respond, fault, body, raw, headers)
        else:
            self.respond(fault, body, raw, headers)

    def respond(self, fault: Fault, body: dict[str, Any], raw: bytes, headers: dict[str, str]) -> None:
        server = self.server
        server.in_flight -= 1
        if self.transport.is_closing():
            return
        if fault == "reset":
            self.reset()
        elif fault == "garbage":
            self.write(200, b'{"choices": [{"mess')
        elif fault == "shape":
            self.write(200, b'{"choices": [{"message": {"role": "assistant"}}]}')
        elif fault == "truncate":
            self.write(200, completion(body, server.reply(body)), missing=100)
            self.transport.close()
        elif isinstance(fault, tuple):
            self.write(fault[0], fault[1] if isinstance(fault[1], bytes) else json.dumps(fault[1]).encode())
        elif fault == "redirect":
            self.write(307, b"", f"Location: {server.url}/elsewhere\r\n")
        elif isinstance(fault, str):
            status, _, pause = fault.partition(":")
            pause = pause or (str(server.retry_after) if server.retry_after else "")
            message = {"error": {"message": f"no: {headers.get('authorization')}"}}
            self.write(int(status), json.dumps(message).encode(), f"Retry-After: {pause}\r\n" if pause else "")
        else:
            server.answered[body.get("seed", 0)] += 1
            server.answered_bodies[hashlib.sha256(raw).digest()] += 1
            self.write(200, completion(body, server.reply(body)))

    def write(self, status: int, data: bytes, more: str = "", *, missing: int = 0) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data) + missing}\r\n{more}\r\n"
        self.transport.write(head.encode() + data)

    def reset(self) -> None:
        """RST: close without the usual farewell."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def completion(body: dict[str, Any], said: str | dict[str, Any]) -> bytes:
    """The JSON of a good reply: its text, or the fields of its message."""
    message = {"content": said} if isinstance(said, str) else said
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return json.dumps({**whole, "choices": [choice], "usage": usage}).encode()


def fault_plan(words: str, seed: int) -> Callable[[int, int], Fault]:
    """A fault function from shares such as ``500=0.01,reset=0.02``; which request gets which follows from `seed` and n."""
    shares = [(float(share), kind) for kind, _, share in (word.rpartition("=") for word in words.split(",") if word)]

    def fault(number: int, _: int) -> Fault:
        draw = random.Random(f"{seed}:{number}").random() if shares else 1.0
        for share, kind in shares:
            draw -= share
            if draw < 0:
                return float(kind) if re.fullmatch(r"\d*\.\d+", kind) else kind
        return None

    return fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="", help="shares of requests, such as 500=0.01,429:1=0.02,reset=0.01")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every reply")
    words = parser.parse_args()
    server = FaultServer(
        fault_plan(words.faults, words.seed),
        words.port,
        reply=lambda body: default_reply(body, words.seed),
        latency=words.latency,
        keep=False,
    )
    print(server.url, flush=True)
    try:
        server.join()
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
