"""Seconds of a whole run whose workers are forked with their libraries imported, beside the same run that starts them plainly.

    python -m benchmarks.startup --config demo task.options.train=200 …

A run as short as its settings make it, so that starting is most of it. Both ways in turn, on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from pipeline.system.fork_server import FORK_SERVER
from pipeline.system.processes import child_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--config", default="demo", help="the run (default: demo)")
    arguments, settings = parser.parse_known_args(argv)
    seconds: dict[str, list[float]] = {"plain": [], "forked": []}
    for _ in range(arguments.rounds):
        for how, taken in seconds.items():
            taken.append(_seconds_of_run(arguments.config, settings, forked=how == "forked"))
    plain, forked = (statistics.median(taken) for taken in seconds.values())
    ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
    print("| run | started plainly, s | forked, s | ratio | rounds |\n|---|---|---|---|---|")
    spread = f"{forked / plain:.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    print(f"| {arguments.config} {' '.join(settings)} | {plain:.0f} | {forked:.0f} | {spread} | {arguments.rounds} |")
    return 0


def _seconds_of_run(config: str, settings: Sequence[str], forked: bool) -> float:
    # A server that is named and not there is none.
    environment = child_environment(**({} if forked else {FORK_SERVER: os.devnull}))
    with tempfile.TemporaryDirectory() as folder:
        words = ["--config", config, *settings, f"output_dir={folder}", "name=startup"]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "pipeline", "run", *words], env=environment, check=True, stdout=sys.stderr
        )
        return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
