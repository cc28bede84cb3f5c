"""Signals that a shell which starts the tests in the background, or nohup, makes them and all they start ignore."""

from __future__ import annotations

import signal

HEEDED = (signal.SIGINT, signal.SIGHUP)


def heed_signals() -> None:
    """Heed them again, in a process that is about to begin."""
    for number in HEEDED:
        signal.signal(number, signal.SIG_DFL)
