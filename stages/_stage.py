"""What ``python -m stages.<algorithm> --stage N`` does around the training itself: check, skip, train, evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pipeline import command_line
from pipeline.checks_trainer import clip_range, world_size
from pipeline.compat import declare_torchvision_ops, hide_vllm_from_trl
from pipeline.errors import UserError
from pipeline.handoff import parent_checkpoint
from pipeline.phases import parent_of, stale_reasons, start_record
from pipeline.processes import die_with_parent
from pipeline.provenance import provenance
from pipeline.run import RunDir, write_json
from pipeline.schema import RunConfig
from stages import _launch, evaluate
from stages._launch import Work


def main(algorithm: str, purpose: str | None, train: Callable[[Work], None], argv: Sequence[str] | None) -> int:
    """The entry point of a training stage.

    Args:
        algorithm: the stage file's name.
        purpose: its docstring, shown by ``--help``.
        train: the work of one process.
        argv: command line without the program; None for sys.argv.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _launch.parser(algorithm, (purpose or "").split("\n")[0])
    parser.add_argument("--stage", required=True, help="stage number or name, or baseline")
    arguments = command_line.parse(parser, argv)
    config, run = _launch.load_checked(arguments)
    name = config.stage_name(arguments.stage)
    stage = config.stage(name)
    if stage.algorithm != algorithm:
        raise UserError(
            f"{name} is a {stage.algorithm} stage: python -m stages.{stage.algorithm} --stage {arguments.stage}"
        )
    work = Work(config, name, run)
    if arguments.worker:
        die_with_parent()  # Of torchrun too, which a kill -9 leaves no time to end its workers.
        declare_torchvision_ops()  # Before transformers and trl are imported.
        hide_vllm_from_trl()
        train(work)
        return 0
    if arguments.dry_run:
        print(describe(config, run, name))
        return 0
    with _launch.only_one(work.folder):
        if arguments.clean:
            _launch.clean(work.folder)
        if not finished(work):
            parent_checkpoint(config, run, name)  # Refuse here, in one line, not in every worker.
            if run.record(name) is None:
                write_json(run.record_path(name), start_record(config, run, name) | provenance())
            _launch.say_here(f"{name}: {stage.algorithm} from {parent_of(config, name)}")
            _launch.run_workers(algorithm, work, [word for word in argv if word != "--clean"])
            if not finished(work):
                raise UserError(f"{name}: the workers ended but stage.json is not complete; see {work.folder / 'logs'}")
        return evaluate.evaluate(config, run, name)  # Inside the lock: its workers append to files in this folder.


def finished(work: Work) -> bool:
    """Whether the stage is complete.

    Raises:
        UserError: when it was begun or finished under another configuration, parent or data.
    """
    reasons = stale_reasons(work.config, work.run, work.name)
    if reasons:
        raise UserError(
            [f"{work.name} was made under other settings: {reason}" for reason in reasons]
            + [f"give the run another name, restore the setting, or start it anew with --clean ({work.folder})"]
        )
    return reasons is not None and (work.run.record(work.name) or {})["status"] == "complete"


def describe(config: RunConfig, run: RunDir, name: str) -> str:
    """What a stage would do, for ``--dry-run``."""
    stage = config.stage(name)
    clip = clip_range(stage)
    lines = [
        f"{name}: {stage.algorithm} from {parent_of(config, name)} into {run.phase(name)}",
        f"  rows: {stage.data if stage.data == 'cot' else stage.split}   prompt: {stage.prompt}",
        f"  freeze: {', '.join(stage.freeze) or 'nothing'}",
        f"  processes: {world_size(config)}   deepspeed: {config.launch.deepspeed or 'no'}",
    ]
    if stage.reward_funcs:
        lines.append(f"  rewards: {', '.join(stage.reward_funcs)}")
        lines.append(f"  rollouts: {stage.rollouts}   dynamic sampling: {stage.dynamic_sampling or 'no'}")
    if clip:
        lines.append(f"  clip range: 1 - {clip[0]} to 1 + {clip[1]}")
    lines += [f"  trainer.{key}: {value}" for key, value in stage.trainer.items()]
    return "\n".join(lines)
