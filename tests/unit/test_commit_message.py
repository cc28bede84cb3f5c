"""The commit-msg hook: which messages it lets through, what it says of the others, and that git really asks it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / ".ci" / "commit_message.py"
BODY = "\n\nBecause a run that cannot clip trains nothing."


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("commit_message", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


problems = load().problems


@pytest.mark.parametrize(
    "subject",
    [
        "Refuse a clip stage that cannot clip",
        "Pass the seed on",
        "Feed the reference model once",
        "Embed pictures in the report",
        "Bring the report's tables into one order",
        "Focus the docs on one command",
        "Let `plan` name every error at once",
        "Say" + " y" * 34,
    ],
)
def test_an_imperative_with_a_reason_passes(subject: str) -> None:
    assert problems(subject + BODY, 500) == []


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("The optimiser refuses a wrong rate", "'The' is no imperative"),
        ("A test of the gate", "'A' is no imperative"),
        ("Fixes the gate", "'Fixes' is no imperative"),
        ("Fixed the gate", "'Fixed' is no imperative"),
        ("Fixing the gate", "'Fixing' is no imperative"),
        ("Rollouts are sampled ahead", "'Rollouts' is no imperative"),
        ("README's table is of this code", "'README's' is no imperative"),
        ("4bit weights load", "begin with a capital letter"),
        ("feat: sample ahead", "begin with a capital letter"),
        ("Refuse a stage that cannot clip.", "full stop"),
        ("Refuse " + "x" * 66, "73 characters"),
        ("", "the message is empty"),
        ("# only git's own words", "the message is empty"),
    ],
)
def test_what_is_wrong_is_said(subject: str, said: str) -> None:
    (found,) = problems(subject + (BODY if subject and not subject.startswith("#") else ""), 500)
    assert said in found


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems("the gate was slow, and it is not any more because of tiers and of fixtures that are shared.", 500)
    assert len(found) == 4


def test_a_small_change_needs_no_body_and_a_larger_one_does() -> None:
    assert problems("Mend a word", 4) == []
    assert "say why" in problems("Mend a word", 11)[0]
    assert "say why" in problems("Mend a word\n\nSigned-off-by: A B <a@example.org>\n# Please enter", 11)[0]


def test_the_body_is_apart_from_the_subject() -> None:
    assert "second line is not empty" in problems("Mend a word\nBecause it was wrong.", 500)[0]


@pytest.mark.parametrize("subject", ["Merge branch 'x'", 'Revert "The gate."', "fixup! Mend a word"])
def test_what_git_writes_itself_passes(subject: str) -> None:
    assert problems(subject, 500) == []


def test_what_git_shows_below_the_scissors_is_no_message() -> None:
    shown = "# ------------------------ >8 ------------------------\ndiff --git a/x b/x\n+a line"
    assert "say why" in problems(f"Mend a word\n\n{shown}", 500)[0]


def test_git_refuses_a_commit_with_such_a_message(tmp_path: Path) -> None:
    def git(*words: str) -> subprocess.CompletedProcess[str]:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    git("init", "-q")
    hook = tmp_path / ".git" / "hooks" / "commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FILE}" "$1"\n')
    hook.chmod(0o755)
    (tmp_path / "file").write_text("a line\n" * 20)
    git("add", ".")
    refused = git("commit", "-m", "Adding a file.")
    assert refused.returncode != 0
    for said in ("full stop", "'Adding' is no imperative", "20 lines changed and no body"):
        assert said in refused.stderr
    done = git("commit", "-m", "Add a file", "-m", "It is needed.")
    assert done.returncode == 0, done.stderr
