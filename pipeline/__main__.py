"""Run the pipeline: order the phases, start each as its own process, skip what holds, stop on failure, report.

    python -m pipeline run --config configs/demo.yaml [a.b=c …]
    python -m pipeline plan | status | report --config …        python -m pipeline compare runs/a runs/b
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import checks
from pipeline.config import RunConfig, load
from pipeline.errors import UserError
from pipeline.phases import parent_of, phase_names, stale_reasons, trained_phases
from pipeline.processes import child_environment, die_with_parent
from pipeline.run import BASE, COT, RunDir

COMMANDS = {
    "run": "run every phase that is not finished, then write the report",
    "plan": "check the configuration and print what run would do",
    "status": "what is finished, running or waiting",
    "report": "write the report again from what is there",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the conductor."""
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    if more and (arguments.command == "compare" or any(word.startswith("-") or "=" not in word for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if arguments.command == "compare":
        from pipeline.report import compare

        print(compare([Path(folder) for folder in arguments.runs]))
        return 0
    arguments.overrides += more  # argparse leaves those that stand after a later option.
    config = load(arguments.config, arguments.overrides)
    checks.check(config)
    run = RunDir(config.output_dir, config.name)
    if arguments.command == "plan" or getattr(arguments, "dry_run", False):
        print(plan(config, run))
    elif arguments.command == "status":
        print(status(config, run))
    elif arguments.command == "report":
        print(report(config, run))
    else:
        conduct(config, run, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join([*COMMANDS, "compare"]))
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("--config", default="demo", help="YAML of the run, or the name of one in configs/ (default: demo)")
        command.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
        if name == "run":
            command.add_argument("--dry-run", action="store_true", help="the same as plan")
            command.add_argument(
                "--clean", metavar="PHASE", help="start PHASE (cot, base, baseline, stage3, all) and what depends on it anew"
            )
    compare = commands.add_parser("compare", help="put runs side by side", description="put runs side by side")
    compare.add_argument("runs", nargs="+", help="run folders")
    return parser


def command_of(config: RunConfig, name: str) -> list[str]:
    """The module and its own arguments that run a phase."""
    if name == COT:
        return ["cot_builder", "build"]
    if name == BASE:
        return ["stages.base"]
    return [f"stages.{config.stage(name).algorithm}", "--stage", name]


def conduct(config: RunConfig, run: RunDir, arguments: argparse.Namespace) -> None:
    """Run the phases in order.

    Raises:
        UserError: when a phase no longer fits the configuration, or fails; says how to go on.
    """
    began = time.monotonic()
    if arguments.clean:
        _clean(config, run, arguments.clean)
    _refuse_stale(config, run)
    common = ["--config", str(Path(arguments.config)), *arguments.overrides]
    for name in phase_names(config):
        print(f"[{_clock(time.monotonic() - began)}] {name}", flush=True)
        command = [sys.executable, "-m", *command_of(config, name), *common]
        done = subprocess.run(command, env=child_environment(), check=False, preexec_fn=die_with_parent)
        if done.returncode:
            raise UserError(
                f"{name} failed (exit status {done.returncode}); mend the cause and run the same command: it goes on here"
            )
    print(f"[{_clock(time.monotonic() - began)}] report", flush=True)
    print(report(config, run))


def _refuse_stale(config: RunConfig, run: RunDir) -> None:
    problems = []
    for name in phase_names(config):
        if name == COT and (run.record(COT) or {}).get("status") != "complete":
            continue  # The builder's journal knows which replies still hold.
        for reason in stale_reasons(config, run, name) or []:
            problems.append(f"{run.phase(name)} was made under other settings: {reason}")
    if problems:
        raise UserError([*problems, "give the run another name (name=…), restore the settings, or add --clean PHASE (or all)"])


def _clean(config: RunConfig, run: RunDir, phase: str) -> None:
    """Delete a phase and every later one that was made from it."""
    import shutil

    names = phase_names(config)
    if phase == "all":
        doomed = set(names)
    else:
        doomed = {phase if phase in names else config.stage_name(phase)}
    if COT in doomed:
        doomed |= {name for name in names if name != COT and (run.record(name) or {}).get("data_digest")}
    for name in names:
        if parent_of(config, name) in doomed:
            doomed.add(name)
    for name in names:
        if name in doomed:
            shutil.rmtree(run.phase(name), ignore_errors=True)


def plan(config: RunConfig, run: RunDir) -> str:
    """What `run` would do, phase by phase."""
    processes = checks.world_size(config)
    launch = f"{processes} process{'es' if processes > 1 else ''}, deepspeed {config.launch.deepspeed or 'no'}"
    lines = [f"run {config.name} in {run.root}: {launch}"]
    for name in phase_names(config):
        reasons = stale_reasons(config, run, name)
        state = (run.record(name) or {}).get("status", "to do")
        if reasons:
            state = "; ".join(["STALE", *reasons])
        lines.append(f"  {name:<24} {state:<10} {_what(config, name)}")
    evaluation = f"{config.evaluation.split} after every phase, greedy and {config.evaluation.samples} sampled"
    lines.append(f"  {'evaluation':<24} {'':<10} {evaluation}")
    return "\n".join(lines)


def _what(config: RunConfig, name: str) -> str:
    if name == COT:
        assert config.cot is not None
        return f"{config.cot.split} asked of {', '.join(config.cot.teachers)}"
    if name == BASE:
        return config.model.name_or_path or "a tiny random Idefics3"
    stage = config.stage(name)
    clip = checks.clip_range(stage)
    words = [f"{stage.algorithm} from {parent_of(config, name)} on {'cot' if stage.data == 'cot' else stage.split}"]
    if stage.reward_funcs:
        words.append("rewards " + "+".join(stage.reward_funcs))
    if clip:
        words.append(f"clip {clip[0]}/{clip[1]}")
    return ", ".join(words)


def status(config: RunConfig, run: RunDir) -> str:
    """One line per phase: its state, and the step a running stage has reached."""
    from pipeline.run import read_jsonl

    lines = []
    for name in phase_names(config):
        record = run.record(name)
        rows = list(read_jsonl(run.phase(name) / "metrics.jsonl"))
        step = f"step {rows[-1]['step']}, {rows[-1]['seconds']:.0f} s" if rows else ""
        evaluated = "evaluated" if (run.phase(name) / "report" / "metrics.json").exists() else ""
        lines.append(f"{name:<24} {(record or {}).get('status', 'to do'):<10} {step:<22} {evaluated}")
    return "\n".join(lines)


def report(config: RunConfig, run: RunDir) -> str:
    """Write the run's report; returns the stage table and where the page is."""
    from pipeline.report import summary_table, write_run_report
    from pipeline.tasks import load_task

    phases = trained_phases(config)
    labels = load_task(config.task, run.cache).labels
    page = write_run_report(run.root, phases, labels, title=config.name)
    return f"{summary_table(run.root, phases)}\nreport: {page}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
