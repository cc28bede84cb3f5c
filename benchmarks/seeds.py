"""One grid of stages over several seeds, and its table between two marks of a page: what the benchmarks of the method share."""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.files import ROOT, write_atomic
from pipeline.reports.entries import Entry, read_run
from pipeline.runs.phases import trained_phases


def make_parser(module: str, doc: str, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return the options that every grid over seeds has.

    Args:
        module: name of the benchmark's file.
        doc: its docstring; the first line is shown.
        seeds: the default ones.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    parser.add_argument(
        "--into", type=Path, default=ROOT / "docs" / "results.md", help="page with the table's two marks"
    )
    parser.add_argument("--table-only", action="store_true", help="train nothing; read the runs there are")
    return parser


def run_over_seeds(grid: str, arguments: argparse.Namespace) -> list[dict[str, Entry]]:
    """Run a grid once per seed, unless only its table is asked for; a run goes on where it stopped.

    Args:
        grid: a configuration; its runs are called ``<its name>-seed<seed>``.
        arguments: what `make_parser`'s options were set to.

    Returns:
        The evaluated phases of every run, by name.

    Raises:
        UserError: naming the phases that have not been evaluated.
    """
    name, runs = load(grid).name, []
    for seed in arguments.seeds:
        settings = [f"name={name}-seed{seed}", f"seed={seed}", f"output_dir={arguments.output_dir}"]
        if not arguments.table_only:
            command = [sys.executable, "-m", "pipeline", "run", "--config", grid, *settings]
            subprocess.run(command, cwd=ROOT, check=True)
        runs.append(read_one(grid, settings))
    return runs


def read_one(grid: str, settings: Sequence[str]) -> dict[str, Entry]:
    """Read the evaluated phases of one run of a grid, by name.

    Raises:
        UserError: naming the phases that have not been evaluated.
    """
    config = load(grid, settings)
    labels = load_task(config.task, Path(config.output_dir) / ".cache").labels
    folder = Path(config.output_dir) / config.name
    entries = {entry.name: entry for entry in read_run(folder, trained_phases(config), labels)}
    if missing := [name for name in trained_phases(config) if name not in entries or entries[name].scores is None]:
        raise UserError(f"{folder}: {', '.join(missing)} not evaluated; run it without --table-only")
    return entries


def check_marks(page: Path, name: str) -> None:
    """Check that a page has the two marks between which the table of a grid stands.

    Raises:
        UserError: when it does not, with the lines to add.
    """
    opening, closing = _marks(name)
    text = page.read_text() if page.is_file() else ""
    if not 0 <= text.find(opening) < text.find(closing):
        raise UserError(
            f"{page}: has no place for the table; add the lines {opening} and {closing}, or name another --into"
        )


def write_between_marks(page: Path, name: str, text: str) -> None:
    """Write `text` in the place of what stands between the two marks of the grid `name` on a page."""
    check_marks(page, name)
    opening, closing = _marks(name)
    before, _, rest = page.read_text().partition(opening)
    write_atomic(page, f"{before}{opening}\n\n{text}\n{closing}{rest.partition(closing)[2]}")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- table of {name} -->", f"<!-- end of {name} -->"


def spread(shares: Sequence[float]) -> str:
    """Return mean ± sample standard deviation in percent; the mean alone of a single run."""
    values = [100 * share for share in shares]
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def interval(values: Sequence[float], form: str = "+.1f") -> str:
    """Return a mean over seeds with Student's 95 % interval, each formatted by `form`; the mean alone of a single run."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{form}} [{mean - half:{form}}, {mean + half:{form}}]"


def mean_p(values: Sequence[float]) -> float:
    """Return the two-sided p of Student's t test that differences, one per seed and two at least, have mean 0."""
    if len(set(values)) == 1:
        # No spread: t is infinite, or 0 / 0.
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0.0).pvalue)
