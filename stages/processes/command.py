"""The command line the stage files share: load, check, refuse early, then run the work in processes of its own.

Light on purpose: nothing here imports torch, so ``--help``, ``--dry-run`` and every refusal answer at once. The work itself
runs in ``--worker`` processes, which stages/processes/workers.py starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline import command_line
from pipeline.checks import run
from pipeline.config.loader import load
from pipeline.config.schema import RunConfig
from pipeline.run_dir import RunDir


def parser(module: str, purpose: str) -> argparse.ArgumentParser:
    """Return the arguments every stage file takes."""
    arguments = argparse.ArgumentParser(prog=f"python -m stages.{module}", description=purpose)
    arguments.add_argument(
        "--config", default="demo", help="YAML of the run, or the name of one in configs/ (default: demo)"
    )
    arguments.add_argument("--dry-run", action="store_true", help="resolve, check and print; start nothing")
    arguments.add_argument("--clean", action="store_true", help="delete what this phase wrote before and start it anew")
    arguments.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("overrides", nargs="*", metavar="a.b=c", help="values that override the file's")
    return arguments


def load_checked(arguments: argparse.Namespace, trains: bool = True) -> tuple[RunConfig, RunDir]:
    """Return the run's configuration, with every rule tested; those of trackers and servers only where stages are trained."""
    config = load(arguments.config, arguments.overrides)
    run.check(config, trains, starts=trains and not arguments.dry_run)
    return config, RunDir(config.output_dir, config.name)


def run_cli(main: Callable[[], int]) -> NoReturn:
    """Run an entry point and exit with its status; what a user can mend, and Ctrl-C, is told without a traceback."""
    sys.exit(command_line.status(main))
