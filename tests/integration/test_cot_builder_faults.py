"""The fault matrix of docs/cot_builder.md, each fault injected for real: no row lost, nothing asked twice, the same bytes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow
FILE = Path(__file__).parents[2] / "benchmarks" / "cot_faults.py"
STRIKES = [pytest.param(0.25, id=""), pytest.param(1.0, id="as_in_the_table", marks=pytest.mark.nightly)]
"""On every change a fault strikes a quarter as often as in the table; nightly as often, `kill -9` fifty times."""


def load() -> ModuleType:
    """benchmarks/cot_faults.py, under a name that its child processes can import."""
    spec = importlib.util.spec_from_file_location("cot_faults", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["cot_faults"] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FILE.parent))
    spec.loader.exec_module(module)
    return module


faults = load()


@pytest.fixture(scope="module")
def bench() -> Iterator[object]:
    with faults.bench(seed=1) as made:
        yield made


@pytest.mark.parametrize("scale", STRIKES)
@pytest.mark.parametrize("name", faults.SCENARIOS)
def test_a_fault_costs_no_row_and_repeats_no_reply(bench, name, scale):
    bench.scale = scale
    found = faults.SCENARIOS[name][1](bench)
    assert found.times > 0
    assert (found.rows_lost, found.asked_again, found.same_bytes) == (0, 0, True), found.said
