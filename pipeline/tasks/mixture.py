"""mixture: the rows of several tasks in one, each asked and judged as its own task has it.

``options.of`` names the sources, each a ``task:`` block of its own with, optionally, a ``weight``::

    task:
      name: mixture
      options:
        of:
          counts: {name: questions, path: data/counts, weight: 2}
          scenes: {name: scenes, weight: 1}

A split of the mixture has the rows of every source that has a split of this name. Of the splits in ``options.weighted`` the
sources are drawn by their weights: as many rows as there can be with the sources in these shares, the first ones in the order
that slices are taken of, so that the same rows are drawn on every machine. Those that are not are counted as ``not_drawn``.

``options.splits`` makes further splits of slices of the sources, so that stages of one run can differ in what they train on::

    splits:
      all_counts: {counts: train}
      some_scenes: {counts: "train[:3000]", scenes: "train[:1000]"}

The id of a row begins with its source, which is also its group ``source``; a group of that name of its own becomes
``<source> source``. No stage trains on a split that one of the sources keeps for judging.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.data.load import load_task
from pipeline.data.options import TaskOption, check_options, names
from pipeline.data.splits import named_split, split_problem
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.types import Judgement, Problem, Question, Split

OPTIONS = {
    "of": TaskOption({}, "source: its task block, with a weight where it is to be drawn by one"),
    "weighted": TaskOption(["train"], "splits whose sources are drawn by weight; others are whole", check=names),
    "splits": TaskOption({}, "further splits: {source: its slice} of each"),
}
SOURCE = "source"
_KEYS = tuple(field.name for field in dataclasses.fields(TaskConfig))


def load(config: TaskConfig, cache: Path) -> Task:
    """Load every source.

    Raises:
        UserError: naming everything wrong with the sources.
    """
    options = check_options(config, OPTIONS)
    set_here = [key for key in _KEYS if key not in ("name", "options") and getattr(config, key)]
    problems = [f"task.{key}: belongs to a source, in task.options.of" for key in set_here]
    blocks, weights = _sources(options["of"], problems)
    sources: dict[str, Task] = {}
    for name, block in blocks.items():
        try:
            sources[name] = load_task(block, cache / name)
        except UserError as error:
            problems += [f"task.options.of.{name}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    shared = tuple(dict.fromkeys(split for task in sources.values() for split in task.splits))
    made = _checked_splits(options["splits"], sources, shared)
    if unknown := [split for split in config.options.get("weighted", ()) if split not in shared]:
        raise UserError(
            [
                f"task.options.weighted: no source has a split {split}; {did_you_mean(split, shared)}"
                for split in unknown
            ]
        )
    weighted = frozenset(options["weighted"]) if weights else frozenset()

    def read(split: str) -> Split:
        if split in made:
            return _joined(sources, {name: sources[name].select(spec) for name, spec in made[split].items()})
        found = {name: task.select(split) for name, task in sources.items() if split in task.splits}
        counts = {name: len(one.rows) for name, one in found.items()}
        drawn = shares(counts, weights) if split in weighted else counts
        kept = {}
        for name, one in found.items():
            left = (Problem(row.id, "not_drawn", "by the weights of the sources") for row in one.rows[drawn[name] :])
            kept[name] = Split(one.rows[: drawn[name]], (*one.problems, *left))
        missing = [
            Problem(name, "missing_split", f"it has {', '.join(task.splits)}")
            for name, task in sources.items()
            if name not in found
        ]
        return _joined(sources, kept, missing)

    def prompt(row: Question, style: str) -> str:
        name, inner = _inner(row)
        return sources[name].prompt(inner, style)

    def judge(row: Question, completion: str, style: str) -> Judgement:
        name, inner = _inner(row)
        return sources[name].judge(inner, completion, style)

    def chance(row: Question) -> float:
        name, inner = _inner(row)
        return sources[name].chance(inner)

    def official(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The scores of each source by its own formula."""
        scores: dict[str, float] = {}
        for name, task in sources.items():
            own = [
                {**row, "id": _without(name, str(row["id"])), "groups": _own_groups(name, row["groups"])}
                for row in rows
                if row["groups"][SOURCE] == name
            ]
            scores |= {f"{name}: {score}": value for score, value in (task.official(own) if own else {}).items()}
        return scores

    def told() -> Iterator[str]:
        for name, task in sources.items():
            share = f", weight {float(weights[name]):g}" if name in weights else ""
            yield f"{name}: {blocks[name].name}, {', '.join(task.splits)}{share}"
            yield from (f"{name}: {line}" for line in task.told())
        for split, of in made.items():
            yield f"{split}: {', '.join(f'{spec} of {name}' for name, spec in of.items())}"

    return Task(
        "mixture",
        (*shared, *made),
        read,
        prompt,
        judge,
        chance,
        official,
        told=told,
        in_place=all(task.in_place for task in sources.values()),
        untrainable=(
            *(split for split in shared if any(split in task.untrainable for task in sources.values())),
            *(name for name, of in made.items() if any(sources[one].training_problem(of[one]) for one in of)),
        ),
    )


