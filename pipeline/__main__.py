"""Run the pipeline: order the phases, start each as its own process, skip what holds, stop on failure, report.

python -m pipeline run --config configs/demo.yaml [a.b=c …]
python -m pipeline plan | preflight | status | report --config …
python -m pipeline report FOLDER…        python -m pipeline compare runs/a runs/b [--out FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import checks, checks_trainer, command_line, nodes
from pipeline.checks_adapters import unshared
from pipeline.config import load, write_config
from pipeline.errors import UserError
from pipeline.phases import OTHER_ROWS, parent_of, phase_names, stale_reasons, trained_phases
from pipeline.processes import run_child
from pipeline.run import BASE, COT, RunDir, file_digest
from pipeline.schema import BASELINE, RunConfig
from pipeline.status import in_use
from pipeline.tasks import load_task, parse_split

COMMANDS = {
    "run": "run every phase that is not finished, then write the report",
    "plan": "check the configuration and print what run would do",
    "preflight": "try every stage for a few steps: first rows, peak memory, and a forecast of time and disk",
    "status": "what is finished, running or waiting; of a running stage its step, rewards and alarms",
    "report": "write the report again from what is there",
    "contamination": "compare the pictures and questions of the training rows with those of sets that are to be judged on",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the conductor."""
    arguments = command_line.parse(_parser(), argv)
    if arguments.command == "compare":
        from pipeline.report import compare, write_comparison

        runs = [Path(folder) for folder in arguments.runs]
        print(write_comparison(runs, Path(arguments.out)) if arguments.out else compare(runs))
        return 0
    if arguments.command == "report" and (folders := _folders(arguments)):
        from pipeline.report import write_folder_report

        print(f"report: {write_folder_report(folders, Path(arguments.out) if arguments.out else None)}")
        return 0
    config = load(arguments.config, arguments.overrides)
    checks.check(config)
    run = RunDir(config.output_dir, config.name)
    if arguments.command == "status":
        from pipeline.status import show

        show(config, run, as_json=arguments.json, every=arguments.watch)
        return 0
    _open_task(config, run)
    if arguments.command == "plan" or getattr(arguments, "dry_run", False):
        print(plan(config, run))
    elif arguments.command == "preflight":
        return run_child(_command(["stages.preflight"], arguments))
    elif arguments.command == "report":
        print(report(config, run))
    elif arguments.command == "contamination":
        print(contamination(config, run, arguments.against))
    elif nodes.rank() > 0:
        return nodes.follow()
    else:
        conduct(config, run, arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join([*COMMANDS, "compare"]))
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument(
            "--config", default="demo", help="YAML of the run, or the name of one in configs/ (default: demo)"
        )
        if name == "report":
            command.add_argument(
                "overrides",
                nargs="*",
                metavar="FOLDER|a.b=c",
                help="folders with predictions.jsonl (a phase, a cell of the lab, or what holds some), reported without a "
                "configuration; or values that override the file's",
            )
            command.add_argument("--out", metavar="FOLDER", help="where to, for folders (default: report/ in them)")
        else:
            command.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
        if name in ("run", "preflight", "report"):
            command.add_argument("--dry-run", action="store_true", help="the same as plan")
        if name == "run":
            command.add_argument(
                "--clean",
                metavar="PHASE",
                help="start PHASE (cot, base, baseline, stage3, all) and what depends on it anew; teachers' replies are kept",
            )
        if name == "contamination":
            command.add_argument(
                "--against", metavar="LAB.yaml", help="every task of this lab instead of the run's held_out"
            )
        if name == "status":
            command.add_argument("--json", action="store_true", help="print it as one JSON object")
            command.add_argument(
                "--watch",
                nargs="?",
                type=_seconds,
                const=5.0,
                metavar="SECONDS",
                help="print it again every SECONDS (5), in place, until the run is done",
            )
    purpose = "put runs side by side: what differs, accuracy and macro-F1, paired tests"
    compare = commands.add_parser("compare", help=purpose, description=purpose)
    compare.add_argument(
        "runs",
        nargs="+",
        help="folders of runs, or with predictions.jsonl; the tests compare every other with the first",
    )
    compare.add_argument(
        "--out", metavar="FOLDER", help="write a page with its tables there (or a FILE.html, a FILE.md)"
    )
    return parser


def _seconds(word: str) -> float:
    """A number of seconds above 0."""
    with contextlib.suppress(ValueError):
        if float(word) > 0:
            return float(word)
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds above 0; settings a.b=c go before --watch")


def _folders(arguments: argparse.Namespace) -> list[Path]:
    """The folders that `report` was given instead of settings.

    Raises:
        UserError: on folders beside settings, and on --out without folders.
    """
    folders = [word for word in arguments.overrides if "=" not in word or Path(word).is_dir()]
    settings = [word for word in arguments.overrides if word not in folders]
    if folders and settings:
        raise UserError(
            f"report takes folders ({', '.join(folders)}) or settings of a run ({', '.join(settings)}), not both"
        )
    if arguments.out and not folders:
        raise UserError(
            "report --out goes with folders; a run's report lies in its own folder, see output_dir and name"
        )
    return [Path(folder) for folder in folders]


