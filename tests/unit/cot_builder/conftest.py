"""A stub of the chat API with faults on demand, and builds on a few small drawn pictures."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cot_builder.__main__ import main
from pipeline.tasks.scenes import EMOTIONS

Fault = str | float | None
"""An HTTP status, reset, truncate, garbage, or seconds to wait before the reply; None for a good reply."""


def stub_reply(seed: int, label: str) -> str:
    """The reply to a request: right for three seeds of four, otherwise wrong or malformed."""
    if seed % 8 == 0:
        return f"<answer>{label}</answer>"
    if seed % 8 == 1:
        label = EMOTIONS[(EMOTIONS.index(label) + 1) % len(EMOTIONS)]
    return f" <think>Picture number {seed} speaks of {label}.</think>\n<answer>{label.upper()}.</answer>"


class Stub:
    """A server of the chat API on a free port. `fault(n, seed)` decides what happens to the n-th request (from 0)."""

    def __init__(self, fault: Callable[[int, int], Fault] = lambda n, seed: None, port: int = 0) -> None:
        self.fault = fault
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[int] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    number = len(stub.requests)
                    stub.requests.append(body)
                    stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                    stub.in_flight += 1
                    stub.most_in_flight = max(stub.most_in_flight, stub.in_flight)
                try:
                    stub.respond(self, body, number)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with stub.lock:
                        stub.in_flight -= 1

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        fault = self.fault(number, body["seed"])
        text = body["messages"][0]["content"][0]["text"]
        label = re.findall(r"answered: (\w+)\.", text)
        reply = stub_reply(body["seed"], label[0] if label else EMOTIONS[body["seed"] % 8])
        status, headers = 200, {}
        data = json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        ).encode()
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            raise ConnectionResetError
        if isinstance(fault, float):
            time.sleep(fault)
        elif fault == "garbage":
            data = b'{"choices": [{"mess'
        elif fault == "truncate":
            headers["Content-Length"] = str(len(data) + 100)
            handler.close_connection = True
        elif fault is not None:
            status = int(fault)
            headers["Retry-After"] = "0.1"
            data = json.dumps({"error": {"message": f"no: {handler.headers['Authorization']}"}}).encode()
        else:
            with self.lock:
                self.answered[body["seed"]] += 1
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def picture(self, number: int) -> Image.Image:
        """The picture that came with the n-th request."""
        url = self.requests[number]["messages"][0]["content"][1]["image_url"]["url"]
        return Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Stub]]:
    """Start stub servers: ``serve(fault=…, port=…)``; all are stopped at the end."""
    stubs: list[Stub] = []

    def start(**options: Any) -> Stub:
        stubs.append(Stub(**options))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.stop()


class Project:
    """A run on 40 drawn pictures whose teacher file and configuration a test writes."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cot = folder / "runs" / "tiny" / "cot"
        self.config = folder / "run.yaml"
        (folder / "runs" / "tiny").mkdir(parents=True)
        (folder / "runs" / "tiny" / "data").symlink_to(cache)

    def configure(self, teachers: dict[str, dict[str, Any]], rows: int = 40, **cot: Any) -> Path:
        """Write the run's file and one teacher file per entry."""
        for name, teacher in teachers.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(teacher))
        cot = {"split": f"train[:{rows}]", "prompt": "answer_given_v1", "concurrency": 4, **cot}
        cot["teachers"] = [str(self.folder / f"{name}.yaml") for name in teachers]
        task = {"name": "scenes", "options": {"train": 200, "val": 1, "test": 1, "size": 32}}
        run = {"name": "tiny", "output_dir": str(self.folder / "runs"), "task": task, "cot": cot}
        self.config.write_text(yaml.safe_dump(run))
        return self.config

    def ask(self, *stubs: Stub, rows: int = 40, teacher: dict[str, Any] | None = None, **cot: Any) -> Path:
        """Configure one teacher behind stubs, impatient enough for a test."""
        quick = {"kind": "openai", "model": "stub", "timeout": 5.0, "patience": 0.0, "image_size": 16}
        return self.configure({"stub": {**quick, "base_urls": [s.url for s in stubs], **(teacher or {})}}, rows, **cot)

    def build(self, *words: str) -> int:
        """Run `build` in this process; gives the exit code."""
        return main(["build", "--config", str(self.config), *words])

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.cot / "manifest.json").read_text())

    def parquet(self) -> bytes:
        return (self.cot / "train.parquet").read_bytes()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures are drawn once for all tests."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def project(tmp_path: Path, drawn: Path) -> Project:
    """An unconfigured run in a folder of its own."""
    return Project(tmp_path, drawn)
