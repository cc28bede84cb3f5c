"""Two tiers of tests: those of every change, and those marked `nightly`; and what several processes of tests make once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest


def tiers(values: Iterable[str], every_change: Iterable[str]) -> list[Any]:
    """Parameters of a test or fixture, of which all that are not named for every change are marked `nightly`.

    A name for every change that is none of the values fails the collection: it would be tested by nothing.
    """
    values, chosen = list(values), set(every_change)
    assert chosen <= set(values), f"no such values: {sorted(chosen - set(values))}"
    return [pytest.param(value, marks=() if value in chosen else pytest.mark.nightly) for value in values]


def asked(request: pytest.FixtureRequest, parameter: str) -> list[str]:
    """Values of a parameter in the selected tests of the requesting test's file, in order, each once.

    A fixture that trains for many tests trains for these alone, whichever tier or `-k` they were chosen by.
    """
    items = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    found = [item.callspec.params.get(parameter) for item in items if hasattr(item, "callspec")]
    return list(dict.fromkeys(value for value in found if value is not None))


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session of tests have in common."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def made_once(folder: Path, make: Callable[[], str]) -> str:
    """What `make` returns, called by the first process that comes here; the others wait for it.

    Args:
        folder: where what it returned is kept. One that failed is not tried again: it fails in every process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, failed = folder / "made.txt", folder / "failed.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists():
            pytest.fail(f"in another process of these tests: {failed.read_text()}", pytrace=False)
        if not done.exists():
            try:
                made = make()
            except BaseException as error:
                failed.write_text(str(error))
                raise
            done.write_text(made)
    return done.read_text()
