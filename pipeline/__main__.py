"""Run the pipeline: order the phases, start each as its own process, skip what holds, stop on failure, report.

python -m pipeline run --config configs/demo.yaml [a.b=c …]
python -m pipeline plan | preflight | status | report --config …
python -m pipeline report FOLDER…        python -m pipeline compare runs/a runs/b [--out FOLDER]
python -m pipeline fetch cv_bench --to data
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import command_line
from pipeline.checks import run as checks
from pipeline.conductor.run import (
    _command,
    changed_settings_of,
    conduct,
    contamination,
    open_task,
    plan,
    report,
)
from pipeline.config.loader import load
from pipeline.data.catalogue import DATA, catalogue
from pipeline.errors import UserError, did_you_mean
from pipeline.run_dir import RunDir
from pipeline.system import multinode
from pipeline.system.processes import run_child

COMMANDS = {
    "run": "run every phase that is not finished, then write the report",
    "plan": "check the configuration and print what run would do",
    "preflight": "try every stage for a few steps: first rows, peak memory, and a forecast of time and disk",
    "status": "what is finished, running or waiting; of a running stage its step, rewards and alarms",
    "report": "write the report again from what is there",
    "contamination": "compare the pictures and questions of the training rows with those of sets that are to be judged on",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of the conductor."""
    arguments = command_line.parse(_parser(), argv)
    if arguments.command == "compare":
        print(_compare([Path(folder) for folder in arguments.runs], Path(arguments.out) if arguments.out else None))
        return 0
    if arguments.command == "fetch":
        return _fetch(arguments)
    if arguments.command == "report" and (folders := _folders(arguments)):
        from pipeline.reports.columns import parse_columns
        from pipeline.reports.write import write_folder_report

        columns = parse_columns(arguments.columns or "")
        if arguments.explain and (code := _explain(folders, arguments.explain)):
            return code
        print(f"report: {write_folder_report(folders, Path(arguments.out) if arguments.out else None, columns)}")
        return 0
    config = load(arguments.config, arguments.overrides)
    dry = arguments.command == "plan" or getattr(arguments, "dry_run", False)
    starts = arguments.command in ("run", "preflight") and not dry
    checks.check(config, trains=arguments.command in ("run", "plan", "preflight"), starts=starts)
    run = RunDir(config.output_dir, config.name)
    if arguments.command == "status":
        from pipeline.conductor.status import show

        show(config, run, as_json=arguments.json, every=arguments.watch)
        return 0
    follows = arguments.command == "run" and multinode.rank() > 0
    trains = arguments.command in ("plan", "run", "preflight") and not follows
    opened = open_task(config, run, trains=trains, quick=dry)
    if dry:
        print(plan(config, run, opened))
    elif arguments.command == "preflight":
        fitting = [f"--{key}={value}" for key in ("write", "memory") if (value := getattr(arguments, key)) is not None]
        return run_child(_command(["stages.preflight", *(["--fit"] if arguments.fit else []), *fitting], arguments))
    elif arguments.command == "report":
        if arguments.explain and (code := run_child(_command(_explaining(arguments.explain), arguments))):
            return code
        print(report(config, run))
    elif arguments.command == "contamination":
        print(contamination(config, run, arguments.against))
    elif multinode.rank() > 0:
        return multinode.follow(run.root)
    else:
        conduct(config, run, arguments, opened)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join([*COMMANDS, "compare", "fetch"]))
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
            command.add_argument(
                "--explain",
                type=command_line.from_one,
                metavar="N",
                help="first map which parts of their pictures the answers to N rows of each phase hang on, by covering each part",
            )
            command.add_argument("--out", metavar="FOLDER", help="where to, for folders (default: report/ in them)")
            command.add_argument(
                "--columns",
                metavar="OURS=THEIRS,…",
                help="what another tool's predictions.jsonl calls the columns id, gold, label, …; docs/reports.md lists them",
            )
        else:
            command.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
        if name in ("run", "preflight", "report"):
            command.add_argument("--dry-run", action="store_true", help="the same as plan")
        if name == "preflight":
            command.add_argument(
                "--fit", action="store_true", help="measure which sizes fit this machine, and print the overrides"
            )
            command.add_argument("--write", metavar="FILE", help="with --fit: write them too, on top of --config")
            command.add_argument("--memory", metavar="GB", help="with --fit: use no more of a device than this")
        if name == "run":
            command.add_argument(
                "--to",
                metavar="PHASE",
                help="stop after PHASE (cot, base, sft_labels, stage3), and what it is made from",
            )
            command.add_argument(
                "--clean",
                metavar="PHASE",
                help="start PHASE (cot, base, sft_labels, stage3, all) and what depends on it anew; teachers' replies are kept",
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
        help="folders of runs, or with predictions.jsonl, every other of which is tested against the first; or folders of "
        "sweeps, whose cells are put together as of one",
    )
    compare.add_argument(
        "--out", metavar="FOLDER", help="write a page with its tables there (or a FILE.html, a FILE.md)"
    )
    purpose = "get a benchmark's data, or EmoSet: a pinned revision, with digests and the licence"
    fetch = commands.add_parser("fetch", help=purpose, description=purpose)
    fetch.add_argument("names", nargs="*", metavar="NAME", help="data sets of the catalogue; without one, it is listed")
    fetch.add_argument(
        "--to", metavar="FOLDER", default=DATA, help=f"each gets a folder of its own in it (default: {DATA})"
    )
    fetch.add_argument(
        "--dry-run", action="store_true", help="tell licence, revision and files; ask nobody, write nothing"
    )
    return parser


