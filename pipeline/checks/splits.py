"""Whether every split of a run selects what its phases need, all told at once and before anything is paid for.

A split must select a row, as many as one rollout asks, as many as the builder must keep; and the data must have rows of the
labels. Exactly that is known once every picture was decoded. Before, a task's listing gives at most so many rows, so a rule
that they break is broken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.checks.pictures import picture_problems
from pipeline.config.derived import cot_slice, prompts_per_rollout, world_size
from pipeline.config.schema import CotConfig, RunConfig, stage_key
from pipeline.data.images import quick_look
from pipeline.data.load import DRAWN
from pipeline.data.splits import parse_split, sliced
from pipeline.data.task import Task
from pipeline.errors import UserError, did_you_mean
from pipeline.run_dir import COT

FEW = 2000
"""Rows of a split up to which a quick look decodes its pictures, which takes seconds at most; more are listed."""
_NAMED = 8
"""Most labels that one line names."""


@dataclass(frozen=True)
class Selected:
    """How many rows a spec selects, in all and of each label; where they are only listed, at most so many."""

    rows: int
    labels: Mapping[str, int]
    pictures: Mapping[int, int] = field(default_factory=dict)
    """How many have so many pictures; nothing where they are only listed."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Of answers, where each row asks its own question."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Of a mixture."""


def selections(config: RunConfig, only: Collection[str] | None = None) -> dict[str, str]:
    """Return {key of the configuration: split's spec} of all that a run selects.

    Args:
        config: the run.
        only: the phases that count; None for all.
    """
    found = {"evaluation.split": config.evaluation.split}
    if config.cot is not None and (only is None or COT in only):
        found["cot.split"] = config.cot.split
    for name, stage in config.all_stages.items():
        if only is not None and name not in only:
            continue
        if stage.data != COT:
            found[f"{stage_key(name)}.split"] = stage.split
        if stage.validation is not None:
            found[f"{stage_key(name)}.validation.split"] = stage.validation.split
    return found


def check_splits(
    config: RunConfig,
    task: Task,
    *,
    quick: bool = False,
    built: bool = False,
    only: Collection[str] | None = None,
    family: str | None = None,
) -> list[str]:
    """Select every split of every phase; returns what a person should know who starts the run all the same.

    Args:
        config: the run.
        task: its task.
        quick: take what the task lists for its rows, where a split has more than `FEW` or is still to be taken out of its files.
        built: whether the CoT rows are there, so that nothing is asked for more of them.
        only: the phases that are checked; None for all.
        family: of the student, where it is known.

    Raises:
        UserError: naming every key whose split does not do, with the rule and the cure.
    """
    # What is drawn is all usable, so it need not be drawn to know.
    quick = quick or task.name in DRAWN
    named = selections(config, only)
    unknown = [
        f"{key}: {spec!r}: the data has no such split; it has {', '.join(task.splits)}"
        for key, spec in named.items()
        if parse_split(spec)[0] not in task.splits
    ]
    trained = {key: spec for key, spec in named.items() if key != "evaluation.split" and ".validation." not in key}
    unknown += [f"{key}: {problem}" for key, spec in trained.items() if (problem := task.training_problem(spec))]
    known = {key: spec for key, spec in named.items() if parse_split(spec)[0] in task.splits}
    if quick and task.listed is None and not task.in_place:
        if unknown:
            raise UserError(unknown)
        return [f"the {task.name} task lists no rows: splits are looked at when the run begins"]
    task = dataclasses.replace(task, read=functools.cache(task.read))
    if task.listed is not None:
        task = dataclasses.replace(task, listed=functools.cache(task.listed))
    looked_at = {name for name in task.splits if not quick or may_look(task, name)}
    found: dict[str, Selected] = {}
    empty: list[str] = []
    with quick_look(FEW) if quick else contextlib.nullcontext():
        for spec, keys in _by_spec(known).items():
            select = _selected if parse_split(spec)[0] in looked_at else _listed
            try:
                found[spec] = select(task, spec)
            except UserError as error:
                empty.append(f"{', '.join(keys)}: {error}")
        lost = list(_lost_classes(config, task, found, looked_at))
    if mistaken := list(_label_problems(config, task)):
        # That splits select no row follows from it.
        raise UserError([*unknown, *mistaken])
    apart = list(_apart(config, task, looked_at, only))
    unknown += [
        f"{', '.join(keys)}: {problem}"
        for spec, keys in _by_spec(trained).items()
        if spec in found
        for problem in picture_problems(spec, found[spec].pictures, family, world_size(config))
    ]
    problems = [*unknown, *empty, *_few_rows(config, known, found, built), *apart, *lost]
    if problems:
        raise UserError(problems)
    return [*_kinds(known, found), *_unlisted_labels(task), *_missing_classes(task, known, found)]


def _kinds(named: Mapping[str, str], found: Mapping[str, Selected]) -> Iterator[str]:
    """How many answers of each kind every selection has."""
    for spec, keys in _by_spec(named).items():
        if kinds := found[spec].kinds:
            told = ", ".join(f"{count:,} {_PLURAL.get(kind, kind)}" for kind, count in Counter(kinds).most_common())
            of = ", ".join(f"{count:,} of {name}" for name, count in found[spec].sources.items())
            yield f"{', '.join(keys)}: {spec!r} asks for {told}" + (f"; {of}" if of else "")


_PLURAL = {
    "label": "labels",
    "letter": "letters",
    "number": "numbers",
    "yes_no": "yes or no",
    "text": "short texts",
    "list": "lists",
}


def may_look(task: Task, name: str) -> bool:
    """Return whether a split is small enough to decode its pictures where an answer must come at once."""
    return task.in_place and (task.listed is None or task.listed(name).total() <= FEW)


def rollout_problem(config: RunConfig, name: str, rows: int) -> Iterator[str]:
    """Yield why so many rows are too few for a stage: TRL's sampler leaves out what does not fill a rollout."""
    stage = config.stage(name)
    least = prompts_per_rollout(config, stage) if stage.algorithm == "grpo" else 1
    if rows < least:
        yield (
            f"has {rows} rows, and one rollout asks {least} prompts (per_device_train_batch_size * processes * "
            "steps_per_generation / num_generations); give it more rows, or make one of these smaller"
        )


def cot_row_problems(cot: CotConfig, rows: Mapping[str, int], total: int | None = None) -> Iterator[str]:
    """Yield why a build can never keep as many rows as it must.

    Args:
        cot: the builder's block.
        rows: label: rows of the split, each of which gives one at most.
        total: of them all, where that is less than their sum.
    """
    total = sum(rows.values()) if total is None else total
    most = total
    there = {label: rows[label] for label in sorted(rows) if rows[label]}
    if cot.balance is not None and there:
        most = min(total, sum(min(count, int(cot.balance * min(there.values()))) for count in there.values()))
    if cot.min_rows > most:
        balanced = f", of which cot.balance {cot.balance} keeps {most:,} at most" if most < total else ""
        yield (
            f"cot.min_rows: {cot.min_rows:,} is more than the {total:,} rows of cot.split {cot.split!r}{balanced}; lower it, or "
            "give it more pictures"
        )
    if short := [f"{label} {count:,}" for label, count in there.items() if count < cot.min_rows_per_class]:
        yield (
            f"cot.min_rows_per_class: {cot.min_rows_per_class:,} is more than some classes have in cot.split {cot.split!r} "
            f"({_some(short)}); lower it, or give them more pictures"
        )


def _by_spec(named: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, spec in named.items():
        found.setdefault(spec, []).append(key)
    return found


def _selected(task: Task, spec: str) -> Selected:
    rows = task.select(spec).rows
    kinds = Counter(row.kind for row in rows if row.kind) if task.labels is None else Counter[str]()
    sources = Counter(row.groups["source"] for row in rows) if task.name == "mixture" else Counter[str]()
    pictures = Counter(len(row.images) for row in rows)
    return Selected(len(rows), Counter(map(task.class_of, rows)), pictures, kinds, sources)


def _listed(task: Task, spec: str) -> Selected:
    counts = _known(task, parse_split(spec)[0])
    rows = len(sliced(task.name, spec, range(counts.total()), ()))
    return Selected(rows, {label: min(count, rows) for label, count in counts.items()})


def _known(task: Task, split: str) -> Counter[str]:
    """The listed rows of a split by the label they mean."""
    assert task.listed is not None
    if task.labels is None:
        return task.listed(split)
    counts = Counter[str]()
    for spelled, count in task.listed(split).items():
        if (label := task.labels.normalise(spelled)) is not None:
            # Also a count of 0: the folder of a class may be empty.
            counts[label] += count
    return counts


def _few_rows(config: RunConfig, named: Mapping[str, str], found: Mapping[str, Selected], built: bool) -> Iterator[str]:
    for name in config.all_stages:
        key = f"{stage_key(name)}.split"
        if key in named and named[key] in found:
            for problem in rollout_problem(config, name, found[named[key]].rows):
                yield f"{key}: {named[key]!r} {problem}"
    if config.cot is not None and "cot.split" in named and not built and (rows := found.get(config.cot.split)):
        yield from cot_row_problems(config.cot, rows.labels, rows.rows)


def _apart(config: RunConfig, task: Task, looked_at: Collection[str], only: Collection[str] | None) -> Iterator[str]:
    """Stages whose slice holds no row that the builder is asked about, so that no built row can lie in it."""
    if config.cot is None or (split := parse_split(config.cot.split)[0]) not in task.splits:
        return
    for name, stage in config.all_stages.items():
        spec = cot_slice(stage)
        if spec is None or (only is not None and name not in only):
            continue
        if (other := parse_split(spec)[0]) != split:
            if {other, split} <= set(looked_at) and not _ids(task, spec) & _ids(task, config.cot.split):
                yield (
                    f"{stage_key(name)}.split: {spec!r} holds none of the rows of cot.split {config.cot.split!r}, so no built "
                    "row; make it of the same slices, or leave it out to train on all built rows"
                )
            continue
        rows = range(len(task.read(split).rows) if split in looked_at else _known(task, split).total())
        asked, taken = _part(config.cot.split, rows), _part(spec, rows)
        if asked and not asked & taken:
            holds = f"{len(taken):,} of the {len(rows):,} rows" if taken else f"none of the {len(rows):,} rows"
            yield (
                f"{stage_key(name)}.split: {spec!r} holds {holds} of {split!r} and none of cot.split {config.cot.split!r}, so no "
                "built row; take another slice, or leave it out to train on all built rows"
            )


def _ids(task: Task, spec: str) -> set[str]:
    return {row.id for row in task.select(spec).rows}


def _part(spec: str, rows: range) -> set[int]:
    """The places of the rows that a slice selects; none for one that selects nothing."""
    with contextlib.suppress(UserError):
        return set(sliced("", spec, rows, ()))
    return set()


def _label_problems(config: RunConfig, task: Task) -> Iterator[str]:
    """Why `task.labels` cannot be meant: some are the label of no row, and rows have labels that are none of them."""
    if task.listed is None or task.labels is None or not config.task.labels:
        return
    spelled = {name for split in task.splits for name in task.listed(split)}
    met = {task.labels.normalise(name) for name in spelled}
    missing = [label for label in task.labels.names if label not in met]
    others = sorted(name for name in spelled if task.labels.normalise(name) is None)
    if not missing or not (others or len(missing) == len(task.labels.names)):
        return
    have = f"; the data have {_some(sorted(spelled))}" if spelled else "; the data have no label"
    if len(missing) == len(task.labels.names):
        yield f"task.labels: none of {_some(missing)} is the label of a row{have}. Name those, or drop task.labels (null)"
        return
    for label in missing:
        near = did_you_mean(label, others)
        yield f"task.labels: {label!r} is the label of no row; {near if near.startswith('did') else 'drop it'}{have}"


def _lost_classes(
    config: RunConfig, task: Task, found: Mapping[str, Selected], looked_at: Collection[str]
) -> Iterator[str]:
    """Classes that the data have and of which no picture can be used: each would be an answer that is never right."""
    if task.listed is None or task.labels is None:
        return
    selected = {parse_split(spec)[0] for spec in found}
    anywhere, listed, usable = Counter[str](), Counter[str](), Counter[str]()
    for split in task.splits:
        known = _known(task, split)
        anywhere.update(known)
        if split in selected:
            listed.update(known)
            looked = split in looked_at
            usable.update(Counter(example.gold for example in task.read(split).rows) if looked else known)
    for label in anywhere:
        if anywhere[label] and (usable[label] or not listed[label]):
            continue
        there = f"none of its {listed[label]:,} pictures can be used" if listed[label] else "it has none"
        cure = "take it out of task.labels" if config.task.labels else "move its folder or its rows away"
        yield f"task.path: class {label!r} of {config.task.path} has no usable picture ({there}); mend them, or {cure}"


def _unlisted_labels(task: Task) -> Iterator[str]:
    if task.listed is None or task.labels is None:
        return
    listed = {task.labels.normalise(spelled) for split in task.splits for spelled in task.listed(split)}
    if missing := [label for label in task.labels.names if label not in listed]:
        yield f"warning: no split has a row of {_some(missing)}: an answer that is offered and never right"


def _missing_classes(task: Task, named: Mapping[str, str], found: Mapping[str, Selected]) -> Iterator[str]:
    if task.labels is None:
        return
    anywhere = {label for rows in found.values() for label, count in rows.labels.items() if count}
    for spec, keys in _by_spec(named).items():
        missing = [label for label in task.labels.names if label in anywhere and not found[spec].labels.get(label)]
        if missing:
            yield f"warning: {', '.join(keys)}: {spec!r} has no row of {_some(missing)}"


def _some(words: Collection[str]) -> str:
    shown = list(words)[:_NAMED]
    return ", ".join(shown) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")
