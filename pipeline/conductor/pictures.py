"""What was read of a run's splits, for plan and run: how many pictures are usable, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.splits import FEW, selections
from pipeline.config.schema import RunConfig
from pipeline.data.images import quick_look
from pipeline.data.load import DRAWN
from pipeline.data.splits import parse_split
from pipeline.data.task import Task
from pipeline.data.usable_rows import pictures_line, usable_counts, usable_line
from pipeline.run_dir import BASE, COT, RunDir

_LISTED = 5000
"""Rows of a split from which a plan does not even ask whether files have changed; it tells what is listed."""


def picture_lines(config: RunConfig, run: RunDir, task: Task, *, quick: bool = False) -> Iterator[str]:
    """Yield a line per split that the run reads. Sets that are drawn, or still to be taken out of their files, have none.

    Args:
        config: the run.
        run: its folder.
        task: the run's.
        quick: tell what is listed of splits that are large.
    """
    begun = run.record(COT) is not None or run.record(BASE) is not None
    if config.task.name in DRAWN or not (task.in_place or begun):
        return
    # Such a task tells itself how many of its rows are asked, and why others are not, as far as that takes no picture.
    tells = task.labels is None and task.listed is not None
    for name in dict.fromkeys(parse_split(spec)[0] for spec in selections(config).values()):
        if name not in task.splits:
            continue
        if quick and task.listed is not None and (rows := task.listed(name).total()) > _LISTED:
            listed = "" if tells else f"{rows:,} pictures are listed; "
            yield f"{name}: {listed}a run looks at each{' picture' if tells else ''}, this does not"
            continue
        with quick_look(FEW) as look:
            split = task.read(name)
        later = f" ({look.skipped:,} are not looked at yet)" if look.skipped else ""
        counts = usable_counts(split)
        yield (pictures_line(name, counts) if tells else usable_line(name, counts)) + later
