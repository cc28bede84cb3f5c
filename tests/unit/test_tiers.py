"""The tiers of tests, and what several processes of tests make once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pytest
from tiers import made_once, tiers


def test_a_value_that_is_not_named_for_every_change_is_nightly() -> None:
    marks = {param.values[0]: [mark.name for mark in param.marks] for param in tiers("abc", "b")}
    assert marks == {"a": ["nightly"], "b": [], "c": ["nightly"]}


def test_a_name_that_is_no_value_is_not_left_untested_in_silence() -> None:
    with pytest.raises(AssertionError, match=r"no such values: \['d'\]"):
        tiers("abc", "bd")


def test_what_many_ask_for_at_once_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> str:
        calls.append(1)
        return "made"

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: made_once(tmp_path / "once", make), range(8)))
    assert (got, calls) == (["made"] * 8, [1])


def test_what_failed_once_is_not_made_again_and_fails_everywhere(tmp_path: Path) -> None:
    def fail() -> str:
        raise AssertionError("exit code 2, not 0")

    with pytest.raises(AssertionError, match="exit code 2"):
        made_once(tmp_path, fail)
    with pytest.raises(pytest.fail.Exception, match="in another process of these tests: exit code 2"):
        made_once(tmp_path, lambda: "made")


def test_the_files_begun_first_exist() -> None:
    from tests.conftest import LONGEST, ROOT

    assert [name for name in LONGEST if not (ROOT / "tests" / "integration" / name).is_file()] == []


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    from tests.conftest import ROOT

    parts = {part for file in (ROOT / "tests").rglob("test_*.py") for part in file.relative_to(ROOT).parts}
    patterns = pytestconfig.getini("norecursedirs")
    assert [part for part in parts for pattern in patterns if fnmatch(part, pattern)] == []
