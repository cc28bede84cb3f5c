"""Build chain-of-thought rows for a run: ``python -m cot_builder build --config configs/demo.yaml [a.b=c …]``.

`build` is resumable: run it again and it goes on where it was. `stats` shows the yields of a build, `preview` asks
every teacher about a few rows and shows what would be kept. Exit codes: 0 complete, 2 a user error, 3 incomplete (run
it again).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import command_line

if TYPE_CHECKING:
    from cot_builder.build import Plan
    from pipeline.config import RunConfig

INCOMPLETE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the builder."""
    arguments = command_line.parse(_parser(), argv)

    def work() -> int:
        from pipeline.config import load

        return int(arguments.run(load(arguments.config, arguments.overrides), arguments))

    return command_line.status(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cot_builder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("build", _build, "ask the teachers and write cot/; run again to go on"),
        ("stats", _stats, "show the yields of a build"),
        ("preview", _preview, "ask a few rows of every teacher and show the replies"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", required=True, help="a YAML file, or the bare name of one in configs/")
        command.add_argument(
            "overrides", nargs="*", metavar="a.b=c", help="values that take precedence over the file's"
        )
        command.set_defaults(run=run)
        if name != "stats":
            command.add_argument(
                "--dry-run", action="store_true", help="resolve and check everything, print it and stop"
            )
        if name == "preview":
            command.add_argument("--rows", type=int, default=8, help="how many rows (default 8)")
    return parser


def _build(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder import build, output
    from cot_builder.journal import Journal
    from cot_builder.progress import Progress

    plan = build.plan(config)
    if arguments.dry_run:
        print(_describe(plan))
        return 0
    output.start(plan)
    with Journal(plan.folder / "journal") as journal:
        progress = Progress(len(plan.split.examples))
        asked = build.ask(plan, journal, progress)
        manifest = output.finish(plan, journal, asked, progress.seconds)
    print(output.yields(manifest))
    if manifest["status"] != "complete":
        for line in asked.down:
            print(line, file=sys.stderr)
        print(f"cot is incomplete: {manifest['why']}", file=sys.stderr)
        return INCOMPLETE
    print(f"{plan.folder / 'train.parquet'}: complete, {asked.requests} requests this time, {progress.seconds:.1f} s")
    return 0


def _stats(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder import output
    from pipeline.errors import UserError
    from pipeline.run import COT, RunDir

    run = RunDir(config.output_dir, config.name)
    manifest = run.record(COT)
    if manifest is None:
        command = f"python -m cot_builder build --config {arguments.config}"
        raise UserError(f"{run.cot}: no build here yet; start one with `{command}`")
    why = f" ({manifest['why']})" if manifest["why"] else ""
    print(f"{run.cot}: {manifest['status']}{why}")
    if "rows" in manifest:
        print(output.yields(manifest))
        for name, counts in manifest["per_teacher"].items():
            print(f"  {name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return 0


def _preview(config: RunConfig, arguments: argparse.Namespace) -> int:
    import asyncio

    from cot_builder import build
    from cot_builder.journal import Journal

    plan = build.plan(config)
    if arguments.dry_run:
        print(_describe(plan))
        return 0
    with Journal(plan.folder / "journal") as journal:
        asyncio.run(build.preview(plan, journal, arguments.rows, print))
    return 0


def _describe(plan: Plan) -> str:
    """What a build would do, for --dry-run."""
    from pipeline.config import to_plain

    rows = plan.split.examples
    classes = Counter(row.label for row in rows)
    turns = Counter(list(plan.teachers)[plan.teacher_of(row)] for row in rows)
    per_class = ", ".join(f"{name} {classes[name]}" for name in plan.task.labels.names)
    unusable = dict(Counter(problem.reason for problem in plan.split.problems))
    lines = [
        f"folder    {plan.folder}",
        f"task      {plan.task.name}, {plan.cot.split}: {len(rows)} rows ({per_class})",
        f"unusable  {len(plan.split.problems)} rows {unusable or ''}",
        f"prompt    {plan.prompt.name} ({plan.prompt.mode}), for served teachers",
        f"attempts  {plan.cot.attempts} per row, {plan.cot.concurrency} requests in flight per endpoint",
    ]
    for name, teacher in plan.teachers.items():
        lines.append(f"teacher   {name}, {turns[name]} rows: {json.dumps(to_plain(teacher))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
