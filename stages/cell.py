"""Answer one cell of an evaluation lab in this process: one model on one task in one way.

    python -m stages.cell --config lab.yaml --cell CELL_ID

Started again after whatever ended it, it asks only what is not answered. `python -m stages.evaluate --model …` and sweeps start
it; docs/evaluation.md is the guide.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipeline import command_line
from pipeline.checks.evaluation import load_lab
from pipeline.config.evaluation import cells
from pipeline.errors import UserError, did_you_mean
from stages.processes.command import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of a cell."""
    parser = argparse.ArgumentParser(prog="python -m stages.cell", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="YAML of the lab (pipeline/config/evaluation.py)")
    parser.add_argument("--cell", required=True, metavar="ID", help="model--task--precision--mode[--reasoner]")
    parser.add_argument("--clean", action="store_true", help="forget what the cell has and begin anew")
    parser.add_argument("--retry", action="store_true", help="ask again the rows that a server failed at")
    arguments = command_line.parse(parser, argv)
    config = load_lab(arguments.config)
    found = {cell.id: cell for cell in cells(config)}
    if arguments.cell not in found:
        raise UserError(f"--cell: {arguments.cell!r} is not a cell of this lab; {did_you_mean(arguments.cell, found)}")
    from stages.evaluation.cell import run_cell

    run_cell(config, found[arguments.cell], clean=arguments.clean, retry=arguments.retry)
    return 0


if __name__ == "__main__":
    run_cli(main)