def _sources(of: Any, problems: list[str]) -> tuple[dict[str, TaskConfig], dict[str, Fraction]]:
    """The blocks of the sources and their weights; what is wrong with them is added to `problems`."""
    if not isinstance(of, Mapping) or len(of) < 2:
        problems.append(
            "task.options.of: must name two sources or more, such as {counts: {name: questions, path: …}, …}"
        )
        return {}, {}
    blocks: dict[str, TaskConfig] = {}
    weights: dict[str, Fraction] = {}
    for name, block in of.items():
        where = f"task.options.of.{name}"
        if "/" in str(name) or not isinstance(block, Mapping) or "name" not in block:
            problems.append(
                f"{where}: must be a task block, such as {{name: questions, path: …}}, under a name without /"
            )
            continue
        unknown = [str(key) for key in block if key not in (*_KEYS, "weight")]
        problems += [f"{where}.{key}: is no key of a task; {did_you_mean(key, (*_KEYS, 'weight'))}" for key in unknown]
        if block["name"] == "mixture":
            problems.append(f"{where}.name: a mixture holds no mixture; name its sources here")
        elif not unknown:
            blocks[str(name)] = TaskConfig(**{str(key): value for key, value in block.items() if key != "weight"})
        weight = block.get("weight")
        if weight is None:
            continue
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            problems.append(f"{where}.weight: {weight!r} must be a number above 0")
        else:
            weights[str(name)] = Fraction(str(weight))
    if weights and (without := [name for name in blocks if name not in weights]):
        problems.append(
            f"task.options.of.{without[0]}.weight: is not set, and {next(iter(weights))} has one; give all one"
        )
    return blocks, weights


def _checked_splits(splits: Any, sources: Mapping[str, Task], shared: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """The splits that `options.splits` makes, once each is of slices that its sources have.

    Raises:
        UserError: naming everything wrong with them.
    """
    if not isinstance(splits, Mapping):
        raise UserError(f"task.options.splits: {splits!r} names no split; write {{NAME: {{source: train[:4000]}}}}")
    problems = []
    for split, of in splits.items():
        where = f"task.options.splits.{split}"
        if split in shared:
            problems.append(f"{where}: the sources have a split of this name; give it another")
        problems += split_problem(where, f"{split}[:]")
        if not isinstance(of, Mapping) or not of:
            problems.append(f"{where}: {of!r} must be slices of sources, such as {{{next(iter(sources))}: train}}")
            continue
        for name, spec in of.items():
            if name not in sources:
                problems.append(f"{where}.{name}: is no source; {did_you_mean(name, sources)}")
                continue
            try:
                named_split(sources[name].name, str(spec), sources[name].splits)
            except UserError as error:
                problems += [f"{where}.{name}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    return splits


def _joined(sources: Mapping[str, Task], kept: Mapping[str, Split], problems: Sequence[Problem] = ()) -> Split:
    """Rows and problems of the sources as the mixture's own."""
    found = list(problems)
    for name, split in kept.items():
        found += (dataclasses.replace(each, id=f"{name}/{each.id}") for each in split.problems)
    return Split(
        tuple(_outer(name, sources[name], row) for name, split in kept.items() for row in split.rows), tuple(found)
    )


def shares(counts: Mapping[str, int], weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Return how many rows of each source are drawn: as many as there can be in the shares of the weights, one at least.

    Args:
        counts: source: its rows.
        weights: source: its weight.
    """
    most = min(counts[name] / weights[name] for name in counts)
    return {name: max(1, int(most * weights[name])) for name in counts}


def _outer(name: str, task: Task, row: Question) -> Question:
    """A source's row as the mixture's."""
    groups = {SOURCE: name, **{f"{name} {key}" if key == SOURCE else key: value for key, value in row.groups.items()}}
    return dataclasses.replace(
        row,
        id=f"{name}/{row.id}",
        groups=groups,
        cluster=f"{name}/{row.cluster}" if row.cluster else "",
        pair=f"{name}/{row.pair}" if row.pair else "",
        # What there is to guess among.
        options=task.labels.names if task.labels is not None else row.options,
    )


def _inner(row: Question) -> tuple[str, Question]:
    """(source, the row as the source's own): the parts that a prompt or a judge reads."""
    name = row.groups[SOURCE]
    return name, dataclasses.replace(row, id=_without(name, row.id), groups=_own_groups(name, row.groups))


def _own_groups(name: str, groups: Mapping[str, str]) -> dict[str, str]:
    own = {key: value for key, value in groups.items() if key != SOURCE}
    return {SOURCE if key == f"{name} {SOURCE}" else key: value for key, value in own.items()}


def _without(name: str, text: str) -> str:
    return text.removeprefix(f"{name}/")
