"""One grid of stages over several seeds, and its table between two marks of a page: what the benchmarks of the method share."""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from scipy import stats

from pipeline.command_line import STOPPED
from pipeline.conductor.run import changed_settings
from pipeline.config.loader import load
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.files import ROOT, write_atomic
from pipeline.formatting import p_number
from pipeline.metrics.paired_tests import Paired, holm
from pipeline.metrics.scores import Rate
from pipeline.reports import charts
from pipeline.reports.entries import Entry, read_run
from pipeline.reports.report_charts import colours
from pipeline.run_dir import RunDir
from pipeline.runs.phases import trained_phases
from pipeline.system.processes import how_ended

Key = TypeVar("Key")


def make_parser(module: str, doc: str, seeds: Sequence[int], *, config: str | None = None) -> argparse.ArgumentParser:
    """Return the options that every grid over seeds has.

    Args:
        module: name of the benchmark's file.
        doc: its docstring; the first line is shown.
        seeds: the default ones.
        config: the default configuration of a benchmark that takes `--config` and settings; None for another.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), action=_EachOnce)
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    add_into(parser)
    parser.add_argument("--table-only", action="store_true", help="train nothing; read the runs there are")
    if config is not None:
        parser.add_argument("--config", default=config, help="the run's configuration")
        parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that take the place of the file's")
    return parser


def add_into(parser: argparse.ArgumentParser) -> None:
    """Add the option that takes a page of `publish`."""
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="write what is printed into this page too, between its two marks"
    )


class _EachOnce(argparse.Action):
    """Refuses a seed that is named twice: its run would count as two."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any = None
    ) -> None:
        """Keep the seeds."""
        if twice := [seed for seed, times in Counter(values).items() if times > 1]:
            raise argparse.ArgumentError(self, f"{', '.join(map(str, twice))} is named twice; name each seed once")
        setattr(namespace, self.dest, values)


def run_over_seeds(grid: str, arguments: argparse.Namespace, overrides: Sequence[str] = ()) -> list[dict[str, Entry]]:
    """Run a grid once per seed, unless only its table is asked for; a run goes on where it stopped.

    Args:
        grid: a configuration; its runs are called ``<its name>-seed<seed>``.
        arguments: what `make_parser`'s options were set to.
        overrides: ``a.b=c`` words that change it, its name among them.

    Returns:
        The evaluated phases of every run, by name.

    Raises:
        UserError: as `train` and `read_one` do, of all seeds, once each has been run.
    """
    name, runs = load(grid, overrides).name, []
    failed: list[str] = []
    for seed in arguments.seeds:
        settings = [*overrides, f"name={name}-seed{seed}", f"seed={seed}", f"output_dir={arguments.output_dir}"]
        try:
            if not arguments.table_only:
                train(grid, settings)
            runs.append(read_one(grid, settings))
        except UserError as error:
            # The other seeds need not wait until it is mended.
            failed += error.problems
    if failed:
        raise UserError(failed)
    return runs


def train(grid: str, settings: Sequence[str]) -> None:
    """Run a configuration under `settings`; what is complete is skipped.

    Raises:
        UserError: when the run fails.
        KeyboardInterrupt: when it was stopped.
    """
    words = [sys.executable, "-m", "pipeline", "run", "--config", grid, *settings]
    if (code := subprocess.run(words, cwd=ROOT, check=False).returncode) == STOPPED:
        raise KeyboardInterrupt
    if code:
        name = next(word for word in reversed(settings) if word.startswith("name="))
        raise UserError(
            f"{name}: its run failed ({how_ended(code)}), as told above; the same command goes on where it stopped"
        )


def read_one(grid: str, settings: Sequence[str]) -> dict[str, Entry]:
    """Read the evaluated phases of one run of a grid, by name.

    Raises:
        UserError: naming the phases that have not been evaluated, or were made under other settings.
    """
    config = load(grid, settings)
    run = RunDir(config.output_dir, config.name)
    labels = load_task(config.task, run.cache).labels
    found = read_run(run.root, trained_phases(config), labels, changed_settings(config, run))
    entries = {entry.name: entry for entry in found}
    if missing := [name for name in trained_phases(config) if name not in entries or entries[name].scores is None]:
        raise UserError(f"{run.root}: {', '.join(missing)} not evaluated; run it without --table-only")
    if doubted := [f"{run.root}: {one.name} no longer holds: {why}" for one in found for why in one.doubts]:
        raise UserError(doubted)
    return entries


def check_marks(page: Path | None, name: str) -> None:
    """Check that a page, where one is given, has the two marks between which the table of a grid stands, or is to be made.

    Raises:
        UserError: when it does not, with the lines to add.
    """
    if page is None:
        return
    opening, closing = _marks(name)
    text = _text_of(page, name)
    if not 0 <= text.find(opening) < text.find(closing):
        raise UserError(
            f"{page}: has no place for the table; add the lines {opening} and {closing}, or name a new page with --into"
        )


class Drawn(Protocol):
    """A figure, such as `charts.Chart`."""

    @property
    def said(self) -> str:
        """What it says to those who do not see it."""

    def png(self) -> bytes:
        """Return it as a file."""


def publish(written: str, page: Path | None, name: str, figure: Drawn | None = None) -> None:
    """Print the tables of a grid, and where a page is given write them into it, with their figure.

    Args:
        written: the tables, as markdown.
        page: where they take the place of what stands between the grid's two marks.
        name: of the grid. The figure is ``figures/<name>.png`` beside the page.
        figure: which stands below them on the page.
    """
    print(written)
    if page is None:
        return
    if figure is not None:
        write_atomic(page.parent / "figures" / f"{name}.png", figure.png())
        written += f"\n![{figure.said}](figures/{name}.png)\n"
    _write_between_marks(page, name, written)


