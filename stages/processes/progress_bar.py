"""What a worker says, at a terminal as one bar that moves, elsewhere as plain lines."""

from __future__ import annotations

import re
import shutil
import sys
import time

_PROGRESS = re.compile(r"\s*(?P<what>\S+(?: evaluation)?) (?:step )?(?P<done>\d+)/(?P<all>\d+)\b(?P<rest>.*)")
_WIDTH = 24


class Terminal:
    """Shows lines on stderr; those that end in ``… 5/60 …`` move a bar in place when stderr is a terminal."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.began: tuple[str, int, float] = ("", 0, 0.0)

    def show(self, line: str) -> None:
        """Show one line, which ends in a newline."""
        found = _PROGRESS.match(line) if self.live else None
        if found is None:
            sys.stderr.write(f"\r\x1b[K{line}" if self.live else line)
        else:
            done, total = int(found["done"]), int(found["all"])
            text = f"{bar(done, total)}{self._eta(found['what'], done, total)}{found['rest']}"
            width = shutil.get_terminal_size().columns - 1
            shown = f"  {found['what']} {text}"[:width]
            sys.stderr.write(f"\r\x1b[K{shown}" + ("\n" if done == total else ""))
        sys.stderr.flush()

    def _eta(self, what: str, done: int, total: int) -> str:
        """Time left, from the pace since the first line about this."""
        now = time.monotonic()
        if self.began[0] != what:
            self.began = (what, done, now)
        steps = done - self.began[1]
        if not steps or done == total:
            return ""
        left = (now - self.began[2]) / steps * (total - done)
        return f" {int(left) // 60}:{int(left) % 60:02d} to go"


def bar(done: int, total: int) -> str:
    """``████░░░░ 5/60``."""
    full = _WIDTH * done // max(1, total)
    return f"{'█' * full}{'░' * (_WIDTH - full)} {done}/{total}"