def _compare(folders: list[Path], out: Path | None) -> str | Path:
    """Put runs side by side, or sweeps together; what there is to read."""
    from pipeline.reports.compare import compare
    from pipeline.reports.write import write_comparison
    from pipeline.sweeps.joined import compare_sweeps, sweep_folders

    if sweeps := sweep_folders(folders):
        return compare_sweeps(sweeps, out)
    doubted = {root: changed_settings_of(root) for root in folders if (root / "config.yaml").is_file()}
    return write_comparison(folders, out, doubted) if out else compare(folders, doubted)


def _fetch(arguments: argparse.Namespace) -> int:
    """Get data sets one after the other, or list them."""
    from pipeline.data.fetch import describe, fetch

    known = catalogue()
    if wrong := [name for name in arguments.names if name not in known]:
        raise UserError([f"fetch: {name!r} is not in the catalogue; {did_you_mean(name, known)}" for name in wrong])
    found = [known[name] for name in arguments.names]
    if not found:
        print("\n".join(f"{one.name:<12} {one.title}: {one.licence}; {one.page}" for one in known.values()))
    to = Path(arguments.to)
    for one in found:
        print(describe(one, to), flush=True)
        if not arguments.dry_run:
            print(fetch(one, to))
    return 0


def _seconds(word: str) -> float:
    """A number of seconds above 0."""
    with contextlib.suppress(ValueError):
        if float(word) > 0:
            return float(word)
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds above 0; settings a.b=c go before --watch")


def _explain(folders: Sequence[Path], rows: int) -> int:
    """Map what the answers of runs, or of phases in them, hang on; the exit status.

    Raises:
        UserError: naming every folder that is neither.
    """
    phases: dict[Path, list[str]] = {}
    whole, strange = set(), []
    for folder in (one.resolve() for one in folders):
        if (folder / "config.yaml").is_file():
            phases.setdefault(folder, [])
            whole.add(folder)
        elif (folder / "stage.json").is_file() and (folder.parent / "config.yaml").is_file():
            phases.setdefault(folder.parent, []).append(folder.name)
        else:
            strange.append(
                f"--explain: {folder} is neither a run's folder nor a phase's in one, so its model is not known"
            )
    if strange:
        raise UserError(strange)
    for root, names in phases.items():
        words = _explaining(rows) + [word for name in names if root not in whole for word in ("--phase", name)]
        words += ["--config", str(root / "config.yaml"), f"output_dir={root.parent}", f"name={root.name}"]
        if code := run_child([sys.executable, "-m", *words]):
            return code
    return 0


def _explaining(rows: int) -> list[str]:
    return ["stages.explain", "--rows", str(rows)]


def _folders(arguments: argparse.Namespace) -> list[Path]:
    """The folders that `report` was given instead of settings.

    Raises:
        UserError: on folders beside settings, and on --out or --columns without folders.
    """
    folders = [word for word in arguments.overrides if "=" not in word or Path(word).is_dir()]
    settings = [word for word in arguments.overrides if word not in folders]
    if folders and settings:
        raise UserError(
            f"report takes folders ({', '.join(folders)}) or settings of a run ({', '.join(settings)}), not both"
        )
    lone = [name for name in ("out", "columns") if getattr(arguments, name) and not folders]
    if lone:
        raise UserError(
            [f"report --{name} goes with folders; a run's report is of its own folder, see output_dir" for name in lone]
        )
    return [Path(folder) for folder in folders]


if __name__ == "__main__":
    sys.exit(command_line.status(main))
