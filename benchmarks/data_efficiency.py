"""How accuracy grows with the rows that are trained on, over several seeds.

    python -m benchmarks.data_efficiency [--config ablations/data_efficiency] [--seeds 0 1 2] [--table-only] [a.b=c …]

Stages of the configuration that differ in their `split` alone are one curve: of answers (`data: labels`), or of chains of
thought (`data: cot`, whose split takes the built rows that lie in it). Each point is compared with that of most rows: per seed
on the same test rows (McNemar, corrected by Holm), and over the seeds (Student's t). Every seed is one run, which goes on where
it stopped. Table and figure take the place of what stands between the configuration's marks on the page of --into.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.seeds import (
    check_marks,
    holm_per_seed,
    interval,
    joined,
    make_parser,
    publish,
    run_over_seeds,
    told_of_accuracies,
    told_per_seed,
)
from pipeline import command_line
from pipeline.config.loader import load, to_plain
from pipeline.config.schema import RunConfig
from pipeline.data.training_rows import DATA
from pipeline.errors import UserError
from pipeline.metrics.paired_tests import paired
from pipeline.metrics.scores import Rate
from pipeline.reports import charts
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import RunDir
from pipeline.runs.phases import parent_of

Runs = Sequence[Mapping[str, Entry]]
"""A run per seed: its evaluated phases by name."""


@dataclass(frozen=True)
class OfRows:
    """A stage of a curve."""

    stage: str
    split: str
    rows: float
    """Trained on; the mean over the seeds, whose chains of thought need not be as many."""


def find_curves(config: RunConfig) -> dict[str, list[str]]:
    """Return name: stages of the curves of a grid, each of stages that differ in their split alone, in the grid's order.

    Raises:
        UserError: naming each stage that is on no curve and that no stage starts from, or that there is no curve.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name, stage in config.all_stages.items():
        # A gate judges and changes nothing.
        plain = {key: value for key, value in to_plain(stage).items() if key not in ("split", "gate")}
        alike[json.dumps(plain, sort_keys=True)].append(name)
    parents = {parent_of(config, name) for name in config.all_stages}
    alone = [names[0] for names in alike.values() if len(names) == 1 and names[0] not in parents]
    problems = [f"{name}: no other stage differs from it in split alone, so it is on no curve" for name in alone]
    curves = [names for names in alike.values() if len(names) > 1]
    if problems or not curves:
        raise UserError(problems or f"{config.name}: no two stages differ in split alone, so there is no curve")
    data = [config.stage(names[0]).data for names in curves]
    return {of if data.count(of) == 1 else f"{of} of {names[0]}": names for of, names in zip(data, curves, strict=True)}


def read_points(
    config: RunConfig, curves: Mapping[str, Sequence[str]], roots: Sequence[Path]
) -> dict[str, list[OfRows]]:
    """Return the points of each curve by the rows that their stages trained on, fewest first.

    Args:
        config: of the runs.
        curves: of `find_curves`.
        roots: the folder of each seed's run.
    """

    def rows(stage: str) -> float:
        return statistics.mean(len((root / stage / DATA).read_text().splitlines()) for root in roots)

    points = {
        name: [OfRows(one, config.stage(one).split, rows(one)) for one in stages] for name, stages in curves.items()
    }
    return {name: sorted(of, key=lambda point: point.rows) for name, of in points.items()}


def _rates(point: OfRows, runs: Runs) -> list[Rate]:
    return [scores.accuracy for run in runs if (scores := run[point.stage].scores)]


def table(curves: Mapping[str, Sequence[OfRows]], seeds: Sequence[int], runs: Runs) -> str:
    """Return the points as markdown: rows trained on, accuracy, and the difference from the last of the curve."""
    last = {name: points[-1] for name, points in curves.items()}
    fewer = [(name, point) for name, points in curves.items() for point in points[:-1]]
    tests = {
        point.stage: [paired(run[point.stage].predictions, run[last[name].stage].predictions) for run in runs]
        for name, point in fewer
    }
    corrected = holm_per_seed(tests)
    head = ["data", "split", "rows trained on", "accuracy, %", "against the most rows, points", "per seed (p, Holm)"]
    lines = []
    for name, points in curves.items():
        for point in points:
            cells = [name, f"`{point.split}`", f"{point.rows:,.0f}", str(joined(_rates(point, runs)))]
            if point == last[name]:
                cells += ["", ""]
            else:
                gains = [100 * one.gain.share for one in tests[point.stage]]
                cells += [interval(gains), told_per_seed(gains, corrected[point.stage])]
            lines.append(cells)
    judged = {scores.n for run in runs for entry in run.values() if (scores := entry.scores)}
    note = told_of_accuracies(seeds, f"; {' or '.join(map(str, sorted(judged)))} test rows")
    return f"{markdown_table(head, lines, range(2, len(head)))}\n{note}\n"


def figure(curves: Mapping[str, Sequence[OfRows]], runs: Runs) -> charts.Chart | None:
    """Draw accuracy over the rows trained on, with its intervals."""
    lines = []
    for (name, points), colour, marker in zip(curves.items(), charts.OTHERS, "osD^v<>P", strict=False):
        drawn = []
        for point in points:
            low, value, high = joined(_rates(point, runs)).in_percent()
            says = f"{name}, {point.rows:,.0f} rows: {value:.1f} % [{low:.1f}, {high:.1f}]"
            drawn.append((point.rows, value / 100, low / 100, high / 100, says))
        lines.append(charts.Sized(name, colour, marker, drawn))
    over = f", mean over {len(runs)} seeds" if len(runs) > 1 else ""
    return charts.scaling([("", f"accuracy, %{over}", lines)], 1, along="rows trained on")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid over the seeds, then write the table and the figure."""
    parser = make_parser("data_efficiency", __doc__ or "", [0, 1, 2], config="ablations/data_efficiency")
    arguments = command_line.parse(parser, argv)
    config = load(arguments.config, arguments.overrides)
    stages = find_curves(config)
    check_marks(arguments.into, config.name)
    runs = run_over_seeds(arguments.config, arguments, arguments.overrides)
    roots = [RunDir(arguments.output_dir, f"{config.name}-seed{seed}").root for seed in arguments.seeds]
    curves = read_points(config, stages, roots)
    written = table(curves, arguments.seeds, runs)
    publish(written, arguments.into, config.name, figure(curves, runs))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
