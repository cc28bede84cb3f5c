"""Several phases at once: when each starts, how many run, and what the others do when one fails or is stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.conductor import side_by_side
from pipeline.conductor.side_by_side import run_side_by_side
from pipeline.config.loader import CONFIGS, load
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.logs import PHASE
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs.phases import phase_names

LABELS, S1, S2, S3, S4 = (
    "baseline_sft_labels",
    "stage1_sft",
    "stage2_grpo_format",
    "stage3_grpo_accuracy",
    "stage4_clgrpo",
)


class FakeChild:
    """A phase's process that lives for so many looks at it."""

    def __init__(self, name: str, looks: int, code: int) -> None:
        self.name, self.looks, self.code = name, looks, code
        self.heard: list[int] = []

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 else self.code


class FakeChildren:
    """What starts them. `looks` and `codes` say how long each lives and how it ends; stopped, it ends with 130."""

    def __init__(self) -> None:
        self.looks: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self.started: dict[str, FakeChild] = {}
        self.dies_by: dict[str, signal.Signals] = {}
        self.pressed: list[int] = []
        self.press_when: str | None = None
        """The phase at whose start somebody presses Ctrl-C."""

    def start(self, words: list[str], *, dies_by: signal.Signals, environment: dict[str, str]) -> FakeChild:
        (name,) = words
        assert environment == {PHASE: name}
        self.dies_by[name] = dies_by
        self.started[name] = FakeChild(name, self.looks.get(name, 3), self.codes.get(name, 0))
        if name == self.press_when:
            self.press(signal.SIGINT)
        return self.started[name]

    def press(self, number: int) -> None:
        self.pressed.append(number)
        for child in self.started.values():
            child.heard.append(number)
            child.code = 130

    @contextlib.contextmanager
    def __call__(self) -> Iterator[FakeChildren]:
        yield self


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeChildren:
    """No process is started, no memory is looked at, and nothing is handed on before a process ends."""
    found = FakeChildren()
    monkeypatch.setattr(side_by_side, "children", found)
    monkeypatch.setattr(side_by_side, "_POLL", 0.0)
    monkeypatch.setattr(side_by_side, "hands_on", lambda *_: False)
    monkeypatch.setattr(side_by_side, "lacks_room", lambda *_: None)
    return found


@pytest.fixture
def told() -> list[str]:
    return []


def work(tmp_path: Path, told: list[str], limit: int = 2, config: RunConfig | None = None, **how: Any) -> None:
    config = config or load("demo_scenes")

    def command(name: str) -> list[str] | None:
        return [name]

    how = {"command": command, "after": lambda name: None, **how}
    run_side_by_side(config, RunDir(tmp_path, "demo"), phase_names(config), limit, tell=told.append, **how)


def at_once(told: list[str]) -> list[set[str]]:
    """Which phases ran together, after each start."""
    running: set[str] = set()
    found = []
    for text in told:
        name, done = text.removesuffix(" is done"), text.endswith(" is done")
        running = running - {name} if done else running | {name}
        found += [] if done else [set(running)]
    return found


def test_a_baseline_runs_beside_the_stages_and_each_waits_for_its_parent(tmp_path, fakes, told) -> None:
    fakes.looks = {LABELS: 8}
    work(tmp_path, told)
    # The chain that others wait for goes first.
    assert at_once(told) == [{COT}, {BASE}, {S1}, {S1, LABELS}, {S2, LABELS}, {S3, LABELS}, {S4}]
    assert fakes.dies_by == {COT: signal.SIGTERM} | dict.fromkeys([BASE, LABELS, S1, S2, S3, S4], signal.SIGKILL)


def test_no_more_run_than_are_allowed(tmp_path, fakes, told) -> None:
    several = "baselines: {a: {algorithm: sft, init_from: base}, b: {algorithm: sft, init_from: base}}"
    (tmp_path / "run.yaml").write_text(f"base: {CONFIGS / 'demo_scenes.yaml'}\n{several}")
    config = load(tmp_path / "run.yaml")
    for limit in (2, 3, 9):
        fakes.started.clear()
        told.clear()
        work(tmp_path, told, limit, config)
        assert max(map(len, at_once(told))) == min(limit, 4)
        assert set(fakes.started) == set(phase_names(config))


