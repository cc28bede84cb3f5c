"""The live line of a build on stderr: rewritten in place on a terminal, one line every ten seconds elsewhere.

`cot 1200/4000, 1013 kept, 187 rejected (wrong_label 121), 45 rows/s, 12.3k tokens/s, 0:01:02 left | gpu1:8000 60/64`
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import urlsplit

from cot_builder.teachers.base import EndpointState
from pipeline.logs import bars, columns, moves_bars

_WINDOW = 60.0
"""Seconds that rates look back on."""
_FORECAST_AFTER = 60.0
"""Seconds of asking after which a forecast says something."""
_LISTED = 4
"""Endpoints that are shown one by one; more are summed up."""
_PARTS = ("done", "kept", "rejected", "unasked", "rows", "tokens", "clock", "endpoints")
"""What the line holds, in its order."""


@dataclass
class _Second:
    """What was newly asked within one second."""

    start: float
    replies: int = 0
    tokens: int = 0


class Progress:
    """Counts rows and replies, and says how far the build is and what is still to come.

    Rates are those of the new replies of the last minute: rows that the journal answers take no time, so they say
    nothing about the rows to come.

    Args:
        total: rows of the build.
        stream: where the line goes; stderr when None.
        endpoints: gives the state of the servers; called only when a line is shown.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        endpoints: Callable[[], list[EndpointState]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.kept = self.unasked = self.replies = self.tokens_in = self.tokens_out = 0
        self.reasons: Counter[str] = Counter()
        """Reason: rejected rows."""
        self._stream = stream or sys.stderr
        self._live = moves_bars(self._stream)
        self._every = 0.2 if self._live else 10.0
        # A terminal without a size has room for it too (nrows).
        self._bar = bars()(bar_format="{desc}", file=self._stream, leave=False, nrows=24) if self._live else None
        self._endpoints, self._clock = endpoints, clock
        self._start = self._shown = clock()
        self._window: deque[_Second] = deque()
        self._first_new: float | None = None
        self._forecast_due = True

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    @property
    def done(self) -> int:
        return self.kept + self.rejected + self.unasked

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def row(self, kept: bool, reason: str | None = None) -> None:
        """Count a settled row; one that is neither kept nor rejected for a reason is unasked."""
        if kept:
            self.kept += 1
        elif reason is None:
            self.unasked += 1
        else:
            self.reasons[reason] += 1

    def reply(self, usage: Mapping[str, Any], cached: bool) -> None:
        """Count a reply. A cached one came from the journal: it counts in the totals, not in the rates."""
        tokens_in, tokens_out = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        self.replies += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if cached:
            return
        now = self._clock()
        if self._first_new is None:
            self._first_new = now
        if not self._window or now - self._window[-1].start >= 1:
            self._window.append(_Second(now))
        self._window[-1].replies += 1
        self._window[-1].tokens += tokens_in + tokens_out

    def tick(self) -> None:
        """Show the line when it is due. Cheap enough to be called for every row."""
        now = self._clock()
        if now - self._shown < self._every:
            return
        self._shown = now
        if self._forecast_due and self._first_new is not None and now - self._first_new >= _FORECAST_AFTER:
            forecast = self.forecast()
            self._forecast_due = not forecast
            if forecast:
                self._write(forecast, stays=True)
        self._write(self.line(columns(self._stream) if self._live else None))

    def finish(self) -> None:
        """Show the last state for good."""
        last = self.line(columns(self._stream) if self._live else None, finished=True)
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
        self._write(last, stays=True)

    def forecast(self) -> str:
        """Return what the build will have taken and given at its end, going by the rows so far; empty while nothing is known."""
        rows_per_second, _ = self._rates()
        judged = self.kept + self.rejected
        if not rows_per_second:
            return ""
        left = self.total - self.done
        tokens_in, tokens_out = (count / judged * (judged + left) for count in (self.tokens_in, self.tokens_out))
        tokens = (
            f"{_short(tokens_in)} tokens in and {_short(tokens_out)} out in all, " if tokens_in + tokens_out else ""
        )
        share = self.kept / judged
        kept = f"about {self.kept + round(share * left)} of {self.total} rows kept ({share:.0%})"
        return f"cot forecast: {left / rows_per_second / 3600:.1f} hours left, {tokens}{kept}"

    def line(self, width: int | None = None, finished: bool = False) -> str:
        """Return the state of the build in at most `width` columns; what matters least is left out first."""
        shown = dict.fromkeys(_PARTS, "")
        for part, text in self._by_importance(finished):
            longer = shown | {part: text}
            if width is None or len(_joined(longer)) <= width:
                shown = longer
        return _joined(shown) or f"{self.done}/{self.total}"[:width]

    def _by_importance(self, finished: bool) -> Iterator[tuple[str, str]]:
        """(part of the line, its text), what matters most first; a part that comes again replaces its shorter self."""
        rows_per_second, tokens_per_second = (0.0, 0.0) if finished else self._rates()
        states = [] if finished else self._endpoints()
        yield "done", f"cot {self.done}/{self.total}"
        if finished:
            yield "clock", f"in {_hours(self.seconds)}"
        elif rows_per_second:
            yield "clock", f"{_hours((self.total - self.done) / rows_per_second)} left"
        yield "kept", f"{self.kept} kept"
        yield "rejected", f"{self.rejected} rejected"
        yield "unasked", f"{self.unasked} unasked" if self.unasked else ""
        yield "rows", f"{_short(rows_per_second)} rows/s" if rows_per_second else ""
        yield from self._rejected(1)
        yield "endpoints", _summed(states)
        yield "tokens", f"{_short(tokens_per_second)} tokens/s" if tokens_per_second else ""
        yield from self._rejected(2)
        yield from self._rejected(3)
        if len(states) <= _LISTED:
            yield "endpoints", "  ".join(_one(state) for state in states)

    def _rejected(self, named: int) -> Iterator[tuple[str, str]]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(named))
        if reasons:
            yield "rejected", f"{self.rejected} rejected ({reasons})"

    def _rates(self) -> tuple[float, float]:
        """(rows, tokens) per second of the last minute: its new replies, at as many to a row as there were so far."""
        now = self._clock()
        while self._window and now - self._window[0].start > _WINDOW:
            self._window.popleft()
        judged = self.kept + self.rejected
        if not self._window or not judged or self._first_new is None:
            return 0.0, 0.0
        span = max(min(now - self._first_new, _WINDOW), 1.0)
        replies = sum(second.replies for second in self._window)
        tokens = sum(second.tokens for second in self._window)
        return replies / span * judged / self.replies, tokens / span

    def _write(self, line: str, stays: bool = False) -> None:
        # A terminal that is gone (SIGHUP); the build has more to do.
        with contextlib.suppress(OSError):
            if self._bar is None:
                print(line, file=self._stream, flush=True)
            elif stays:
                self._bar.write(line, file=self._stream)
                self._stream.flush()
            else:
                self._bar.set_description_str(line)


def _joined(shown: Mapping[str, str]) -> str:
    text = ", ".join(shown[part] for part in _PARTS if part != "endpoints" and shown[part])
    return " | ".join(filter(None, (text, shown["endpoints"])))


def _one(state: EndpointState) -> str:
    mark = " resting" if state.resting else ""
    return f"{urlsplit(state.url).netloc or state.url} {state.load}/{state.limit}{mark}"


def _summed(states: Sequence[EndpointState]) -> str:
    """All servers in one: `8 endpoints 310/512, 1 resting`."""
    if not states:
        return ""
    load, limit = sum(state.load for state in states), sum(state.limit for state in states)
    resting = sum(state.resting for state in states)
    mark = f", {resting} resting" if resting else ""
    return f"{len(states)} endpoint{'s' if len(states) > 1 else ''} {load}/{limit}{mark}"


def _short(number: float) -> str:
    """A number in four characters or so: 0.4, 45, 12.3k, 118M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.5 or (not unit and scaled >= 9.95) else f"{scaled:.1f}{unit}"
    return f"{number:.2g}"


def _hours(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:02, 75:00:00."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
