"""Try every stage for a few real steps before the long run: first rows, peak memory, and a forecast of time and disk.

    python -m pipeline preflight --config configs/demo.yaml

Each stage runs with its own options, at its real batch size, on the real devices, from the base weights, in a scratch folder of
the run that is deleted afterwards. GRPO stages generate to max_completion_length in their first cycle, so that the peak of memory
is the worst case; the cycles after it are timed at the length of the CoT rows. The result is the run's forecast.json.

With --fit it measures instead which sizes fit this machine and are the fastest: micro-batches, gradient checkpointing, the batch
of an evaluation, and what samples rollouts. Global batches stay what the configuration says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import command_line
from pipeline.checks.adapters import unshared
from pipeline.conductor.forecast import Asking, forecast
from pipeline.conductor.forecast_table import forecast_table
from pipeline.config.derived import DIRECT_TOKENS, passes, world_size
from pipeline.config.schema import RunConfig
from pipeline.data.load import load_task
from pipeline.errors import UserError
from pipeline.files import digest, folder_bytes, write_json
from pipeline.run_dir import BASE, RunDir
from pipeline.runs.phases import phase_inputs, trained_phases
from pipeline.runs.provenance import provenance
from pipeline.system.library_patches import score_labels_alone
from stages.processes import command
from stages.processes.command import run_cli
from stages.processes.work import Work, folder_lock
from stages.processes.workers import as_worker, run_workers
from stages.trial import fitting, plan


def main(argv: Sequence[str] | None = None) -> int:
    """Run the entry point of the preflight."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = command.parser("preflight", (__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--fit", action="store_true", help="measure which sizes fit this machine, and print the overrides"
    )
    parser.add_argument(
        "--write", metavar="FILE", help="with --fit: write them too, as a configuration on top of --config"
    )
    parser.add_argument("--memory", type=float, metavar="GB", help="with --fit: use no more of a device than this")
    arguments = command_line.parse(parser, argv)
    config, run = command.load_checked(arguments)
    names = [*config.all_stages, plan.EVALUATION]
    if arguments.worker:
        with as_worker():
            score_labels_alone()
            from stages.trial.worker import work_through

            work_through(config, run, arguments.only.split(","))
        return 0
    if arguments.dry_run:
        print(f"preflight of {', '.join(names)} on {world_size(config)} processes, in {plan.scratch_of(run).root}")
        return 0
    if arguments.fit:
        return fit_sizes(config, run, arguments)
    if arguments.write or arguments.memory:
        raise UserError("--write and --memory go with --fit")
    words = [word for word in argv if word != "--clean"]
    with scratch_folder(run):
        launched = launch(config, run, names, words)
        found = gather(config, run, launched)
    write_json(run.root / "forecast.json", found)
    print(forecast_table(found))
    if found["problems"]:
        raise UserError(found["problems"])
    return 0


