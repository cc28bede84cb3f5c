"""The live line of a build on stderr: rewritten in place on a terminal, one line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts rows and says how far the build is.

    Args:
        total: rows of the build.
        stream: where the line goes.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total = total
        self.kept = self.rejected = self.unasked = self.asked = 0
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.2 if self._live else 10.0
        self._start = self._last = time.monotonic()

    @property
    def done(self) -> int:
        return self.kept + self.rejected + self.unasked

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def tick(self) -> None:
        """Show the line when it is due."""
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._write(self.line())

    def finish(self) -> None:
        """Show the last state for good."""
        self._write(self.line())
        if self._live:
            self._stream.write("\n")

    def line(self) -> str:
        """`cot 1200/4000 rows, 1013 kept, 187 rejected, 45.2 rows/s, 0:01:02 left`."""
        rate = self.done / max(self.seconds, 1e-9)
        left = (self.total - self.done) / rate if rate else 0
        clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        unasked = f", {self.unasked} unasked" if self.unasked else ""
        state = f"cot {self.done}/{self.total} rows, {self.kept} kept, {self.rejected} rejected{unasked}"
        return f"{state}, {rate:.1f} rows/s, {clock} left"

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._stream.flush()
