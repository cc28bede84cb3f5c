"""The model a run starts from: made here when it is tiny or composed of parts, else found on the hub or on disk and checked.

python -m stages.base --config configs/demo.yaml
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from pipeline import command_line
from pipeline.run_dir import BASE
from pipeline.runs.handover import has_checkpoint
from stages.checkpoints.base_model import make_base_model
from stages.evaluation import phase
from stages.processes import command
from stages.processes.command import run_cli
from stages.processes.work import Work, clean, folder_lock
from stages.processes.workers import as_worker, run_workers

log = logging.getLogger("stages.base")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of the base phase."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = command_line.parse(command.parser("base", (__doc__ or "").split("\n")[0]), argv)
    config, run = command.load_checked(arguments, trains=False)
    work = Work(config, BASE, run)
    if arguments.worker:
        with as_worker():
            make_base_model(work)
        return 0
    if arguments.dry_run:
        print(
            f"base: {f'a tiny random model, {config.model.tiny}' if config.model.is_tiny else config.model.described}"
        )
        return 0
    with folder_lock(work.folder):
        if arguments.clean or run.record(BASE) is None:
            clean(work.folder)
        if not has_checkpoint(work.config, work.run, work.name):
            log.info(f"base: {config.model.described}")
            run_workers("base", work, [word for word in argv if word != "--clean"])
        return phase.evaluate(config, run, BASE)


if __name__ == "__main__":
    run_cli(main)