@contextlib.contextmanager
def scratch_folder(run: RunDir) -> Iterator[None]:
    """Hold the scratch folder's lock, with the folder empty at the start and gone at the end."""
    scratch = plan.scratch_of(run).root
    with folder_lock(scratch.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def fit_sizes(config: RunConfig, run: RunDir, arguments: argparse.Namespace) -> int:
    """Measure which sizes fit, print them, and write them where that is asked.

    Raises:
        UserError: when something fits at no size, after the rest is told.
    """
    file = Path(arguments.write) if arguments.write else None
    if file is not None and not file.resolve().parent.is_dir():
        raise UserError(f"--write: {file.resolve().parent} is no folder; make it, or name another")
    if arguments.memory is not None and not arguments.memory > 0:
        raise UserError(f"--memory: {arguments.memory} is no number of GB above 0")
    rows = len(load_task(config.task, run.cache).select(config.evaluation.split).rows)
    words = ["--config", arguments.config, *arguments.overrides]

    def start(more: list[str]) -> None:
        run_workers("preflight", Work(config, "preflight", run), [*words, *more])

    with scratch_folder(run):
        trials = fitting.Trials(config, run, start)
        found = fitting.fit(config, trials, rows, 1e9 * arguments.memory if arguments.memory else None)
    print(found.table())
    if found.problems:
        raise UserError(found.problems)
    print("\n" + (fitting.as_yaml(found.overrides) if found.overrides else "the configuration has what fits best"))
    if file is not None:
        fitting.write_overrides(found, arguments.config, arguments.overrides, file)
        print(f"written: {file}; python -m pipeline run --config {file}")
    return 0


def launch(config: RunConfig, run: RunDir, names: list[str], words: list[str]) -> dict[str, float]:
    """Run the trials in workers: all in one process where a stage is one process, else each in processes of its own.

    Returns:
        Trial to the clock at which its workers were started.

    Raises:
        UserError: when a trial fails for another reason than memory.
    """
    scratch = plan.scratch_of(run)
    alone = world_size(config) == 1 and not config.launch.deepspeed
    waiting = [names] if alone else [[name] for name in names]
    launched: dict[str, float] = {}
    while waiting:
        group = waiting.pop(0)
        launched |= dict.fromkeys(group, time.time())
        try:
            run_workers("preflight", Work(config, "preflight", run), [*words, "--only", ",".join(group)])
        except UserError as error:
            failed = next(name for name in group if not _done(scratch, name))
            noted = scratch.phase(failed) / "too_large.json"
            killed = signal.SIGKILL.name in str(error)
            if failed == plan.EVALUATION or not (noted.exists() or killed):
                raise
            if not noted.exists():
                write_json(noted, {"error": "the kernel killed it, as it does when memory runs out"})
            if group[group.index(failed) + 1 :]:
                waiting.insert(0, group[group.index(failed) + 1 :])
        for name in group:
            plan.keep_timing(scratch.phase(name))
    return launched


def _done(scratch: RunDir, name: str) -> bool:
    folder = scratch.phase(name)
    return any((folder / file).exists() for file in ("timing.json", "asking.json")) or (
        (scratch.record(name) or {}).get("usage") is not None
    )


def gather(config: RunConfig, run: RunDir, launched: dict[str, float]) -> dict[str, Any]:
    """Return the forecast, from what the trials left in the scratch folder; everything of forecast.json."""
    scratch = plan.scratch_of(run)
    stages = config.all_stages
    trials = {name: plan.read_trial(stage, scratch.phase(name), launched[name]) for name, stage in stages.items()}
    seen = json.loads((scratch.phase(plan.EVALUATION) / "asking.json").read_text())
    lengths = json.loads((scratch.root / "lengths.json").read_text())
    asking = Asking(
        seen["batches"],
        tuple(seen["tokens"]),
        tuple(seen["seconds"]),
        max(0.0, seen["created"] - launched[plan.EVALUATION]) + seen["answering_imports"] + seen["load"],
    )
    tokens = {name: _answer_tokens(config, name, lengths) for name in trained_phases(config)}
    shared = 1 if seen["gpu"] else world_size(config)
    # The scratch folder is deleted before a run begins.
    free = shutil.disk_usage(run.root).free + folder_bytes(scratch.root)
    found = forecast(trials, tokens, asking, seen["memory"], shared, free)
    found["problems"] += plan.hand_over_problems(scratch, stages)
    for name in stages:
        found["stages"][name]["inputs"] = digest(phase_inputs(config, name))
    assumed = [
        *_assumptions(config, lengths, any(stage.rollouts == "vllm" for stage in stages.values())),
        *(f"{name} does not share its prompts: {reason}" for name, reason in unshared_stages(config).items()),
    ]
    return {**found, "device": "gpu" if seen["gpu"] else "cpu", "assumptions": assumed, **provenance()}


def unshared_stages(config: RunConfig) -> dict[str, str]:
    """Return GRPO stages that compute each prompt as often as it has completions, and why."""
    reasons = {name: unshared(config, stage) for name, stage in config.all_stages.items() if stage.algorithm == "grpo"}
    return {name: reason for name, reason in reasons.items() if reason}


def _answer_tokens(config: RunConfig, name: str, lengths: dict[str, Any]) -> list[int]:
    """Tokens of the longest answer in a batch, per pass of a phase's evaluation."""
    most = {"think": config.evaluation.max_new_tokens, "direct": DIRECT_TOKENS}
    usual = {"think": lengths.get("p99", most["think"]), "direct": lengths["label"]}
    # An untrained model may never stop.
    return [most[one.style] if name == BASE else min(most[one.style], usual[one.style]) for one in passes(config, name)]


def _assumptions(config: RunConfig, lengths: dict[str, Any], served: bool) -> list[str]:
    """What the forecast takes for granted, for the reader."""
    texts = [
        "memory is that of the longest CoT rows and of completions of max_completion_length, from the base weights"
    ]
    if lengths["stand_in"]:
        texts.append(
            f"there are no CoT rows yet: {lengths['rows']} stand-ins of {lengths['max']} tokens (every selected row, as long as "
            "a completion may be); build the rows and run preflight again for a closer forecast"
        )
    elif "p99" in lengths:
        texts.append(
            f"trained models write {lengths['p99']} tokens, the CoT rows' 99th percentile of {lengths['rows']}"
        )
    if served:
        texts.append("the memory of a vLLM server is not in it")
    if config.cot is not None and config.cot.from_ is None:
        texts.append("building the CoT rows is not in it")
    return texts


if __name__ == "__main__":
    run_cli(main)
