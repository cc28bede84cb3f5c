"""How the entry points read overrides and how they end."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import command_line
from pipeline.errors import UserError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("overrides", nargs="*")
    return parser


def test_overrides_are_found_on_both_sides_of_an_option(parser: argparse.ArgumentParser) -> None:
    arguments = command_line.parse(parser, ["a=1", "--config", "f", "b.c=2"])
    assert (arguments.config, arguments.overrides) == ("f", ["a=1", "b.c=2"])


@pytest.mark.parametrize("word", ["--colour", "--colour=red", "plain"])
def test_a_strange_word_after_an_option_is_refused(parser: argparse.ArgumentParser, word: str) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(parser, ["a=1", "--config", "f", word])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "error: runs/x: the disk is full"),
    ],
)
def test_what_a_user_can_mend_ends_without_a_traceback(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise error

    assert command_line.status(work) == status
    assert said in capsys.readouterr().err


def test_any_other_error_is_shown_whole() -> None:
    def work() -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        command_line.status(work)


def test_a_reader_that_leaves_early_causes_no_traceback(repo_root: Path) -> None:
    plan = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "plan", "--config", "demo"],
        cwd=repo_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert plan.stdout is not None
    plan.stdout.close()
    assert plan.stderr is not None
    assert plan.stderr.read() == b""
    assert plan.wait() == 141
