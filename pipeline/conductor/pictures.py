"""What was read of a run's splits, for plan and run: how many pictures are usable, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.schema import RunConfig
from pipeline.data.images import quick_look
from pipeline.data.splits import parse_split
from pipeline.data.student import load_run_task
from pipeline.data.usable_rows import usable_counts, usable_line
from pipeline.run_dir import BASE, COT, RunDir

_MOST = 2000
"""Pictures that a plan decodes, which takes seconds; more are looked at when the run begins."""


def picture_lines(config: RunConfig, run: RunDir) -> Iterator[str]:
    """Yield a line per split that the run reads. Sets that are drawn, or still to be taken out of their files, have none."""
    begun = run.record(COT) is not None or run.record(BASE) is not None
    if config.task.name == "scenes" or (config.task.name != "imagefolder" and not begun):
        return
    task = load_run_task(config, run)
    specs = [config.evaluation.split, *([config.cot.split] if config.cot else [])]
    stages = [*config.stages.values(), *([config.baseline] if config.baseline else [])]
    specs += [stage.split for stage in stages if stage.data != "cot"]
    for name in dict.fromkeys(parse_split(spec)[0] for spec in specs):
        if name not in task.splits:
            continue
        with quick_look(_MOST) as look:
            split = task.read(name)
        later = f" ({look.skipped:,} are not looked at yet)" if look.skipped else ""
        yield usable_line(name, usable_counts(split)) + later
