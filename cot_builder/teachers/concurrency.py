"""How many requests one server is given at a time: as many as make it faster, no more.

A server that batches (vLLM) answers more requests per second the more it has, each of them later, up to a point from
which they only wait for each other. Latency therefore rises long before that point, and an algorithm that takes rising
latency for congestion (TCP Vegas, Netflix's gradient limit) would stop far too early. `Limit` climbs by throughput: it
tries another number of requests in flight, measures completed requests per second over whole generations of them, and
keeps the number only when it pays. Latency only says where to look when most of it seems to be waiting: by Little's law
``in flight = rate x latency``, so a rate times the quickest latency seen is what the server really works on. What it
shares with TCP is the fast start (doubling, on a clock, because replies take seconds) and the cut by half (AIMD) when the
server says it has too much.

Time is passed in, so a simulated server can drive it.
"""

from __future__ import annotations

import math
from statistics import median

_START = 8
_STEP = 0.1
"""Seconds between two doublings at the start."""
_GAIN = 0.15
"""Share of an increase of the limit that must come back as throughput: half as many again must give 7.5 % more."""
_LOSS = 0.05
"""Share of the throughput that a lower limit may cost."""
_WAITING, _SPARE = 2.0, 1.25
"""Times what the server works on from which a lower limit is tried, and how low."""
_FULL = 0.9
"""Share of the limit in flight from which a completion says something about the limit."""
_GROUP = 8
"""Fewest completions that a number is drawn from."""
_BASES = 3
"""Windows under one limit before a lower one is tried."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
"""Seconds between a number that did not pay and the next one tried, each at least `_RARELY` times what the trial took."""
_RARELY = 5
_TOLD, _SUSPECTED, _MEMORY = 0.06, 0.1, 1 / 32
"""Share of overload among the last 32 replies or so that cuts the limit: two in a row that the server called so, or four
that may be one. Fewer say nothing of the limit, and halving for each would end at one request at a time."""


class Limit:
    """The number of requests one endpoint may have in flight (`value`), from 1 to `ceiling`."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.value = min(_START, ceiling)
        self.latency: float | None = None
        """Seconds a request takes here of late; None before the first reply."""
        self._quickest = math.inf
        self._group: list[float] = []
        self._starting, self._next_step = self.value < ceiling, 0.0
        self._steps = (0, 0)
        """Completions in the last step of the start, and in this one."""
        self._base, self._rate, self._bases = 0, 0.0, 0
        """The limit known to be good (0: none), its completions per second, and the windows that say so."""
        self._too_low = 0
        self._pause, self._next_trial = _FIRST_PAUSE, 0.0
        self._changed, self._earlier = 0.0, 0
        """When the limit was last changed, and the replies since then to requests from before."""
        self._opened: float | None = None
        self._count = self._full = 0
        self._overload, self._cut, self._answered = [0.0, 0.0], -math.inf, True

    def grow(self, now: float, load: int) -> float | None:
        """Return double the limit at the start, when `load` fills it. Gives the time of the next doubling, None after it."""
        if self._starting and load >= self.value and now >= self._next_step:
            before, lately = self._steps
            # Replies of this step tell of this step only when they come much quicker than steps do.
            telling = before >= _GROUP and self.latency is not None and self.latency < _STEP / 2
            if telling and lately < (1 + _GAIN) * before:
                self._set(now, self.value)
            elif self._next_step:
                value = min(2 * self.value, self.ceiling)
                self._set(now, value)
                self._starting = value < self.ceiling
            self._steps, self._next_step = (lately, 0), now + _STEP
        return self._next_step if self._starting else None

    def done(self, now: float, sent: float, load: int) -> None:
        """Note that a request sent at `sent` was answered; `load` were in flight, this one among them."""
        self._answered = True
        self._overload = [share * (1 - _MEMORY) for share in self._overload]
        self._note_latency(now - sent)
        if self._starting:
            self._steps = (self._steps[0], self._steps[1] + 1)
        elif sent < self._changed:
            self._earlier += 1
            self._check_queue(now)
        elif self._opened is None:
            # The first generation under this limit is through.
            self._open(now)
        else:
            self._count += 1
            self._full += load >= _FULL * self.value
            if sent >= self._opened and self._count >= max(_GROUP, self.value, min(4 * self.value, 128)):
                opened, self._opened = self._opened, now
                # Else there was too little to ask, which says nothing of the limit.
                if self._full > self._count / 2:
                    self._judge(now, self._count / max(now - opened, 1e-9))
                self._count = self._full = 0

    def overloaded(self, now: float, sent: float, *, told: bool) -> None:
        """Note that a request sent at `sent` failed in a way that can mean too many requests: halve, once per generation.

        Args:
            told: whether the server said so (HTTP 429, or a Retry-After).
        """
        self._overload[told] += (1 - self._overload[told]) * _MEMORY
        # A server that has answered nothing since the last cut is not overloaded but down.
        if sent < self._cut or not self._answered or self._overload[told] < (_TOLD if told else _SUSPECTED):
            return
        self._cut, self._answered, self._overload = now, False, [0.0, 0.0]
        # A trial: what was there before it was good.
        if 0 < self._base < self.value:
            self._fail(now, self._base)
        else:
            self._base = 0
            self._fail(now, max(1, self.value // 2))

    def paused(self, now: float) -> None:
        """Note that requests are held back, so what is being measured says nothing of the limit; a trial ends where it began."""
        if not self._starting and 0 < self._base != self.value:
            self._fail(now, self._base)
        self._opened = None

    def _note_latency(self, latency: float) -> None:
        self.latency = latency if self.latency is None else 0.9 * self.latency + 0.1 * latency
        self._group.append(latency)
        if len(self._group) == _GROUP:
            # Slowly forgotten, for the requests may become longer for good.
            self._quickest = min(self._quickest * 1.001, median(self._group))
            self._group.clear()

    def _check_queue(self, now: float) -> None:
        """Where nothing has been measured, do not wait for a whole generation to come through a long queue."""
        waited = now - self._changed
        if self._base == 0 and waited > max(8 * self._quickest, _FIRST_PAUSE) and 4 * self._earlier < self.value:
            self._set(now, self._needed(self._earlier / waited))

    def _judge(self, now: float, rate: float) -> None:
        """A window of whole generations under the present limit has ended: keep the limit, or try another."""
        if self.value > self._base > 0:
            if rate < self._rate * (1 + _GAIN * (self.value / self._base - 1)):
                self._fail(now, self._base)
            else:
                self._accept(rate)
                self._climb(now)
        elif self.value < self._base:
            if rate < self._rate * (1 - _LOSS):
                self._too_low = self.value
                self._fail(now, self._base)
            else:
                self._accept(rate)
        else:
            self._rate = rate if self._base == 0 else (self._rate + rate) / 2
            self._base, self._bases = self.value, self._bases + 1
            if now >= self._next_trial:
                self._try_another(now)

    def _try_another(self, now: float) -> None:
        lower = max(self._needed(self._rate), math.ceil(math.sqrt(self._too_low * self.value)))
        if self.value < min(self.ceiling, _WAITING * self._rate * self._quickest):
            self._climb(now)
        elif self._bases >= _BASES and _SPARE * lower < self.value:
            self._set(now, lower)
        elif self._bases >= _BASES:
            # Nothing lower is left to try: from the beginning again, later.
            self._too_low, self._next_trial = 0, now + _LONGEST_PAUSE
            self._climb(now)

    def _needed(self, rate: float) -> int:
        """What a server of this rate works on, and a little more; never less than at the start.

        So few burden no server, and where other work makes a server's speed swing, fewer may seem to do by luck alone.
        """
        return min(self.ceiling, max(_START, math.ceil(_SPARE * rate * self._quickest) + 1))

    def _accept(self, rate: float) -> None:
        self._base, self._rate, self._bases, self._too_low, self._pause = self.value, rate, 1, 0, _FIRST_PAUSE

    def _climb(self, now: float) -> None:
        value = min(self.ceiling, 2 * self.value if self.value < 2 * _GROUP else self.value * 3 // 2)
        if value > self.value:
            self._set(now, value)

    def _fail(self, now: float, value: int) -> None:
        self._next_trial = now + max(self._pause, _RARELY * (now - self._changed))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._set(now, value)

    def _set(self, now: float, value: int) -> None:
        self.value, self._starting = value, False
        self._changed, self._earlier, self._opened = now, 0, None

    def _open(self, now: float) -> None:
        self._opened, self._count, self._full = now, 0, 0
