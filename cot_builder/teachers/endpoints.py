"""Several servers of one model: the quickest free one first, and a rest for those that fail.

How many requests an endpoint is given follows from its throughput (cot_builder/teachers/concurrency.py). One that fails is
left alone for a while, doubling each time, then tried with one request. When none has answered for `patience` seconds the
teacher is down and the rest of its rows stay unasked. A request that waits at a slow endpoint while a quick one is idle, as
happens at the end of a build, is moved there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass

from cot_builder.teachers.base import EndpointState, TeacherDown
from cot_builder.teachers.concurrency import Limit

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_MOVE_AFTER = 1.0
"""Seconds a request is never moved in, and between two looks for such as might be."""
_FEW = 8
"""Requests in flight up to which a rest is felt: among more, the next reply ends it at once."""
_OVERLOAD = ("http_429", "http_503", "timeout")


class Failure(Exception):
    """A request that got no reply. `absent`: no connection was made, so the row is not to blame.

    `pause` holds the seconds the server asked us to stay away (Retry-After).
    """

    def __init__(self, kind: str, message: str, *, absent: bool = False, pause: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.absent, self.pause = kind, absent, pause


class Endpoint:
    """One address, its load, and how it has been doing."""

    def __init__(self, url: str, ceiling: int) -> None:
        self.url, self.limit = url, Limit(ceiling)
        self.leases: dict[Lease, None] = {}
        """What is in flight, the oldest first."""
        self.answered = self.failed = 0
        self.answered_at = 0.0
        """When it answered last, on the monotonic clock."""
        self.failures = 0
        """Failures in a row."""
        self.resting_until = self.banned_until = 0.0
        """A reply to another request ends a rest, but not one that the server asked for."""

    @property
    def load(self) -> int:
        """Requests in flight."""
        return len(self.leases)

    def resting(self, now: float) -> float:
        """Return seconds it is still left alone."""
        return max(self.resting_until, self.banned_until) - now

    def room(self) -> int:
        """Return requests it may be given while it does not rest: one to try it after a failure."""
        return (1 if self.failures else self.limit.value) - self.load

    def delay(self, now: float, otherwise: float) -> float:
        """Return about how long the next request would be worked on; `otherwise` stands in for a latency not known yet."""
        latency = otherwise if self.limit.latency is None else self.limit.latency
        oldest = next(iter(self.leases), None)
        if oldest is not None:
            latency = max(latency, now - oldest.since)
        return latency * (self.load + 1) / self.limit.value


@dataclass(eq=False, slots=True)
class Lease:
    """The right to have one request in flight at an endpoint."""

    endpoint: Endpoint
    since: float
    alarm: asyncio.Timeout | None = None
    """Ends the request early when `Pool` wants it moved; whoever sends a request that may be moved sets it."""
    moved: bool = False

    def move(self) -> None:
        """End the request where it is, unless it may not be moved or is ending already."""
        if self.alarm is not None and not self.alarm.expired() and not self.moved:
            self.moved = True
            self.alarm.reschedule(asyncio.get_running_loop().time())

    def left(self, now: float) -> float:
        """Return seconds until the reply: what such requests usually take there; when it is late, as long as it took so far."""
        age, usual = now - self.since, self.endpoint.limit.latency
        return usual - age if usual is not None and age < usual else age


class Pool:
    """Hands out endpoints to whoever asked first, and knows when none has answered for `patience` seconds.

    Args:
        urls: the endpoints' addresses.
        ceiling: most requests in flight at each.
        patience: see above.
        cure: what a person can do when no endpoint answers.
    """

    def __init__(self, urls: list[str], ceiling: int, patience: float, cure: str = "") -> None:
        self.endpoints = [Endpoint(url, ceiling) for url in urls]
        self.patience, self.cure = patience, cure
        self.why_down: str | None = None
        self._failing_since: float | None = None
        self._waiting: deque[tuple[asyncio.Future[Lease], Endpoint | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._mover: asyncio.TimerHandle | None = None

    async def take(self, besides: Endpoint | None = None) -> Lease:
        """Return a place at an endpoint with room, another one than `besides` where there is; waits for one.

        Raises:
            TeacherDown: when there will be none.
        """
        turn: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, besides))
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result(), answered=False)
            raise

    def give_back(self, lease: Lease, failure: Failure | None = None, *, answered: bool = True) -> None:
        """Return a place and say how it went: a failure, a reply, or (not `answered`) neither, when it was cancelled."""
        endpoint, now = lease.endpoint, time.monotonic()
        if failure is not None:
            self._note(endpoint, failure, lease.since, now)
        elif answered:
            endpoint.limit.done(now, lease.since, endpoint.load)
            endpoint.answered += 1
            endpoint.answered_at = now
            self.works(endpoint)
        endpoint.leases.pop(lease, None)
        self._hand_out()

    def works(self, endpoint: Endpoint) -> None:
        """Note that an endpoint answers: its rest ends, and so does the time for which none has answered."""
        endpoint.failures, endpoint.resting_until, self._failing_since = 0, 0.0, None

    def is_impatient(self) -> bool:
        """Check whether no endpoint has answered for `patience` seconds, so that the next failure ends it all."""
        return self._failing_since is not None and time.monotonic() - self._failing_since >= self.patience

    def stop(self, why: str) -> None:
        """Hand nothing out any more."""
        self.why_down = self.why_down or why
        self._hand_out()

    def close(self) -> None:
        """Stop the clocks."""
        for timer in (self._timer, self._mover):
            if timer is not None:
                timer.cancel()

    def states(self) -> list[EndpointState]:
        """Return how each endpoint is doing."""
        now = time.monotonic()
        return [
            EndpointState(e.url, e.load, e.limit.value, e.answered, e.failed, e.failures > 0 or e.resting(now) > 0)
            for e in self.endpoints
        ]

    def _hand_out(self) -> None:
        """Serve those that wait, as far as there is room, and come back when there may be more."""
        now, later = time.monotonic(), []
        while self._waiting:
            turn, besides = self._waiting[0]
            # Else it was cancelled.
            if not turn.done():
                if self.why_down is not None:
                    turn.set_exception(TeacherDown(self.why_down))
                elif (endpoint := self._best(now, besides)) is not None:
                    lease = Lease(endpoint, now)
                    endpoint.leases[lease] = None
                    turn.set_result(lease)
                else:
                    break
            self._waiting.popleft()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            for endpoint in self.endpoints:
                rest = endpoint.resting(now)
                if rest > 0:
                    later.append(rest)
                elif not endpoint.failures and (step := endpoint.limit.grow(now, endpoint.load)) is not None:
                    later.append(max(step - now, 0.0))
            if later:
                self._timer = asyncio.get_running_loop().call_later(min(later) + 0.001, self._hand_out)
        if self._mover is None and len(self.endpoints) > 1 and any(endpoint.leases for endpoint in self.endpoints):
            self._mover = asyncio.get_running_loop().call_later(_MOVE_AFTER, self._move)

    def _free(self, now: float) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if endpoint.room() > 0 and endpoint.resting(now) <= 0]

    def _best(self, now: float, besides: Endpoint | None) -> Endpoint | None:
        free = self._free(now)
        if len(free) < 2:
            return free[0] if free else None
        known = [endpoint.limit.latency for endpoint in free if endpoint.limit.latency is not None]
        otherwise = min(known, default=1.0)
        return min(free, key=lambda e: (e is besides, e.failures > 0, e.delay(now, otherwise)))

    def _move(self) -> None:
        """End requests that would be answered sooner if they began anew at an idle endpoint."""
        self._mover, now = None, time.monotonic()
        known = [endpoint for endpoint in self._free(now) if endpoint.limit.latency and not endpoint.failures]
        if known and not self._waiting:
            quickest = min(known, key=lambda endpoint: endpoint.limit.latency or 0.0)
            least = max(_MOVE_AFTER, 2 * (quickest.limit.latency or 0.0))
            others = (lease for endpoint in self.endpoints if endpoint is not quickest for lease in endpoint.leases)
            slow = [lease for lease in others if now - lease.since > _MOVE_AFTER and lease.left(now) > least]
            for lease in sorted(slow, key=lambda lease: lease.since)[: quickest.room()]:
                lease.move()
        if any(endpoint.leases for endpoint in self.endpoints):
            self._mover = asyncio.get_running_loop().call_later(_MOVE_AFTER, self._move)

    def _note(self, endpoint: Endpoint, failure: Failure, since: float, now: float) -> None:
        endpoint.failed += 1
        if failure.kind in _OVERLOAD and not failure.absent:
            told = failure.kind == "http_429" or failure.pause > 0
            endpoint.limit.overloaded(now, since, told=told)
        if failure.pause or endpoint.load <= _FEW:
            endpoint.limit.paused(now)
        # The requests that were in flight together fail together: one pause for all.
        if endpoint.resting(now) <= 0:
            endpoint.failures += 1
            pause = min(_FIRST_PAUSE * 2 ** (endpoint.failures - 1), _LONGEST_PAUSE) * random.uniform(0.8, 1.2)
            endpoint.resting_until = now + pause
        if failure.pause:
            endpoint.banned_until = max(endpoint.banned_until, now + failure.pause)
        if all(other.failures for other in self.endpoints):
            urls = ", ".join(other.url for other in self.endpoints)
            why = f"({failure.kind}: {failure}){f'; {self.cure}' if self.cure else ''}"
            if self._failing_since is None:
                self._failing_since = now
                # Said at once, so that nobody waits without knowing for what.
                if failure.absent and self.patience:
                    log.warning("no reply from %s, trying for %g s %s", urls, self.patience, why)
            if now - self._failing_since >= self.patience:
                self.stop(f"no reply from {urls} for {self.patience:g} s {why}")
