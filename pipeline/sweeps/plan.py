"""What is known of a sweep before it starts: memory per cell, which cells cannot fit, and which are done and unchanged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import TWO_STEPS, Cell, LabConfig, LabModel, cells
from pipeline.config.loader import to_plain
from pipeline.data.splits import parse_split
from pipeline.errors import UserError
from pipeline.files import digest
from pipeline.runs.handover import model_folder
from pipeline.sweeps.memory import CONTEXT, Estimate, estimate, read_shapes
from pipeline.sweeps.results import Cells, Planned
from pipeline.system.hardware import free_memory, visible_gpus


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """What each cell needs, and what there is."""

    planned: dict[str, Planned]
    estimates: dict[tuple[str, str], Estimate]
    """(model, precision): of the task that needs most."""
    unknown: dict[str, str]
    """Model: why its memory cannot be told."""
    free: int | None
    """Bytes of the GPU with the least room, or of this machine's memory; None where that cannot be asked."""


def make_plan(config: LabConfig, ignore_memory: bool = False, gpus: Sequence[str] = ()) -> SweepPlan:
    """Estimate every cell from its models' files alone, and refuse those that cannot fit.

    Args:
        config: the lab.
        ignore_memory: start them all the same.
        gpus: names of those that cells are started on; none for every visible one.
    """
    gpu = visible_gpus() > 0
    free = min(free_memory(gpus), default=None)
    shapes, unknown, sizes = {}, {}, {}
    for name, model in {**config.reasoners, **config.models}.items():
        if size := named_size(model.name_or_path or ""):
            sizes[name] = size
        if model.backend == "openai":
            unknown[name] = "a server has it"
            continue
        try:
            shapes[name] = read_shapes(model)
        except UserError as error:
            unknown[name] = str(error)
    planned: dict[str, Planned] = {}
    largest: dict[tuple[str, str], Estimate] = {}
    for cell in cells(config):
        parts = []
        for name in [cell.model, *([cell.reasoner] if cell.reasoner else [])]:
            if name in shapes:
                tokens = config.tasks[cell.task].max_new_tokens
                one = estimate(shapes[name], cell.precision, gpu=gpu, rows=config.batch_size, new_tokens=tokens)
                parts.append(one)
                sizes[name] = sum(one.parameters.values())
                if one.total > (largest[name, cell.precision].total if (name, cell.precision) in largest else 0):
                    largest[name, cell.precision] = one
        needed = sum(one.total for one in parts) or None
        reserve = CONTEXT if gpu else 0
        refused = None
        if needed and free is not None and needed + reserve > free and not ignore_memory:
            refused = (
                f"needs about {_mb(needed + reserve)}, of which {_mb(free)} are free; take 8bit or 4bit, a smaller "
                "batch_size, or --ignore-memory to try"
            )
        planned[cell.id] = Planned(needed, refused, sizes.get(cell.model))
    return SweepPlan(planned, largest, unknown, free)


def named_size(name: str) -> int | None:
    """Return the parameters that a model's name tells: 500 million of SmolVLM-500M-Instruct; None where it tells none."""
    found = re.search(r"(?<![a-z\d.])(\d+(?:\.\d+)?)([bm])(?![a-z\d])", name.rpartition("/")[2], re.IGNORECASE)
    return round(float(found[1]) * (10**9 if found[2] in "bB" else 10**6)) if found else None


def key(config: LabConfig, cell: Cell) -> str:
    """Return one sha256 over all that decides without opening data whether a complete cell may have changed.

    Sizes and times stand for the content of weights and data: where one differs, the cell's own worker is started, which compares
    contents.
    """
    model = config.models[cell.model]
    others = config.reasoners if cell.mode in TWO_STEPS else {}
    task = config.tasks[cell.task]
    return digest(
        [
            dataclasses.asdict(cell),
            config.seed,
            *([config.rotate_options] if config.rotate_options > 1 else []),
            to_plain(task),
            *(_stamps(_path(named)) for named in (task.task.path, task.contents, config.prompts)),
            [[_settings(one), _stamps(model_folder(one))] for one in [model, *others.values()]],
        ]
    )


def smoke_lab(config: LabConfig) -> LabConfig:
    """Return the lab that asks of every cell its first rows alone, in a folder of its own."""
    rows = config.smoke or 2
    return dataclasses.replace(
        config,
        name=f"{config.name}-smoke",
        tasks={
            name: dataclasses.replace(task, split=f"{parse_split(task.split)[0]}[:{rows}]")
            for name, task in config.tasks.items()
        },
    )


def describe(config: LabConfig, plan: SweepPlan, known: Cells, folder: Path) -> str:
    """Return what a sweep would do: memory per model and precision, then the cells by state."""
    device = "GPU with least room" if visible_gpus() else "memory"
    room = f"{_mb(plan.free)} free ({device})" if plan.free is not None else "free memory not known"
    lines = [
        f"sweep {config.name} in {folder}: {len(cells(config))} cells; {room}",
        "",
        *_memory_table(config, plan, known),
    ]
    lines += [f"  {name}: memory not known: {why}" for name, why in plan.unknown.items()]
    found: dict[str, list[str]] = {}
    for cell in cells(config):
        row = known.row(cell)
        found.setdefault(row.status, []).append(cell.id + (f": {row.reason}" if row.reason else ""))
    for status, ids in found.items():
        lines += ["", f"{status}: {len(ids)}", *(f"  {one}" for one in ids)]
    return "\n".join(lines)


def _memory_table(config: LabConfig, plan: SweepPlan, known: Cells) -> Iterator[str]:
    """Megabytes per model and precision, and the most that was measured where a cell is done."""
    columns = ("parameters", "weights", "cache", "activations", "in all", "measured")
    yield f"  {'model':<24} {'precision':<10}" + "".join(f"{word:>12}" for word in columns)
    for (name, precision), one in plan.estimates.items():
        rows = [known.row(cell) for cell in cells(config) if (cell.model, cell.precision) == (name, precision)]
        measured = max((row.memory_measured_mb for row in rows if row.memory_measured_mb), default=None)
        parts = [one.weights, one.cache, one.activations, one.total]
        parameters = f"{sum(one.parameters.values()) / 1e6:,.1f} M"
        told = [parameters, *(_mb(part) for part in parts), _mb(measured * 1e6) if measured else "–"]
        yield f"  {name:<24} {precision:<10}" + "".join(f"{word:>12}" for word in told)


def _settings(model: LabModel) -> dict[str, Any]:
    """What is set of a model; which precisions it is asked in is no part of any one cell."""
    return {key: value for key, value in to_plain(model).items() if key != "precisions"}


def _path(named: str | None) -> Path | None:
    return Path(named).expanduser() if named else None


def _stamps(root: Path | None) -> list[list[Any]]:
    if root is None:
        return []
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    found = [(path, path.stat()) for path in files]
    return [[path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns] for path, status in found]


def _mb(number: float) -> str:
    return f"{number / 1e6:,.0f} MB".replace(",", "\u202f")
