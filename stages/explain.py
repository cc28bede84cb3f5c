"""Map what answers hang on: grey patches over the pictures of some rows, and how far each lowers the answer's probability.

    python -m stages.explain --config configs/demo.yaml --rows 20 [--phase stage3 …] [a.b=c …]

What `python -m pipeline report --explain N` runs before it writes the report. Every phase of the run that is evaluated gets
occlusion/ in its folder, with a map for each picture of N rows per prompt style; maps that are there are kept (docs/reports.md).
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from pipeline import command_line
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import trained_phases
from pipeline.system.hardware import visible_gpus
from stages.processes.command import run_cli

log = logging.getLogger("stages.explain")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of occlusion maps."""
    arguments = command_line.parse(_parser(), argv)
    config = load(arguments.config, arguments.overrides)
    run = RunDir(config.output_dir, config.name)
    names = [name if name == BASE else config.stage_name(name) for name in arguments.phase or trained_phases(config)]
    if arguments.dry_run:
        print(f"{run.root}: {arguments.rows} rows of each prompt style of {', '.join(names)}")
        return 0
    if visible_gpus() == 0:
        # Two OpenMP threads that share a busy core are many times slower.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from stages.evaluation.explaining import explain

    refused: dict[str, list[str]] = {}
    for name in names:
        try:
            log.info(explain(config, run, name, arguments.rows))
        except UserError as error:
            refused[name] = error.problems
    if len(refused) == len(names):
        raise UserError([f"no occlusion maps: {problem}" for problems in refused.values() for problem in problems])
    for name, problems in refused.items():
        log.warning(f"warning: no occlusion maps of {name}: {'; '.join(problems)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line.doc_parser("stages.explain", __doc__)
    parser.add_argument(
        "--config", default="demo", help="YAML of the run, or the name of one in configs/ (default: demo)"
    )
    parser.add_argument(
        "--rows", type=command_line.from_one, required=True, metavar="N", help="rows of each prompt style"
    )
    parser.add_argument(
        "--phase",
        action="append",
        help="base, or a stage's or a baseline's number or name; again for more (default: all)",
    )
    parser.add_argument("--dry-run", action="store_true", help="resolve and print; load and write nothing")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
    return parser


if __name__ == "__main__":
    run_cli(main)
