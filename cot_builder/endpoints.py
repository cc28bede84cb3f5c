"""Several servers of one model: least loaded first, and a rest for those that fail.

An endpoint that fails is left alone for a while, doubling each time, then tried with one request. When none has
answered for `patience` seconds the teacher is down and the rest of its rows stay unasked.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import openai

from cot_builder.teachers import TeacherDown

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0


class Failure(Exception):
    """A request that got no reply. `absent`: no connection was made, so the row is not to blame."""

    def __init__(self, kind: str, message: str, *, absent: bool = False, pause: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.absent, self.pause = kind, absent, pause


class Endpoint:
    """One address, its load, and how it has been doing."""

    def __init__(self, url: str, client: openai.AsyncOpenAI, limit: int) -> None:
        self.url, self.client, self.limit = url, client, limit
        self.load = 0
        self.failures = 0
        """Failures in a row."""
        self.resting_until = 0.0

    def room(self, now: float) -> int:
        """Requests it may be given: none while it rests, one to try it after a failure."""
        return 0 if now < self.resting_until else (1 if self.failures else self.limit) - self.load


class Pool:
    """Hands out the least loaded endpoint that works, and knows when none has for `patience` seconds."""

    def __init__(self, endpoints: list[Endpoint], patience: float, cure: str = "") -> None:
        self.endpoints, self.patience = endpoints, patience
        self.cure = cure
        """What a person can do when no endpoint answers."""
        self.why_down: str | None = None
        self._failing_since: float | None = None
        self._changed = asyncio.Condition()

    async def take(self) -> Endpoint:
        """An endpoint with room; waits for one.

        Raises:
            TeacherDown: when there will be none.
        """
        async with self._changed:
            while True:
                if self.why_down is not None:
                    raise TeacherDown(self.why_down)
                now = time.monotonic()
                free = [endpoint for endpoint in self.endpoints if endpoint.room(now) > 0]
                if free:
                    best = min(free, key=lambda endpoint: (endpoint.failures > 0, endpoint.load))
                    best.load += 1
                    return best
                resting = [endpoint.resting_until - now for endpoint in self.endpoints if endpoint.resting_until > now]
                try:
                    async with asyncio.timeout(min(resting, default=None)):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def give_back(self, endpoint: Endpoint, failure: Failure | None) -> None:
        """Return an endpoint and say how it did."""
        endpoint.load -= 1
        if failure is None:
            endpoint.failures, endpoint.resting_until, self._failing_since = 0, 0.0, None
        else:
            self._note(endpoint, failure)
        async with self._changed:
            self._changed.notify_all()

    def stop(self, why: str) -> None:
        """Hand nothing out any more."""
        self.why_down = self.why_down or why

    def _note(self, endpoint: Endpoint, failure: Failure) -> None:
        now = time.monotonic()
        if now >= endpoint.resting_until:  # The requests that were in flight together fail together: one pause for all.
            endpoint.failures += 1
            pause = min(_FIRST_PAUSE * 2 ** (endpoint.failures - 1), _LONGEST_PAUSE) * random.uniform(0.8, 1.2)
            endpoint.resting_until = now + max(pause, failure.pause)
        if all(other.failures for other in self.endpoints):
            urls = ", ".join(other.url for other in self.endpoints)
            why = f"({failure.kind}: {failure}){f'; {self.cure}' if self.cure else ''}"
            if self._failing_since is None:
                self._failing_since = now
                if failure.absent and self.patience:  # Said at once, so that nobody waits without knowing for what.
                    print(f"no reply from {urls}, trying for {self.patience:g} s {why}", file=sys.stderr, flush=True)
            if now - self._failing_since >= self.patience:
                self.stop(f"no reply from {urls} for {self.patience:g} s {why}")
