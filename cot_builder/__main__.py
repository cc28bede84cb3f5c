"""Build verified rows for a run from teachers' replies: ``python -m cot_builder build --config configs/demo.yaml [a.b=c …]``.

`build` is resumable: run it again and it goes on where it was. Look before you pay: `preview` asks every teacher about a few
rows and writes a page. Over several machines: `build --shard i/n` and `merge`; through a batch service: `export` and `import`.
Exit codes: 0 complete, 2 a user error, 3 incomplete (run it again).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import command_line

if TYPE_CHECKING:
    from cot_builder.build.journal import ReplyCache
    from cot_builder.build.plan import BuildPlan
    from cot_builder.build.run import BuildOutcome
    from pipeline.config.schema import RunConfig

log = logging.getLogger("cot_builder")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of the builder."""
    arguments = command_line.parse(_parser(), argv)

    def work() -> int:
        from pipeline.config.loader import load

        if arguments.run is _import:
            # Not Path.is_file, which a long text of a setting makes raise.
            arguments.files = [Path(word) for word in arguments.overrides if "=" not in word or os.path.isfile(word)]
            arguments.overrides = [word for word in arguments.overrides if Path(word) not in arguments.files]
        prompts = [f"cot.prompts={json.dumps(arguments.prompts)}"] if getattr(arguments, "prompts", None) else []
        return int(arguments.run(load(arguments.config, [*arguments.overrides, *prompts]), arguments))

    return command_line.status(work)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.doc_parser("cot_builder", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("build", _build, "ask the teachers and write cot/; run again to go on"),
        ("preview", _preview, "ask every teacher about a few rows and write preview.html"),
        ("stats", _stats, "show the yields of a build"),
        ("merge", _merge, "write cot/ from complete shards, asking nothing"),
        ("export", _export, "write the requests a build needs next as OpenAI-batch JSONL"),
        ("import", _import, "take the replies of a batch into the journal"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", required=True, help="a YAML file, or the bare name of one in configs/")
        if name == "import":
            command.add_argument(
                "overrides", nargs="+", metavar="FILE|a.b=c", help="what the batch service wrote; values, as elsewhere"
            )
        else:
            command.add_argument(
                "overrides", nargs="*", metavar="a.b=c", help="values that take precedence over the file's"
            )
        if name != "stats":
            command.add_argument(
                "--prompts",
                metavar="FOLDER",
                help="templates of your own in place of those in cot_builder/prompts, as cot.prompts",
            )
        command.set_defaults(run=run)
        if name in ("build", "preview"):
            command.add_argument(
                "--dry-run", action="store_true", help="resolve and check everything, print it and stop"
            )
        if name == "build":
            command.add_argument(
                "--retry",
                "--retry-refused",
                dest="retry",
                action="store_true",
                help="ask again what a server refused (HTTP 400) or failed at while it answered others",
            )
            command.add_argument("--shard", metavar="i/n", help="only every n-th row, from the i-th (counted from 0)")
        if name == "merge":
            command.add_argument("--shards", type=int, required=True, metavar="n", help="how many there are")
        if name == "preview":
            command.add_argument("--rows", type=int, default=8, help="how many rows (default 8)")
        if name == "export":
            command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
            command.add_argument(
                "--omit",
                default="",
                metavar="FIELD,…",
                help="fields the service refuses (temperature, top_p, seed; max_tokens is sent as max_completion_tokens)",
            )
    return parser


def _build(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.build import run as build
    from cot_builder.build.plan import Shard, plan
    from cot_builder.output import shards, write
    from cot_builder.output.yields import yields

    if config.cot is not None and config.cot.from_ is not None:
        return _take_over(config, arguments)
    planned = plan(config, Shard.parse(arguments.shard) if arguments.shard else None)
    if arguments.dry_run:
        print(_describe(planned))
        return 0
    for line in _without_annotation(planned):
        log.warning(line)
    with _journal(planned) as journal:
        # Not before: another build may hold the folder.
        (shards if planned.shard else write).start(planned)
        if arguments.retry:
            log.info("%s refused requests are asked again", journal.ask_refusals_again())
        asked, seconds = build.ask(planned, journal)
        if asked.stopped_by is not None:
            return _stopped(planned, asked)
        if planned.shard:
            record = shards.finish(planned, asked, len(journal), seconds)
            return _end(planned, record, asked, f"{record['rows']} rows, {record['unasked']} unasked", "")
        journal.let_refusals_stand()
        manifest = write.finish(planned, journal, asked, seconds)
    done = f"{planned.folder / 'train.parquet'}: complete, {asked.requests} requests this time, {seconds:.1f} s"
    code = _end(planned, manifest, asked, yields(manifest), done)
    if code or not asked.unasked:
        return code
    for line in asked.down:
        log.warning(line)
    log.warning(
        "%s rows were not answered when they were asked again; what was refused before stands until --retry reaches their server",
        len(asked.unasked),
    )
    return command_line.INCOMPLETE


def _journal(plan: BuildPlan) -> ReplyCache:
    """The journal of a build, whose folder is made with it."""
    from cot_builder.build.journal import ReplyCache

    return ReplyCache(plan.folder / "journal")


def _take_over(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.output import taken
    from cot_builder.output.yields import yields
    from pipeline.errors import UserError
    from pipeline.run_dir import RunDir
    from pipeline.runs.cot_source import SOURCE

    if lone := [f"--{name}" for name in ("shard", "retry") if getattr(arguments, name)]:
        raise UserError(f"{', '.join(lone)}: cot.from names rows that are there, so nobody is asked; leave it out")
    if arguments.dry_run:
        print(f"rows      {taken.check(config)}")
        return 0
    manifest = taken.take_over(config)
    print(yields(manifest))
    folder = RunDir(config.output_dir, config.name).cot
    print(f"{folder / 'train.parquet'}: complete, {taken.taken_line(manifest[SOURCE])}")
    return 0


def _without_annotation(plan: BuildPlan) -> Iterator[str]:
    """What offline teachers will write about pictures that have no annotation: a conclusion and nothing before it."""
    from cot_builder.build.plan import rows_without_annotation
    from cot_builder.teachers.config import AttributeConfig

    for name, teacher in plan.teachers.items():
        if isinstance(teacher, AttributeConfig) and (rows := rows_without_annotation(teacher, plan.task, plan.split)):
            yield (
                f"teacher {name} writes from annotations, and {rows} of {len(plan.split.rows)} rows have none it "
                "names: it can only conclude there"
            )


def _end(plan: BuildPlan, record: Mapping[str, Any], asked: BuildOutcome, shown: str, done: str) -> int:
    print(shown)
    for line in _given_up(record):
        log.warning(line)
    if record["status"] == "complete":
        print(done or f"{plan.folder}: complete, {asked.requests} requests this time")
        return 0
    for line in asked.down:
        log.warning(line)
    log.warning("cot is incomplete: %s", record["why"])
    return command_line.INCOMPLETE


def _given_up(record: Mapping[str, Any]) -> Iterator[str]:
    """The rows at which a server failed although it answered others, with the cure."""
    for reason, counts in record.get("given_up", {}).items():
        yield (
            f"{counts['rows']} rows were given up as {reason} (first: {counts['first']}), while their server answered "
            "others; rejected.jsonl has its words; --retry asks them again"
        )


def _stopped(plan: BuildPlan, asked: BuildOutcome) -> int:
    """After Ctrl-C or SIGTERM: what was in flight has been recorded."""
    assert asked.stopped_by is not None
    log.warning("%s: stopped; %s replies of this time are kept, the same command goes on", plan.folder, asked.requests)
    return 128 + asked.stopped_by


def _merge(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.build.plan import plan
    from cot_builder.build.run import BuildOutcome
    from cot_builder.output import shards, write
    from cot_builder.output.yields import yields
    from pipeline.errors import UserError

    if arguments.shards < 1:
        raise UserError(f"--shards: {arguments.shards} is less than 1")
    planned = plan(config)
    with _journal(planned) as journal:
        for line in shards.take_over(planned, journal, arguments.shards):
            print(line)
        write.start(planned)
        manifest = write.finish(planned, journal, BuildOutcome(), 0.0)
    done = f"{planned.folder / 'train.parquet'}: complete"
    return _end(planned, manifest, BuildOutcome(), yields(manifest), done)


def _export(config: RunConfig, arguments: argparse.Namespace) -> int:
    import asyncio

    from cot_builder.build import batch_api
    from cot_builder.build.plan import plan

    planned = plan(config)
    with _journal(planned) as journal:
        omit = [name.strip() for name in arguments.omit.split(",") if name.strip()]
        files, requests = asyncio.run(batch_api.export(planned, journal, arguments.out, omit=omit))
    if not files:
        print(f"nothing to ask; write the rows with `python -m cot_builder build --config {arguments.config}`")
    for file in files:
        print(file)
    for name, count in requests.items():
        print(f"{name}: {count} requests")
    return 0


def _import(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.build import batch_api
    from cot_builder.build.plan import plan
    from pipeline.errors import UserError

    if not arguments.files:
        raise UserError("no FILE is named; name those that the batch service wrote")
    planned = plan(config)
    with _journal(planned) as journal:
        counts, failed, not_taken = batch_api.take_in(journal, arguments.files)
    print(f"{counts['new']} new replies, {counts['known']} known already, {counts['unknown']} not of this build")
    for reason, count in failed.items():
        log.warning("%s lines without a reply (%s); the next export asks them again", count, reason)
    if not_taken:
        log.warning(
            "the service refuses these fields in any request; export with --omit %s", ",".join(sorted(not_taken))
        )
    return 0


def _stats(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.output.yields import yields
    from pipeline.errors import UserError
    from pipeline.run_dir import COT, RunDir

    run = RunDir(config.output_dir, config.name)
    manifest = run.record(COT)
    if manifest is None:
        command = f"python -m cot_builder build --config {arguments.config}"
        raise UserError(f"{run.cot}: no build here yet; start one with `{command}`")
    why = f" ({manifest['why']})" if manifest["why"] else ""
    print(f"{run.cot}: {manifest['status']}{why}")
    if "rows" in manifest:
        print(yields(manifest))
        for name, counts in manifest["per_teacher"].items():
            print(f"  {name}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return 0


def _preview(config: RunConfig, arguments: argparse.Namespace) -> int:
    from cot_builder.build.plan import plan
    from cot_builder.output.preview import preview
    from pipeline.errors import UserError

    if arguments.rows < 1:
        raise UserError(f"--rows: {arguments.rows} is less than 1")
    planned = plan(config)
    if arguments.dry_run:
        print(_describe(planned))
        return 0
    with _journal(planned) as journal:
        told, problems = preview(planned, journal, arguments.rows)
        print(told)
    if problems:
        raise UserError(problems)
    return 0


def _describe(plan: BuildPlan) -> str:
    """What a build would do, for --dry-run."""
    from cot_builder.build.plan import asked_rows
    from pipeline.config.loader import to_plain

    rows = [plan.split.rows[index] for index in plan.rows]
    classes = Counter(map(plan.task.class_of, rows))
    turns = Counter(name for index in plan.rows for name in plan.assigned[index])
    per_class = ", ".join(f"{name} {classes[name]}" for name in plan.classes)
    unusable = dict(Counter(problem.reason for problem in plan.split.problems))
    policies = {label: plan.policy_of(label) for label in plan.classes}
    lines = [
        f"folder    {plan.folder}",
        f"recipe    {plan.recipe.name}",
        f"task      {plan.task.name}, {plan.cot.split}: {len(rows)} rows ({per_class})",
        f"unusable  {len(plan.split.problems)} rows {unusable or ''}",
        f"prompts   {', '.join(f'{prompt.version} ({prompt.mode})' for prompt in plan.prompts.values())}, for served teachers",
        f"teachers  {plan.cot.teachers_per_row} per row",
    ]
    if plan.task.question is None:
        asked = [text for _, text in asked_rows(plan.task, plan.split)]
        lines.append(f"questions {len({*asked})} different ones, such as {' '.join(asked[0].split())[:200]!r}")
    if plan.idle_prompts:
        lines.append(f"not asked {', '.join(plan.idle_prompts)} of cot.prompts")
    if plan.contents is not None:
        lines.append(f"contents  {plan.contents.count(asked_rows(plan.task, plan.split))}")
    for policy in dict.fromkeys((p.attempts, tuple(p.temperatures), p.fallback) for p in policies.values()):
        labels = [label for label, p in policies.items() if (p.attempts, tuple(p.temperatures), p.fallback) == policy]
        every = "all classes" if plan.task.labels is not None else "all kinds"
        whose = every if len(labels) == len(policies) else ", ".join(labels)
        attempts, temperatures, fallback = policy
        heat = f" at {', '.join(map(str, temperatures))}" if temperatures else ""
        lines.append(f"policy    {whose}: {attempts} attempts{heat}, then {fallback or 'reject'}")
    for name, teacher in plan.teachers.items():
        lines.append(f"teacher   {name}, {turns[name]} rows: {json.dumps(to_plain(teacher))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
