"""What questions of another kind, mixed into training, are worth to the others: as many rows and steps with and without them.

    python -m benchmarks.auxiliary [--config ablations/depth] [--seeds 0 1 2] [--table-only] [a.b=c …]

The arms are the stages of the configuration, which differ in their `split` alone; the first one trains without the auxiliary
questions. The others are compared with it on the same rows: over all kinds of question that the first one trains on, on each of
them, and on those that it does not. Arms of more or fewer rows than the first are refused: by their splits before anything is
trained, and by the rows that finished runs recorded. Every seed is one run, which goes on where it stopped. Table and figure take
the place of what stands between the configuration's marks on the page of --into.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from benchmarks import kinds
from benchmarks.data_efficiency import find_curves
from benchmarks.seeds import check_marks, make_parser, publish, run_over_seeds
from pipeline import command_line
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.data.training_rows import DATA
from pipeline.errors import UserError
from pipeline.run_dir import RunDir


def find_arms(config: RunConfig) -> dict[str, str]:
    """Return split: stage of the arms, in the configuration's order.

    Raises:
        UserError: naming stages that differ from the others in more than their split, or not even in that.
    """
    curves = list(find_curves(config).values())
    if len(curves) > 1:
        told = " and ".join(", ".join(stages) for stages in curves)
        raise UserError(f"{config.name}: {told} differ in more than their split; leave those of one kind alone in it")
    arms = {config.stage(stage).split: stage for stage in curves[0]}
    if twins := [stage for stage in curves[0] if stage not in arms.values()]:
        raise UserError(f"{config.name}: {', '.join(twins)} trains on the split of another arm; leave it out")
    return arms


def refuse_unequal(rows: Mapping[str, int], told: str = "") -> None:
    """Refuse arms that train on other numbers of rows than the first.

    Args:
        rows: split: how many rows of it are trained on.
        told: the run they are of, for the message.

    Raises:
        UserError: naming each with its rows.
    """
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{split} has {count:,}" for split, count in rows.items())
        raise UserError(f"{told}arms must train on as many rows: {counts}; slice their splits to as many")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the arms over the seeds, then write the table and the figure."""
    parser = make_parser("auxiliary", __doc__ or "", [0, 1, 2], config="ablations/depth")
    arguments = command_line.parse(parser, argv)
    config = load(arguments.config, arguments.overrides)
    arms = find_arms(config)
    check_marks(arguments.into, config.name)
    task = load_task(config.task, RunDir(arguments.output_dir, config.name).cache)
    rows = {split: task.select_for_training(split).rows for split in arms}
    refuse_unequal({split: len(of) for split, of in rows.items()})
    trained = {kinds.kind_of(row.groups, row.gold) for row in rows[next(iter(arms))]}
    apart = {kinds.kind_of(row.groups, row.gold) for row in task.select(config.evaluation.split).rows} - trained
    runs = run_over_seeds(arguments.config, arguments, arguments.overrides)
    for seed in arguments.seeds:
        run = RunDir(arguments.output_dir, f"{config.name}-seed{seed}")
        # Of chains of thought only verified rows are trained on.
        made = {split: len((run.phase(stage) / DATA).read_text().splitlines()) for split, stage in arms.items()}
        refuse_unequal(made, f"{run.root}: ")
    entries = {split: [run[stage] for run in runs] for split, stage in arms.items()}
    written = kinds.table("trained on", entries, arguments.seeds, apart)
    publish(written, arguments.into, config.name, kinds.figure(entries, arguments.seeds, apart))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status(main))