def test_a_stage_starts_beside_the_report_of_its_parent(tmp_path, fakes, told, monkeypatch) -> None:
    # S1 has been handed on while its process still lives.
    monkeypatch.setattr(
        side_by_side,
        "hands_on",
        lambda config, run, name: name == S1 and S1 in fakes.started and fakes.started[S1].looks < 3,
    )
    fakes.looks = {S1: 6}
    work(tmp_path, told)
    assert {S1, S2} in at_once(told)


def test_what_had_been_handed_on_before_is_looked_at_by_its_process_first(tmp_path, fakes, told, monkeypatch) -> None:
    monkeypatch.setattr(side_by_side, "hands_on", lambda config, run, name: True)
    work(tmp_path, told)
    assert not any({S1, S2} <= together for together in at_once(told))


def test_rows_that_are_built_start_no_process(tmp_path, fakes, told) -> None:
    work(tmp_path, told, command=lambda name: None if name == COT else [name])
    assert COT not in fakes.started
    assert told[:2] == [COT, BASE]


def test_a_phase_that_the_memory_would_not_hold_waits_and_says_so_once(
    tmp_path, fakes, told, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(side_by_side, "_AGAIN", 0.0)
    monkeypatch.setattr(
        side_by_side, "lacks_room", lambda config, run, name, running, at_start: "it is full" if running else None
    )
    with caplog.at_level(logging.INFO):
        work(tmp_path, told)
    assert max(map(len, at_once(told))) == 1
    assert set(fakes.started) == {COT, BASE, LABELS, S1, S2, S3, S4}
    assert [text for text in caplog.messages if "waits" in text] == [
        f"{LABELS} waits for {S1} to end: it is full",
        f"{S4} waits for {LABELS} to end: it is full",
    ]


def test_when_a_phase_fails_the_others_end_nothing_starts_and_it_is_told_once(tmp_path, fakes, told, caplog) -> None:
    fakes.looks, fakes.codes = {LABELS: 2, S1: 9}, {LABELS: 7}
    with pytest.raises(UserError) as caught:
        work(tmp_path, told)
    assert caught.value.problems == [
        f"{LABELS} failed (exit status 7); mend the cause and run the same command: it goes on here"
    ]
    assert told[-1] == f"{S1} is done"
    assert S2 not in fakes.started
    (warned,) = caplog.messages
    assert warned == f"{LABELS} failed; what has begun goes on to its end ({S1}), and nothing else is started"


def test_when_two_fail_both_are_told(tmp_path, fakes, told) -> None:
    fakes.looks, fakes.codes = {LABELS: 2, S1: 9}, {LABELS: 7, S1: 2}
    with pytest.raises(UserError) as caught:
        work(tmp_path, told)
    assert [problem.split(" (")[0] for problem in caught.value.problems] == [f"{LABELS} failed", f"{S1} failed"]


def test_rows_from_which_nothing_may_be_made_end_the_run(tmp_path, fakes, told) -> None:
    def after(name: str) -> None:
        if name == COT:
            raise UserError("no row lies in the slice of stage1_sft")

    with pytest.raises(UserError, match="no row lies in the slice"):
        work(tmp_path, told, after=after)
    assert list(fakes.started) == [COT]


def test_ctrl_c_reaches_all_waits_for_them_and_starts_no_other(tmp_path, fakes, told) -> None:
    fakes.looks, fakes.press_when = {S1: 5, LABELS: 9}, LABELS
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, told)
    assert list(fakes.started) == [COT, BASE, S1, LABELS]
    assert fakes.started[LABELS].looks <= 0


def test_a_phase_that_somebody_stopped_stops_the_others(tmp_path, fakes, told) -> None:
    fakes.looks, fakes.codes = {S1: 9, LABELS: 2}, {LABELS: 130}
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, told)
    assert fakes.started[S1].heard == [signal.SIGINT]
    assert S2 not in fakes.started