def _write_between_marks(page: Path, name: str, text: str) -> None:
    check_marks(page, name)
    opening, closing = _marks(name)
    before, _, rest = _text_of(page, name).partition(opening)
    write_atomic(page, f"{before}{opening}\n\n{text}\n{closing}{rest.partition(closing)[2]}")


def _text_of(page: Path, name: str) -> str:
    return page.read_text() if page.is_file() else "\n".join((*_marks(name), ""))


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- table of {name} -->", f"<!-- end of {name} -->"


def spread(shares: Sequence[float]) -> str:
    """Return mean ± sample standard deviation in percent; the mean alone of a single run."""
    values = [100 * share for share in shares]
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def interval(values: Sequence[float], form: str = "+.1f", least: float = -math.inf, most: float = math.inf) -> str:
    """Return a mean over seeds with Student's 95 % interval, each formatted by `form`; the mean alone of a single run.

    The interval is cut at `least` and `most`, which the figure cannot pass.
    """
    mean, half = statistics.mean(values), _half_width(values)
    if half is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} [{max(least, mean - half):{form}}, {min(most, mean + half):{form}}]"


def joined(rates: Sequence[Rate]) -> Rate:
    """Return the rate of a single run, with the interval of its rows; of several their mean with Student's 95 % interval."""
    mean = rates[0] if len(rates) == 1 else _mean_rate([100 * rate.share for rate in rates])
    assert mean is not None
    return mean


def told_per_seed(gains: Sequence[float], ps: Sequence[float]) -> str:
    """Return a difference of each seed in points with its p."""
    return ", ".join(f"{gain:+.1f} ({p_number(p)})" for gain, p in zip(gains, ps, strict=True))


def known_p(test: Paired) -> float:
    """Return the p of a test; 1 where it had nothing to compare."""
    return 1.0 if test.p is None else test.p


def holm_per_seed(tests: Mapping[Key, Sequence[Paired]]) -> dict[Key, tuple[float, ...]]:
    """Return the p of each seed, corrected by Holm over all tests of that seed.

    Args:
        tests: a test per seed, by what is compared.
    """
    by_seed = [holm([known_p(one) for one in of_seed]) for of_seed in zip(*tests.values(), strict=True)]
    return dict(zip(tests, zip(*by_seed, strict=True), strict=True))


def _half_width(values: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of a mean; None of a single value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def draw_over_seeds(runs: Sequence[Mapping[str, Entry]], shown: Mapping[str, str]) -> charts.Chart | None:
    """Return a figure of the accuracy of stages over the seeds, greedy and at temperature 1.

    Each mark is a mean with Student's 95 % interval, cut at 0 and 100 %; a single run has no interval.

    Args:
        runs: the evaluated phases of each seed, by name.
        shown: what is drawn, in order: phase -> what it is called.
    """
    colour = colours([runs[0][phase] for phase in shown])
    rows = []
    for phase, called in shown.items():
        rates = [_mean_rate([scored(run[phase], rate) for run in runs]) for rate in ("greedy", "sampled")]
        rows.append((called, colour[runs[0][phase].name], [rate for rate in rates if rate]))
    said = f"accuracy, %: mean over {len(runs)} seeds (95 % interval, Student's t)" if len(runs) > 1 else "accuracy, %"
    kinds = ("greedy", "temperature 1") if any(len(rates) > 1 for _, _, rates in rows) else ()
    return charts.intervals(rows, said, kinds=kinds)


def _mean_rate(values: Sequence[float | None]) -> Rate | None:
    """The mean of percentages as a share with its interval; None where one is missing."""
    known = [value / 100 for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean, half = statistics.mean(known), _half_width(known) or 0.0
    return Rate(mean, max(0.0, mean - half), min(1.0, mean + half))


def scored(entry: Entry, rate: str) -> float | None:
    """Return a share of an entry's scores in percent: ``greedy`` accuracy, that of ``sampled`` answers, or of the ``trace``; None
    where it has none.
    """
    scores = entry.scores
    of = {
        "greedy": scores and scores.accuracy,
        "sampled": scores and scores.sample and scores.sample.accuracy,
        "trace": scores and scores.exact_trace,
    }[rate]
    return None if not of or of.value is None else 100 * of.value


def mean_p(values: Sequence[float]) -> float:
    """Return the two-sided p of Student's t test that differences, one per seed and two at least, have mean 0.

    It is 1 where all are equal: shares of few rows often are, and then nothing tells how far seeds lie apart.
    """
    # Percentages that are equal may differ in their last bit.
    if max(values) - min(values) < 1e-9:
        return 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def told_of_accuracies(seeds: Sequence[int], rows: str = "") -> str:
    """Return the sentences below a table of accuracies of `joined` and tests of `holm_per_seed`.

    Args:
        seeds: of the runs.
        rows: what is told of the test rows behind the seeds, as ``; 200 test rows``.
    """
    several = len(seeds) > 1
    over = "Mean over seeds [95 % interval, Student's t]" if several else "[95 % interval of one run, Wilson]"
    return (
        f"Seed{'s' * several} {', '.join(map(str, seeds))}{rows}. {over}. Per seed: McNemar's exact test on the same rows, "
        "corrected by Holm over all lines of the table."
    )
