"""What each stage of a run adds, over several seeds: accuracy with its interval, and the difference to the stage before.

    python -m benchmarks.stages_over_seeds [a.b=c …] [--config demo] [--seeds 0 1 2 3 4] [--into PAGE] [--table-only]

Every seed is one run of the configuration, which goes on where it stopped; the table and its figure take the place of what
stands between the configuration's two marks of --into. A stage is compared with its parent: per seed on the same rows
(McNemar), and over the seeds by the mean difference with Student's 95 % interval, which covers the luck of training, as the
intervals of one run do not. Students that are composed of parts stand beside a linear probe of their encoder, fitted to the rows
that the first stage on labels trains on.
"""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.probe import answer_by_probe, encoder_features, probe_table
from benchmarks.seeds import (
    check_marks,
    draw_over_seeds,
    interval,
    known_p,
    make_parser,
    publish,
    run_over_seeds,
    scored,
    spread,
    told_per_seed,
)
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.metrics.paired_tests import paired, right
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import parent_of, trained_phases

FEW = 4
"""Values of a group that have a column of their own; more are shown in two halves, as long as they are numbers."""
Figure = Callable[[Entry], float | None]
"""A figure of a stage in percent; None where it has none."""


def group_figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """Return a column for each value of every group that rows have beside their label: ``walk 1 to 4`` where there are many."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        for row in entry.greedy:
            for group, value in (row.get("groups") or {}).items():
                if group != "label":
                    found.setdefault(group, set()).add(value)
    figures: dict[str, Figure] = {}
    for group, values in sorted(found.items()):
        for name, members in _parts(values):
            figures[f"{group} {name}"] = partial(_share, group, members)
    return figures


def _parts(values: set[str]) -> Iterator[tuple[str, list[str]]]:
    """The values a column is of, and its name; none of many that are no numbers."""
    if len(values) <= FEW:
        yield from ((value, [value]) for value in sorted(values))
    elif all(value.isdigit() for value in values):
        ordered = sorted(values, key=int)
        for part in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
            yield f"{part[0]} to {part[-1]}", part


def _share(group: str, members: Sequence[str], entry: Entry) -> float | None:
    rows = [right(row) for row in entry.greedy if (row.get("groups") or {}).get(group) in members]
    return 100 * statistics.mean(rows) if rows else None


def _format_rate(entry: Entry) -> float | None:
    sample = entry.scores and entry.scores.sample
    return None if not sample or sample.format.value is None else 100 * sample.format.value


FIGURES: dict[str, Figure] = {
    "macro-F1": lambda entry: 100 * entry.scores.classes.macro.f1 if entry.scores and entry.scores.classes else None,
    "exact traces": lambda entry: scored(entry, "trace"),
    "accuracy at T = 1": lambda entry: scored(entry, "sampled"),
    "format at T = 1": _format_rate,
}
"""What is shown as the mean over the seeds, beside accuracy."""


def table(config: RunConfig, seeds: Sequence[int], runs: Sequence[Mapping[str, Entry]]) -> str:
    """Return the phases of a run as markdown, in the order they are trained in.

    Args:
        config: of the runs.
        seeds: one per run.
        runs: the evaluated phases of each, by name.
    """
    every = [entry for run in runs for entry in run.values()]
    figures = {
        name: of
        for name, of in {**FIGURES, **group_figures(every)}.items()
        if any(of(entry) is not None for entry in every)
    }
    head = ["greedy accuracy, %", *(f"seed {seed}" for seed in seeds), "mean ± sd"]
    head += ["against its parent, points [95 % over seeds]", "per seed (p)", *figures]
    lines = []
    for phase in trained_phases(config):
        entries = [run[phase] for run in runs]
        accuracies = [entry.scores.accuracy for entry in entries if entry.scores]
        cells = [phase, *map(str, accuracies), spread([one.share for one in accuracies])]
        parent = parent_of(config, phase) or ""
        # A tiny base model has random weights: everything is better than it.
        if parent and parent != BASE:
            against = [paired(run[phase].predictions, run[parent].predictions) for run in runs]
            gains = [100 * one.gain.share for one in against]
            cells += [interval(gains), told_per_seed(gains, [known_p(one) for one in against])]
        else:
            cells += ["", ""]
        for of in figures.values():
            values = [value for entry in entries if (value := of(entry)) is not None]
            cells.append(f"{statistics.mean(values):.1f}" if values else "–")
        lines.append(cells)
    rows = {entry.scores.n for entry in every if entry.scores}
    note = (
        f"{' or '.join(map(str, sorted(rows)))} test rows; [95 % interval of one run, Wilson]; mean ± sample standard deviation; "
        "p of McNemar's exact test on the same rows, not corrected; columns behind it are means over the seeds, in percent."
    )
    return f"{markdown_table(head, lines)}\n{note}\n"


def beside_probe(config: RunConfig, run: RunDir, runs: Sequence[Mapping[str, Entry]]) -> str | None:
    """Return the phases of composed students beside a linear probe of their encoder, as markdown.

    Args:
        config: of the runs.
        run: one of them, for its composed base and its pictures.
        runs: the evaluated phases of each, by name.

    Returns:
        None where there is nothing to probe: no part, no stage on labels, or rows without one label of a list and one picture.
    """
    on_labels = [stage.split for stage in config.all_stages.values() if stage.data == "labels"]
    task = load_task(config.task, run.cache)
    if config.model.compose is None or task.labels is None or not on_labels:
        return None
    known = task.select_for_training(on_labels[0]).rows
    asked = list(runs[0].values())[-1].greedy
    if any(len(row.images) != 1 for row in known) or not all(row.get("image") for row in asked):
        return None
    pictures = {row.id: row.images[0] for row in known} | {row["id"]: Path(row["image"]) for row in asked}
    features = encoder_features(config, run.final(BASE), pictures)
    probed = answer_by_probe(features, {row.id: str(row.answer) for row in known}, asked)
    return probe_table(config, runs, probed, f"; the probe was fitted to {len(known)} of {on_labels[0]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the configuration over the seeds, then write the table."""
    parser = make_parser("stages_over_seeds", __doc__ or "", [0, 1, 2, 3, 4], config="demo")
    arguments = command_line.parse(parser, argv)
    config = load(arguments.config, arguments.overrides)
    check_marks(arguments.into, config.name)
    runs = run_over_seeds(arguments.config, arguments, arguments.overrides)
    written = table(config, arguments.seeds, runs)
    if probed := beside_probe(config, RunDir(arguments.output_dir, f"{config.name}-seed{arguments.seeds[0]}"), runs):
        written += f"\n{probed}"
    if arguments.overrides:
        written += f"\nEvery run was made with `{shlex.join(arguments.overrides)}`.\n"
    drawn = {phase: phase for phase in trained_phases(config) if phase != BASE}
    publish(written, arguments.into, config.name, draw_over_seeds(runs, drawn))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
