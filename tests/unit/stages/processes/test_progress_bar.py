"""The progress of a worker: one moving bar at a terminal, plain lines in a log."""

from __future__ import annotations

import io
import sys

import pytest

from stages.processes.progress_bar import Terminal, bar


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


STEP = "  stage1_sft step 5/20 12s  loss 0.300\n"


def test_without_a_terminal_every_line_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    terminal = Terminal()
    for line in (STEP, "stage1_sft: saved\n"):
        terminal.show(line)
    assert sink.getvalue() == STEP + "stage1_sft: saved\n"


def test_at_a_terminal_steps_move_one_bar_and_other_lines_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Tty()
    monkeypatch.setattr(sys, "stderr", sink)
    terminal = Terminal()
    terminal.show(STEP)
    terminal.show("alarm: entropy\n")
    terminal.show("  stage1_sft step 20/20 50s  loss 0.100\n")
    terminal.show("  stage1_sft evaluation 1/4 batches\n")
    bars = sink.getvalue().split("\r\x1b[K")
    assert bars[1].startswith("  stage1_sft ██████░")
    assert bars[1].endswith("5/20 12s  loss 0.300")  # no end of line: the next one takes its place
    assert bars[2] == "alarm: entropy\n"
    assert bars[3].endswith("20/20 50s  loss 0.100\n")
    assert "1/4 batches" in bars[4]


def test_the_bar_is_full_at_the_end_and_empty_at_the_start() -> None:
    assert bar(20, 20).startswith("█" * 24)
    assert bar(0, 20).startswith("░" * 24)
