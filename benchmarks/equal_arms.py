"""Whether runs that compare vision encoders differ in nothing else: first as they are configured, then as they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.checks.parts import composed_of
from pipeline.config.loader import to_plain
from pipeline.config.schema import RunConfig
from pipeline.data.training_rows import DATA, changes
from pipeline.files import differences, read_json
from pipeline.reports.entries import Entry
from pipeline.run_dir import BASE, RunDir

OF_THE_ENCODER = ("vision", "layer")
"""Keys of `model.compose` in which arms may differ."""


def config_problems(configs: Mapping[str, RunConfig]) -> Iterator[str]:
    """Yield why configurations do not compare encoders, naming each setting in which one differs from the first.

    Args:
        configs: the arms by name, the first one what the others are compared with.
    """
    for name, config in configs.items():
        if config.model.compose is None:
            yield f"{name}: model.compose is not set, so there is no encoder to compare; compose its model of parts"
        elif not config.stages:
            yield f"{name}: has no stage, so nothing reads its encoder; write one that starts from base"
        for stage, settings in config.all_stages.items():
            if "vision" not in settings.freeze:
                yield f"{name}: {stage} trains the encoder, so its features are not its own; add vision to its freeze"
    called: dict[str, str] = {}
    for name, config in configs.items():
        if (other := called.setdefault(config.name, name)) != name:
            yield f"{name} and {other} are both called {config.name}, so they would share a run; give one another name:"
    (first, reference), *others = ((name, _without_encoder(config)) for name, config in configs.items())
    for name, plain in others:
        for difference in differences(reference, plain):
            yield f"{name} differs from {first} in more than its encoder: {difference}"
    if len(configs) < 2:
        yield f"{first} is one encoder; name two configurations at least, or a folder of them"


def _without_encoder(config: RunConfig) -> dict[str, Any]:
    plain = {key: value for key, value in to_plain(config).items() if key not in ("name", "output_dir")}
    compose = {key: value for key, value in (plain["model"]["compose"] or {}).items() if key not in OF_THE_ENCODER}
    return {**plain, "model": {**plain["model"], "compose": compose}}


@dataclass(frozen=True)
class Made:
    """What a run was made of and judged on, as it recorded it."""

    language: str
    """Digest of the language model's weights."""
    image_tokens: int
    """Of one picture."""
    rows: Mapping[str, str]
    """Stage: the lines of its `data.tsv`, which tell rows, texts and pictures."""
    steps: Mapping[str, int]
    """Stage: optimizer steps."""
    judged: frozenset[tuple[str, str]]
    """(id, gold answer) of the rows it answered."""


def read_made(run: RunDir, entries: Mapping[str, Entry]) -> Made:
    """Read what a finished run was made of.

    Args:
        run: its folder.
        entries: its evaluated phases by name.
    """
    parts = composed_of(run.final(BASE)) or {"language": {"sha256": ""}}
    trained = [name for name, entry in entries.items() if entry.record.get("steps") is not None]
    return Made(
        language=parts["language"]["sha256"],
        image_tokens=int(read_json(run.final(BASE) / "config.json").get("image_seq_length", 0)),
        rows={name: (run.phase(name) / DATA).read_text() for name in trained},
        steps={name: int(entries[name].record["steps"]) for name in trained},
        judged=frozenset(
            (row["id"], str(row["gold"])) for name in trained for row in entries[name].greedy
        ),
    )  # fmt: skip


def made_problems(first: Made, other: Made) -> Iterator[str]:
    """Yield in what the second of two runs was made otherwise than the first: language model, rows, steps, rows judged on."""
    if first.language != other.language:
        yield f"language model: weights {first.language[:12] or 'unknown'} -> {other.language[:12] or 'unknown'}"
    for stage, lines in first.rows.items():
        yield from (f"data of {stage}: {change}" for change in changes(lines, other.rows.get(stage, "")))
    for difference in differences(dict(first.steps), dict(other.steps)):
        yield f"steps of {difference}"
    if first.judged != other.judged:
        apart = len(first.judged ^ other.judged)
        yield f"rows judged on: {apart:,} are in one and not in the other"