def _open_task(config: RunConfig, run: RunDir) -> None:
    """Open the data (not its images), so that a wrong option, layout or split name is told before anything runs.

    Raises:
        UserError: whatever the task finds wrong, and every split it does not have.
    """
    if config.task.name == "scenes":
        return  # It draws its own, which is work, and has all three splits.
    task = load_task(config.task, run.cache)
    named = {"evaluation.split": config.evaluation.split}
    if config.cot is not None:
        named["cot.split"] = config.cot.split
    stages = {**config.stages, **({BASELINE: config.baseline} if config.baseline else {})}
    named |= {f"{name}.split": stage.split for name, stage in stages.items() if stage.data != "cot"}
    named |= {f"{name}.validation.split": stage.validation.split for name, stage in stages.items() if stage.validation}
    problems = [
        f"{key}: {spec!r}: the data has no such split; it has {', '.join(task.splits)}"
        for key, spec in named.items()
        if parse_split(spec)[0] not in task.splits
    ]
    if problems:
        raise UserError(problems)


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
    if config.held_out:
        print(contamination(config, run))
    write_config(config, run.root / "config.yaml")
    with nodes.conducted(run.root) as run_everywhere:
        for name in phase_names(config):
            print(f"[{_clock(time.monotonic() - began)}] {name}", flush=True)
            if name == COT and _built(run):
                continue  # Building again would judge every reply again, and leave no complete rows while it does.
            command = _command(command_of(config, name), arguments)
            if name == COT:
                code = run_child(command)
            else:  # A stage answers SIGTERM by a checkpoint; without us nobody waits for that.
                code = run_everywhere(command, dies_by=signal.SIGKILL)
            if code == command_line.STOPPED:
                raise KeyboardInterrupt
            if code:
                raise UserError(
                    f"{name} failed (exit status {code}); mend the cause and run the same command: it goes on here"
                )
    print(f"[{_clock(time.monotonic() - began)}] report", flush=True)
    print(report(config, run))


def _command(module: list[str], arguments: argparse.Namespace) -> list[str]:
    """A module with its own arguments, then this command's configuration."""
    return [sys.executable, "-m", *module, "--config", str(Path(arguments.config)), *arguments.overrides]


def _built(run: RunDir) -> bool:
    """Whether the CoT rows are complete and the very ones their manifest names."""
    record, rows = run.record(COT) or {}, run.cot / "train.parquet"
    return record.get("status") == "complete" and rows.exists() and file_digest(rows) == record.get("data_digest")


def _refuse_stale(config: RunConfig, run: RunDir) -> None:
    problems = []
    building = COT in phase_names(config) and (run.record(COT) or {}).get("status") != "complete"
    for name in phase_names(config):
        if name == COT and building:
            continue  # The builder's journal knows which replies still hold.
        for reason in stale_reasons(config, run, name) or []:
            if building and reason == OTHER_ROWS:
                continue  # There are none yet; the stage looks again once they are built.
            problems.append(f"{run.phase(name)} was made under other settings: {reason}")
    if problems:
        raise UserError(
            [*problems, "give the run another name (name=…), restore the settings, or add --clean PHASE (or all)"]
        )


def _clean(config: RunConfig, run: RunDir, phase: str) -> None:
    """Delete a phase and every later one that was made from it, but no reply of a teacher."""
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
    used = [run.phase(name) for name in names if name in doomed and in_use(run.phase(name))]
    if used:
        raise UserError([f"{folder} is in use by another process; wait for it or stop it" for folder in used])
    for name in names:
        if name in doomed:
            _delete(run.phase(name))


def _delete(folder: Path) -> None:
    """Delete a phase's folder, except builders' journals: replies cost most and are found again by what was asked."""
    import shutil

    if not folder.exists():
        return
    for path in folder.iterdir():
        if path.name == "shards":  # Each has a journal of its own.
            for shard in path.iterdir():
                _delete(shard)
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.name != "journal":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # The journal is in it.
        folder.rmdir()


def plan(config: RunConfig, run: RunDir) -> str:
    """What `run` would do, phase by phase."""
    processes = checks_trainer.world_size(config)
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
        return config.model.name_or_path or f"a tiny random {config.model.tiny.family}"
    stage = config.stage(name)
    clip = checks_trainer.clip_range(stage)
    words = [f"{stage.algorithm} from {parent_of(config, name)} on {'cot' if stage.data == 'cot' else stage.split}"]
    if stage.reward_funcs:
        words.append("rewards " + "+".join(stage.reward_funcs))
    if clip:
        words.append(f"clip {clip[0]}/{clip[1]}")
    if stage.algorithm == "grpo" and (reason := unshared(config, stage)):
        words.append(f"prompts not shared: {reason}")
    return ", ".join(words)


def report(config: RunConfig, run: RunDir) -> str:
    """Write the run's report; returns the stage table, how far the forecast was off, and where the page is."""
    from pipeline.forecast_text import forecast_errors
    from pipeline.report import summary_table, write_run_report

    phases = trained_phases(config)
    labels = load_task(config.task, run.cache).labels
    page = write_run_report(run.root, phases, labels, title=config.name)
    told = forecast_errors(config, run)
    return f"{summary_table(run.root, phases)}\n" + (f"{told}\n" if told else "") + f"report: {page}"


def contamination(config: RunConfig, run: RunDir, lab: str | None = None) -> str:
    """What the run's training rows share with its held-out sets, or with the tasks of a lab, in lines.

    Raises:
        UserError: when there is nothing to compare with, or a picture is in both.
    """
    from pipeline.contamination import check_run, held_out_of

    if lab is None and not config.held_out:
        raise UserError("there is nothing to compare with; set held_out: in the run, or give --against LAB.yaml")
    return "\n".join(str(found) for found in check_run(config, run, held_out_of(lab) if lab else None))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(command_line.status(main))
