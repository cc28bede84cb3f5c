"""When each chat request came and went, as the server sees it: one measure for every contestant, whatever it says of itself.

`Clock` is given to vLLM with ``--middleware benchmarks.rivals.clock.Clock``; it appends a line per finished request to the
file named by REQUEST_CLOCK. `read` gives them back. The times are the machine's monotonic clock.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "REQUEST_CLOCK"


class TimedRequest(NamedTuple):
    """One request: when it came and went, in seconds, and its HTTP status (0: none was sent)."""

    came: float
    went: float
    status: int


class Clock:
    """A pure ASGI middleware: two clock readings and one written line per chat request."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._file = Path(os.environ[VARIABLE]).open("a", buffering=1)  # noqa: SIM115 - open as long as the server runs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/chat/completions"):
            await self._app(scope, receive, send)
            return
        came, status = time.monotonic(), 0

        async def sent(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._file.write(f"{came} {time.monotonic()} {status}\n")


def read(file: Path, skip: int = 0) -> list[TimedRequest]:
    """The requests finished so far in the order they came, without the first `skip` that finished."""
    lines = file.read_text().splitlines()[skip:] if file.exists() else []
    return sorted(TimedRequest(float(came), float(went), int(status)) for came, went, status in map(str.split, lines))


def most_at_once(asked: list[TimedRequest]) -> int:
    """The most requests that were in flight at one time."""
    steps = sorted([(one.came, 1) for one in asked] + [(one.went, -1) for one in asked])
    now = most = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most
