"""What a person reads while a build runs: how far, how fast, how long, and what it will come to."""

from __future__ import annotations

import io
import re

import pytest
from counted_calls import count_calls

from cot_builder.build.progress import Progress
from cot_builder.teachers.base import EndpointState

USAGE = {"prompt_tokens": 900, "completion_tokens": 100}


class Clock:
    """Seconds that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """The lines that stand there, as one sees them."""
        return [line.rpartition("\r")[2].rstrip() for line in self.getvalue().split("\n")]


def settle(
    progress: Progress, clock: Clock, rows: int, seconds: float = 0.0, *, cached: bool = False, replies: int = 1
):
    """Settle rows evenly over some seconds: three of four are kept."""
    for number in range(rows):
        clock.now += seconds / rows
        for _ in range(replies):
            progress.reply(USAGE, cached)
        progress.row(number % 4 != 0, None if number % 4 else ("wrong_label" if number % 8 else "too_short"))
        progress.tick()


def speed(progress: Progress) -> tuple[float, float, float]:
    """(rows/s, tokens/s, seconds left) as the line says them."""
    found = re.search(r"([\d.]+) rows/s, ([\d.]+)k tokens/s, (\d+):(\d+):(\d+) left", progress.line())
    assert found, progress.line()
    rows, tokens, hours, minutes, seconds = map(float, found.groups())
    return rows, 1000 * tokens, 3600 * hours + 60 * minutes + seconds


def about(*values: float):
    return pytest.approx(values, rel=0.03)


@pytest.fixture
def clock():
    return Clock()


def test_the_line_counts_rows_and_names_the_commonest_reasons(clock):
    progress = Progress(400, io.StringIO(), clock=clock)
    settle(progress, clock, 100, 10)
    progress.row(False, "wrong_label")
    progress.row(False, "wrong_label")
    progress.row(False, None)
    assert progress.line().startswith("cot 103/400, 75 kept, 27 rejected (wrong_label 14, too_short 13), 1 unasked, ")


def test_rates_and_the_time_left_follow_the_last_minute(clock):
    progress = Progress(10_000, io.StringIO(), clock=clock)
    settle(progress, clock, 600, 60)
    assert speed(progress) == about(10, 10_000, 940)
    settle(progress, clock, 6000, 60)
    assert speed(progress) == about(100, 100_000, 34)


def test_rows_found_in_the_journal_distort_neither_rate_nor_time_left(clock):
    progress = Progress(10_000, io.StringIO(), clock=clock)
    settle(progress, clock, 4000, 2, cached=True)
    assert "left" not in progress.line()
    assert "rows/s" not in progress.line()
    clock.now += 50
    settle(progress, clock, 300, 30)
    assert "cot 4300/10000" in progress.line()
    assert speed(progress) == about(10, 10_000, 570)


def test_rows_that_need_several_replies_are_counted_once(clock):
    progress = Progress(1000, io.StringIO(), clock=clock)
    settle(progress, clock, 200, 40, replies=3)
    assert speed(progress) == about(5, 15_000, 160)


def test_a_standstill_promises_no_end(clock):
    progress = Progress(1000, io.StringIO(), clock=clock)
    settle(progress, clock, 200, 20)
    clock.now += 61
    assert "left" not in progress.line()
    assert "rows/s" not in progress.line()


def test_a_forecast_is_said_once_after_the_first_minute_of_asking(clock):
    stream = io.StringIO()
    progress = Progress(40_000, stream, clock=clock)
    settle(progress, clock, 400, 70, cached=True)
    assert progress.forecast() == ""
    settle(progress, clock, 400, 40)
    assert "forecast" not in stream.getvalue()
    settle(progress, clock, 800, 80)
    said = [line for line in stream.getvalue().splitlines() if "forecast" in line]
    assert len(said) == 1
    kept = re.fullmatch(
        r"cot forecast: 1\.1 hours left, 36\.0M tokens in and 4\.0M out in all, about (\d+) of 40000 rows kept \(75%\)",
        said[0],
    )
    assert kept
    assert int(kept[1]) == pytest.approx(30_000, rel=0.01)


def test_a_server_that_counts_no_tokens_is_forecast_without_them(clock):
    progress = Progress(7200, io.StringIO(), clock=clock)
    for _ in range(100):
        clock.now += 1
        progress.reply({}, False)
        progress.row(True)
    assert "tokens" not in progress.line()
    assert progress.forecast() == "cot forecast: 1.9 hours left, about 7200 of 7200 rows kept (100%)"


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
def test_the_line_is_never_wider_than_the_terminal(clock, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    servers = [EndpointState(f"http://gpu-node-{n}:8000/v1", 60, 64, 500, 3, n == 2) for n in range(3)]
    progress = Progress(118_102, stream, lambda: servers, clock)
    settle(progress, clock, 70_000, 700)
    progress.row(False, None)
    progress.finish()
    written = [text.rstrip("\n") for text in stream.getvalue().split("\r") if "forecast" not in text]
    assert len(written) > 100
    assert max(map(len, written)) < columns


def test_what_matters_most_survives_a_narrow_terminal(clock):
    servers = [EndpointState(f"http://gpu-node-{n}:8000/v1", 60, 64, 500, 3, n == 2) for n in range(3)]
    progress = Progress(118_102, io.StringIO(), lambda: servers, clock)
    settle(progress, clock, 7000, 70)
    assert progress.line(40) == "cot 7000/118102, 5250 kept, 0:18:31 left"
    assert progress.line(80) == "cot 7000/118102, 5250 kept, 1750 rejected, 100 rows/s, 0:18:31 left"
    assert "gpu-node-2:8000 60/64 resting" in progress.line(200)


def test_many_servers_are_summed_up(clock):
    servers = [EndpointState(f"http://gpu{n}:8000/v1", 40, 64, 500, 3, n == 2) for n in range(8)]
    progress = Progress(100, io.StringIO(), lambda: servers, clock)
    assert progress.line().endswith(" | 8 endpoints 320/512, 1 resting")


def test_on_a_terminal_one_line_is_rewritten_and_the_last_one_stays(clock):
    stream = Terminal()
    progress = Progress(100, stream, clock=clock)
    settle(progress, clock, 100, 20)
    progress.finish()
    assert stream.screen == ["cot 100/100, 75 kept, 25 rejected (too_short 13, wrong_label 12), in 0:00:20", ""]


def test_elsewhere_a_line_comes_every_ten_seconds(clock):
    stream = io.StringIO()
    progress = Progress(1000, stream, clock=clock)
    settle(progress, clock, 500, 35)
    assert stream.getvalue().count("\n") == 3
    progress.finish()
    assert stream.getvalue().count("\n") == 4
    assert "\r" not in stream.getvalue()


def test_thousands_of_rows_a_second_are_not_held_up():
    progress = Progress(20_000, io.StringIO(), clock=lambda: 0.0)

    def settle_row() -> None:
        progress.reply(USAGE, False)
        progress.row(True)
        progress.tick()

    first, *_, last = (count_calls(settle_row) for _ in range(2000))
    assert last <= first < 40
