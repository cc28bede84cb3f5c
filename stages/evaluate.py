"""Judge a phase's checkpoint on the evaluation split and write its report.

    python -m stages.evaluate --stage 3 --config configs/demo.yaml
    python -m stages.evaluate --model runs/demo:stage3 --task cv_bench --data data/CV-Bench --split 'test[:200]'

The second form judges any model on any task; stages/evaluation does its work and docs/evaluation.md is its guide. Of the first:

Every row is answered greedily and, `evaluation.samples` times, at temperature 1: format learning shows in samples only. The
untrained base is asked twice, to reason and to answer directly, so that it gets its best chance. Answers go to
predictions.jsonl; a run that was interrupted goes on with the batches that are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline import command_line
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.run_dir import BASE
from stages.evaluation import single_model
from stages.evaluation.phase import PAGE, answer_all, evaluate
from stages.processes import command
from stages.processes.command import run_cli
from stages.processes.work import Work, folder_lock
from stages.processes.workers import as_worker


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of an evaluation."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = command.parser("evaluate", (__doc__ or "").split("\n")[0])
    parser.set_defaults(config=None)
    parser.add_argument("--stage", help="stage number or name, a baseline's name, or base")
    single_model.add_arguments(parser)
    arguments = command_line.parse(parser, argv)
    own = [f"--{name.replace('_', '-')}" for name in single_model.single_model_options(arguments)]
    if arguments.stage is None and own:
        if arguments.config is not None:
            raise UserError(
                f"--config: is of a run and goes with --stage; {' '.join(own)} judge a model of its own; drop one side"
            )
        return single_model.main(arguments)
    if own:
        raise UserError(f"--stage: judges a phase of a run, which {', '.join(own)} cannot change; drop one side")
    if arguments.stage is None:
        raise UserError(
            "say what to judge: --stage 3 --config RUN, or --model MODEL --task TASK --split SPLIT; --help tells more"
        )
    arguments.config = arguments.config or "demo"
    if arguments.dry_run:
        from stages.evaluation.dry_run import describe_phase

        print(describe_phase(load(arguments.config, arguments.overrides), arguments.stage))
        return 0
    config, run = command.load_checked(arguments, trains=False)
    name = BASE if arguments.stage == BASE else config.stage_name(arguments.stage)
    if arguments.worker:
        with as_worker():
            answer_all(Work(config, name, run))
        return 0
    with folder_lock(run.phase(name)):
        if arguments.clean:
            (run.phase(name) / "evaluation.json").unlink(missing_ok=True)
        # Asked for by name, the report is made anew.
        (run.phase(name) / PAGE).unlink(missing_ok=True)
        return evaluate(config, run, name)


if __name__ == "__main__":
    run_cli(main)
