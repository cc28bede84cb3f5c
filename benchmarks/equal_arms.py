"""Arms that differ in one thing: run over the seeds, refused where they differ in another, and told per kind of question.

Arms are configurations, or a folder of configs/ that holds them; words of the form a.b=c change them all. Whatever else differs
is named and refused: every setting, before anything is trained, and in the finished runs what they start from, the rows trained
and judged on, and the steps. A run per arm and seed, `<its name>-<NAME>-seed<seed>`, goes on where it stopped.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import kinds
from benchmarks.seeds import check_marks, make_parser, publish, run_over_seeds
from pipeline import command_line
from pipeline.config.loader import CONFIGS, load, to_plain
from pipeline.config.schema import RunConfig
from pipeline.data.training_rows import DATA, changes
from pipeline.errors import UserError
from pipeline.files import differences
from pipeline.formatting import size
from pipeline.reports.entries import Entry
from pipeline.reports.table import table as markdown_table
from pipeline.run_dir import RunDir

Plain = dict[str, Any]
"""A configuration as YAML would hold it."""


@dataclass(frozen=True)
class Difference:
    """The one thing in which arms differ."""

    called: str
    """What an arm is: the head of its column, and how refusals call it."""
    without: Callable[[Plain], Plain]
    """Takes it out of a configuration; what is left must be equal."""
    problems: Callable[[RunConfig], Iterator[str]]
    """Yields why a configuration is no such arm."""
    start: tuple[str, Callable[[RunDir], str]]
    """What all arms begin with, in words, and the digest of its weights in a run."""
    cost: tuple[str, Callable[[RunDir, Entry], str]]
    """A column of what an arm costs: its head, and its cell of a run and the compared stage."""


def find_arms(words: Sequence[str]) -> dict[str, str]:
    """Return name: configuration of the arms that words name, each a configuration or a folder of them.

    Raises:
        UserError: when a folder holds none, or two arms have one name.
    """
    files: list[str] = []
    for word in words:
        folder = next((path for path in (Path(word), CONFIGS / word) if path.is_dir()), None)
        inside = sorted(path for path in folder.glob("*.yaml") if path.name[0] != "_") if folder else []
        if folder and not inside:
            raise UserError(f"{word!r} is a folder without configurations")
        files += [str(path) for path in inside] or [word]
    arms = {Path(file).stem: file for file in files}
    if len(arms) < len(files):
        raise UserError(f"two of {', '.join(files)} have one name; rename a file")
    return arms


def config_problems(configs: Mapping[str, RunConfig], difference: Difference) -> Iterator[str]:
    """Yield why configurations are no arms of a comparison, naming each setting in which one differs from the first.

    Args:
        configs: the arms by name, the first one what the others are compared with.
        difference: in what they may differ.
    """
    for name, config in configs.items():
        yield from (f"{name}: {problem}" for problem in difference.problems(config))
    called: dict[str, str] = {}
    for name, config in configs.items():
        if (other := called.setdefault(config.name, name)) != name:
            yield f"{name} and {other} are both called {config.name}, so they would share a run; give one another name:"
    (first, reference), *others = ((name, _shared(config, difference)) for name, config in configs.items())
    for name, plain in others:
        for found in differences(reference, plain):
            yield f"{name} differs from {first} in more than its {difference.called}: {found}"
    if len(configs) < 2:
        yield f"{first} is one {difference.called}; name two configurations at least, or a folder of them"


def _shared(config: RunConfig, difference: Difference) -> Plain:
    return difference.without(
        {key: value for key, value in to_plain(config).items() if key not in ("name", "output_dir")}
    )


@dataclass(frozen=True)
class Made:
    """What a run was made of and judged on, as it recorded it."""

    start: str
    """Digest of the weights that all arms begin with."""
    rows: Mapping[str, str]
    """Stage: the lines of its `data.tsv`, which tell rows, texts and pictures."""
    steps: Mapping[str, int]
    """Stage: optimizer steps."""
    judged: frozenset[tuple[str, str]]
    """(id, gold answer) of the rows it answered."""


def read_made(run: RunDir, entries: Mapping[str, Entry], start: str) -> Made:
    """Read what a finished run was made of.

    Args:
        run: its folder.
        entries: its evaluated phases by name.
        start: digest of the weights that all arms begin with.
    """
    trained = [name for name, entry in entries.items() if entry.record.get("steps") is not None]
    return Made(
        start=start,
        rows={name: (run.phase(name) / DATA).read_text() for name in trained},
        steps={name: int(entries[name].record["steps"]) for name in trained},
        judged=frozenset((row["id"], str(row["gold"])) for name in trained for row in entries[name].greedy),
    )


def made_problems(first: Made, other: Made, called: str) -> Iterator[str]:
    """Yield in what the second of two runs was made otherwise than the first: weights, rows, steps, rows judged on.

    Args:
        first: the run that the other is compared with.
        other: the other one.
        called: what both begin with.
    """
    if first.start != other.start:
        yield f"{called}: weights {first.start[:12] or 'unknown'} -> {other.start[:12] or 'unknown'}"
    for stage, lines in first.rows.items():
        yield from (f"data of {stage}: {change}" for change in changes(lines, other.rows.get(stage, "")))
    for difference in differences(dict(first.steps), dict(other.steps)):
        yield f"steps of {difference}"
    if first.judged != other.judged:
        apart = len(first.judged ^ other.judged)
        yield f"rows judged on: {apart:,} are in one and not in the other"


def refuse_unlike(made: Mapping[str, Sequence[Made]], seeds: Sequence[int], called: str) -> None:
    """Refuse finished runs that differ in more than their arm.

    Args:
        made: arm: what its run of each seed was made of.
        seeds: theirs.
        called: what all begin with.

    Raises:
        UserError: naming each difference from the first arm's run of the same seed.
    """
    first, *others = made
    problems = [
        f"seed {seed}: {name} was made otherwise than {first}: {problem}"
        for name in others
        for seed, one, reference in zip(seeds, made[name], made[first], strict=True)
        for problem in made_problems(reference, one, called)
    ]
    if problems:
        raise UserError([*problems, "train them anew under another --name, or with --clean"])


def costs(called: str, column: str, cells: Mapping[str, str], runs: Mapping[str, Sequence[Entry]]) -> str:
    """Return what each arm costs as markdown: a column of its own, rows a second, memory.

    Args:
        called: what an arm is.
        column: the head of the column of its own.
        cells: arm: its cell there.
        runs: arm: the compared stage of each seed.
    """
    lines = []
    for name, entries in runs.items():
        speeds = [speed for entry in entries if (speed := rows_per_second(entry))]
        peaks = [max(peak) for entry in entries if (peak := (entry.record.get("usage") or {}).get("peak_memory_bytes"))]
        told = f"{statistics.mean(speeds):.1f}" if speeds else "–"
        lines.append([name, cells[name], told, size(max(peaks)) if peaks else "–"])
    return markdown_table([called, column, "rows trained a second", "peak memory"], lines)


def rows_per_second(entry: Entry) -> float | None:
    """Return the rows a stage trained on a second in its median step, which neighbours on the machine and a resume move least;
    None where its log tells of fewer than two steps.
    """
    trainer = entry.record.get("trainer") or {}
    batch = trainer.get("per_device_train_batch_size", 1) * trainer.get("gradient_accumulation_steps", 1)
    processes = ((entry.record.get("inputs") or {}).get("launch") or {}).get("num_processes") or 1
    told = [(row["step"], row["seconds"]) for row in entry.log if "seconds" in row and "loss" in row]
    # A log may tell of every tenth step alone.
    steps = [
        (after - before) / (later - earlier)
        for (earlier, before), (later, after) in itertools.pairwise(told)
        if later > earlier and after > before
    ]
    return batch * processes / statistics.median(steps) if steps else None


def compare(module: str, doc: str, difference: Difference, argv: Sequence[str] | None) -> int:
    """Run every arm over the seeds, refuse what is unlike, then write the tables and the figure.

    Args:
        module: name of the benchmark's file, which begins the name of its marks.
        doc: its docstring.
        difference: in what the arms differ.
        argv: the command line's words; None for those of this process.
    """
    parser = make_parser(module, doc, [0, 1, 2])
    parser.add_argument(
        "overrides", nargs="+", metavar="CONFIG|a.b=c", help="arms, or folders of them; settings of all"
    )
    parser.add_argument("--name", help="of this comparison; the name of its task where it is not given")
    parser.add_argument("--stage", help="the stage whose model is compared; the last one where it is not given")
    arguments = command_line.parse(parser, argv)
    settings = [word for word in arguments.overrides if "=" in word]
    arms = find_arms([word for word in arguments.overrides if "=" not in word])
    if not arms:
        raise UserError(
            f"no arm is named; give configurations, or a folder of configs/ that holds {difference.called}s"
        )
    configs = {name: load(file, settings) for name, file in arms.items()}
    if problems := list(config_problems(configs, difference)):
        raise UserError(problems)
    reference = next(iter(configs.values()))
    called = arguments.name or reference.task.name
    stage = reference.stage_name(arguments.stage) if arguments.stage else list(reference.stages)[-1]
    check_marks(arguments.into, mark := f"{module}_{called}")
    (start, start_of), (column, cell) = difference.start, difference.cost
    entries, made, cells = {}, {}, {}
    for name, file in arms.items():
        title = f"{configs[name].name}-{called}"
        try:
            of_seeds = run_over_seeds(file, arguments, [*settings, f"name={title}"])
        except UserError as error:
            # The other arms need not wait until it is mended.
            problems += error.problems
            continue
        folders = [RunDir(arguments.output_dir, f"{title}-seed{seed}") for seed in arguments.seeds]
        entries[name] = [run[stage] for run in of_seeds]
        cells[name] = cell(folders[0], entries[name][0])
        made[name] = [read_made(folder, run, start_of(folder)) for folder, run in zip(folders, of_seeds, strict=True)]
    if problems:
        raise UserError(problems)
    refuse_unlike(made, arguments.seeds, start)
    cost = costs(difference.called, column, cells, entries)
    written = f"{cost}\n{kinds.table(difference.called, entries, arguments.seeds)}"
    publish(written, arguments.into, mark, kinds.figure(entries, arguments.seeds))
    return 0
