"""What is told along the way: at a terminal, in a plain log, in files, louder and quieter."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import logs
from pipeline.logs import Events, log_to_files, log_to_terminal, show_step

log = logging.getLogger("stages.somewhere")
STEPS = [(5, "12s  loss 0.300"), (20, "50s  loss 0.100")]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(logs.LEVEL, raising=False)
    monkeypatch.delenv(logs.PHASE, raising=False)
    yield
    monkeypatch.undo()
    log_to_terminal()


def show_all() -> None:
    log_to_terminal()
    show_step(log, "stage1_sft", *STEPS[0][:1], 20, STEPS[0][1])
    log.warning("alarm: entropy")
    show_step(log, "stage1_sft", *STEPS[1][:1], 20, STEPS[1][1])
    show_step(log, "stage1_sft evaluation", 1, 4, "batches", unit="")


def test_without_a_terminal_every_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.StringIO()
    monkeypatch.setattr(sys, "stderr", sink)
    show_all()
    assert sink.getvalue().splitlines() == [
        "  stage1_sft step 5/20 12s  loss 0.300",
        "alarm: entropy",
        "  stage1_sft step 20/20 50s  loss 0.100",
        "  stage1_sft evaluation 1/4 batches",
    ]


def test_beside_another_phase_every_line_names_its_own_and_no_bar_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Tty()
    monkeypatch.setattr(sys, "stderr", sink)
    monkeypatch.setenv(logs.PHASE, "stage1_sft")
    show_all()
    log.error("no room\non the disk of stage1_sft")
    assert sink.getvalue().splitlines() == [
        "  stage1_sft step 5/20 12s  loss 0.300",
        "stage1_sft: alarm: entropy",
        "  stage1_sft step 20/20 50s  loss 0.100",
        "  stage1_sft evaluation 1/4 batches",
        "stage1_sft: error: no room",
        "on the disk of stage1_sft",
    ]


def test_at_a_terminal_steps_move_one_bar_and_other_lines_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Tty()
    monkeypatch.setattr(sys, "stderr", sink)
    show_all()
    lines = [line.rpartition("\r")[2].rstrip() for line in sink.getvalue().split("\n")]
    assert lines[0] == "alarm: entropy"
    assert re.fullmatch(r"  stage1_sft #{24} 20/20 00:00 to go, 50s  loss 0.100", lines[1])
    assert re.match(r"  stage1_sft evaluation #{6}\S* *1/4 ", lines[2])
    # The bar after five steps, and again below the alarm.
    assert sink.getvalue().count("5/20 ? to go, 12s  loss 0.300") == 2


@pytest.mark.parametrize(("level", "told"), [("WARNING", ["loud"]), ("INFO", ["usual", "loud"])])
def test_less_is_told_when_it_is_to_be_quiet(level, told, monkeypatch, capsys):
    monkeypatch.setenv(logs.LEVEL, level)
    log_to_terminal()
    log.debug("detail")
    log.info("usual")
    log.warning("loud")
    assert capsys.readouterr().err.splitlines() == told


def test_told_in_detail_a_line_says_when_and_where(monkeypatch, capsys):
    monkeypatch.setenv(logs.LEVEL, "DEBUG")
    log_to_terminal()
    log.debug("detail")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8} rank 0 DEBUG stages.somewhere: detail\n", capsys.readouterr().err)


def test_a_worker_writes_its_log_and_rank_0_tells_the_process_that_follows(tmp_path, monkeypatch, capsys):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        log_to_files(tmp_path / "events.jsonl")
        log.info("  50 %% of it, of rank %s", rank)
        show_step(log, "stage1_sft", 1, 2)
    written = capsys.readouterr().err.splitlines()
    assert [line[20:] for line in written[1:3]] == [
        "rank 1 INFO stages.somewhere: stage1_sft step 1/2",
        "rank 0 INFO stages.somewhere: 50 % of it, of rank 0",
    ]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write("no JSON\n" + json.dumps({"level": "LOUD", "text": 3}) + '\n{"half')
    log_to_terminal()
    events = Events(tmp_path / "events.jsonl")
    for _ in range(2):
        events.show()
    assert capsys.readouterr().err == "  50 % of it, of rank 0\n  stage1_sft step 1/2\n3\n"


def test_what_is_told_to_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Gone(Tty):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    show_all()
    log.error("not told")


@pytest.mark.parametrize("words", [["--quiet", "plan"], ["plan", "--quiet"]])
def test_quiet_stands_before_or_after_the_command_and_results_are_printed(words, repo_root: Path, tmp_path):
    command = [sys.executable, "-m", "pipeline", *words, f"output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run demo in ")
    both = subprocess.run([*command, "--verbose"], cwd=repo_root, capture_output=True, text=True, check=False)
    assert both.returncode == (2 if words[0] == "plan" else 0)
