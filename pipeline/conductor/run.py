"""Order the phases of a run, start each as a process of its own, skip what holds, stop on failure, report."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import command_line
from pipeline.checks.adapters import unshared
from pipeline.checks.chat_files import opens_think
from pipeline.checks.distill import teacher_problems
from pipeline.checks.parts import unaligned
from pipeline.checks.splits import check_splits
from pipeline.conductor.cot_rows import (
    check_cot_rows,
    check_source,
    cot_pictures,
    is_built,
    slice_lines,
    source_lines,
)
from pipeline.conductor.own_pictures import compare_own_pictures, shared_lines
from pipeline.conductor.pictures import picture_lines
from pipeline.conductor.room import room_problems
from pipeline.conductor.schedule import beside, parallel_phases, requirements, teacher_bytes
from pipeline.conductor.side_by_side import dies_by, failure, run_side_by_side
from pipeline.conductor.status import in_use
from pipeline.config.derived import clip_range, distilled, processes_per_node, rows_of, trainer_gpus, world_size
from pipeline.config.loader import load, write_config
from pipeline.config.schema import RunConfig
from pipeline.config.special_tokens import special_tokens_of
from pipeline.data.load import load_task
from pipeline.data.student import load_run_task, student_family, student_folder, task_text_problems
from pipeline.data.task import Task
from pipeline.data.training_rows import asked_rows
from pipeline.errors import UserError
from pipeline.formatting import size
from pipeline.run_dir import BASE, COT, RunDir, in_order_of_deletion
from pipeline.runs.handover import is_trained
from pipeline.runs.phases import OTHER_ROWS, parent_of, phase_names, stale_reasons, trained_phases
from pipeline.system import multinode
from pipeline.system.fork_server import fork_server
from pipeline.system.hardware import visible_gpus
from pipeline.system.processes import run_child

log = logging.getLogger(__name__)
IMPORTED_ONCE = (
    "stages.checkpoints.base_model",
    "stages.checkpoints.verify",
    "stages.models.generate",
    "stages.rollouts.vllm_rollouts",
    "stages.training.grpo_trainer",
    "stages.training.setup",
    "stages.training.sft_trainer",
    "stages.training.validation",
)
"""What the workers of a run begin with on CPUs (see `fork_server`): all that they have in common and that is slow to import."""


@dataclass(frozen=True)
class OpenedTask:
    """A run's task, and what was found when its data were opened: lines on the data, and notes on the splits."""

    task: Task
    told: Sequence[str] = ()
    notes: Sequence[str] = ()


def open_task(config: RunConfig, run: RunDir, *, trains: bool = False, quick: bool = False) -> OpenedTask:
    """Open the data, so that a wrong option, layout or split is told before anything runs.

    Args:
        config: the run.
        run: its folder.
        trains: whether phases are to be run on its splits, and not only to be told about.
        quick: as `pipeline.checks.splits.check_splits` takes it.

    Raises:
        UserError: whatever the task finds wrong, and every split that does not do.
    """
    task = load_run_task(config, run)
    # Rows of other tasks are read by their base phase.
    texts = asked_rows(config, task) if task.labels is not None else ()
    if problems := list(task_text_problems(task, texts, special_tokens_of(student_folder(config.model, run)))):
        raise UserError(problems)
    if not trains:
        return OpenedTask(task)
    told, source = list(task.told()), check_source(config, run, task, quick=quick)
    built = (run.record(COT) or {}).get("status") == "complete"
    family = student_family(config.model, run)
    return OpenedTask(task, told, [*source, *check_splits(config, task, quick=quick, built=built, family=family)])


def command_of(config: RunConfig, name: str) -> list[str]:
    """Return the module and its own arguments that run a phase."""
    if name == COT:
        return ["cot_builder", "build"]
    if name == BASE:
        return ["stages.base"]
    return [f"stages.{config.stage(name).algorithm}", "--stage", name]


def conduct(config: RunConfig, run: RunDir, arguments: argparse.Namespace, opened: OpenedTask) -> None:
    """Run the phases in order, those that do not wait for each other side by side where the machine has room.

    Args:
        config: the run.
        run: its folder.
        arguments: of the command line.
        opened: of `open_task`.

    Raises:
        UserError: when a phase no longer fits the configuration, or fails; says how to go on.
    """
    began = time.monotonic()

    def tell(text: str) -> None:
        log.info("[%s] %s", _clock(time.monotonic() - began), text)

    def command(name: str) -> list[str] | None:
        # Building again would judge every reply again, and leave no complete rows while it does.
        return None if name == COT and is_built(run) else _command(command_of(config, name), arguments)

    def after(name: str) -> None:
        if name == COT:
            # Before a stage trains for hours: a later one may find none of them in its slice.
            for line in slice_lines(config, run):
                log.info(line)

    names = _phases_to(config, arguments.to) if arguments.to else phase_names(config)
    doomed = _doomed(config, run, arguments.clean) if arguments.clean else set()
    # Before rows are paid for, or what there is of them is deleted.
    if problems := list(room_problems(config, run, [*doomed, *(name for name in names if not is_trained(run, name))])):
        raise UserError(problems)
    _clean(config, run, doomed)
    _refuse_stale(config, run)
    pictures = picture_lines(config, run, opened.task)
    for note in (*opened.told, *pictures, *opened.notes, *check_cot_rows(config, run)):
        log.info(note)
    if config.held_out:
        log.info(contamination(config, run))
    write_config(config, run.root / "config.yaml")
    for found in compare_own_pictures(config, run):
        log.warning("warning: %s", found)
    at_once = min(parallel_phases(config), 1 + len(beside(requirements(config, names))))
    # Nodes that follow know of no server of this one.
    alone = multinode.count() == 1 and set(names) - {COT}
    server = fork_server(IMPORTED_ONCE) if alone else contextlib.nullcontext()
    with server, multinode.conducted(run.root) as run_everywhere:
        if at_once > 1:
            run_side_by_side(config, run, names, at_once, command, after, tell)
        else:
            _run_in_turn(names, command, after, tell, run_everywhere)
    tell("report")
    print(report(config, run))


def _run_in_turn(
    names: Sequence[str],
    command: Callable[[str], Sequence[str] | None],
    after: Callable[[str], None],
    tell: Callable[[str], None],
    run_everywhere: Callable[..., int],
) -> None:
    """Run phases one after the other, as `run_side_by_side` takes them; all but the builder on all nodes."""
    for name in names:
        tell(name)
        if (words := command(name)) is None:
            continue
        code = (run_child if name == COT else run_everywhere)(words, dies_by=dies_by(name))
        if code == command_line.STOPPED:
            raise KeyboardInterrupt
        if code:
            raise UserError(failure(name, code))
        after(name)


def _phases_to(config: RunConfig, last: str) -> list[str]:
    """Return a phase and all that it is made from, in order.

    Raises:
        UserError: when the run has no such phase.
    """
    names = phase_names(config)
    wanted = {last if last in names else config.stage_name(last)}
    for name in reversed(names):
        if name in wanted:
            parent = parent_of(config, name)
            wanted |= {parent} if parent else set()
            if name not in (COT, BASE) and config.stage(name).data == COT:
                wanted.add(COT)
    if config.model.is_tiny and COT in names:
        # A tiny model's tokenizer is made from these rows.
        wanted.add(COT)
    return [name for name in names if name in wanted]


def _command(module: list[str], arguments: argparse.Namespace) -> list[str]:
    """A module with its own arguments, then this command's configuration."""
    return [sys.executable, "-m", *module, "--config", str(Path(arguments.config)), *arguments.overrides]


def _refuse_stale(config: RunConfig, run: RunDir) -> None:
    problems = []
    building = COT in phase_names(config) and (run.record(COT) or {}).get("status") != "complete"
    for name in phase_names(config):
        if name == COT and building:
            # The builder's journal knows which replies still hold.
            continue
        for reason in stale_reasons(config, run, name) or []:
            if building and reason == OTHER_ROWS:
                # There are none yet; the stage looks again once they are built.
                continue
            problems.append(f"{run.phase(name)} was made under other settings: {reason}")
    if problems:
        raise UserError(
            [*problems, "give the run another name (name=…), restore the settings, or add --clean PHASE (or all)"]
        )


def _doomed(config: RunConfig, run: RunDir, phase: str) -> set[str]:
    """A phase and every later one that was made from it."""
    names = phase_names(config)
    doomed = {*names} if phase == "all" else {phase if phase in names else config.stage_name(phase)}
    if COT in doomed:
        doomed |= {name for name in names if name != COT and (run.record(name) or {}).get("data_digest")}
    for name in names:
        if parent_of(config, name) in doomed:
            doomed.add(name)
    return doomed


def _clean(config: RunConfig, run: RunDir, doomed: Collection[str]) -> None:
    """Delete phases, but no reply of a teacher."""
    names = [name for name in phase_names(config) if name in doomed]
    if COT in doomed and config.cot is not None and config.cot.from_ is not None:
        # What cannot be had again is not deleted.
        check_source(config, run, load_run_task(config, run), again=True)
    used = [run.phase(name) for name in names if in_use(run.phase(name))]
    problems = [f"{folder} is in use by another process; wait for it or stop it" for folder in used]
    # What cannot be trained again is not deleted.
    if problems := [*problems, *teacher_problems(config, doomed)]:
        raise UserError(problems)
    for name in names:
        _delete(run.phase(name))


def _delete(folder: Path) -> None:
    """Delete a phase's folder, except builders' journals: replies cost most and are found again by what was asked."""
    import shutil

    if not folder.exists():
        return
    for path in in_order_of_deletion(folder):
        # Each has a journal of its own.
        if path.name == "shards":
            for shard in path.iterdir():
                _delete(shard)
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.name != "journal":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # The journal is in it.
    with contextlib.suppress(OSError):
        folder.rmdir()


def plan(config: RunConfig, run: RunDir, opened: OpenedTask | None = None) -> str:
    """Return what `run` would do, phase by phase.

    Args:
        config: the run.
        run: its folder.
        opened: of `open_task`; None to look at no split.
    """
    opened = opened or OpenedTask(load_run_task(config, run))
    processes = world_size(config)
    launch = f"{processes} process{'es' if processes > 1 else ''}, deepspeed {config.launch.deepspeed or 'no'}"
    lines = [f"run {config.name} in {run.root}: {launch}"]
    lines += idle_gpus(config)
    for name in phase_names(config):
        reasons = stale_reasons(config, run, name)
        state = (run.record(name) or {}).get("status", "to do")
        if reasons:
            state = "; ".join(["STALE", *reasons])
        lines.append(f"  {name:<24} {state:<10} {_what(config, name)}")
        if name == BASE and (folder := student_folder(config.model, run)) and opens_think(folder):
            lines.append(
                f"  {'':<24} its chat template opens <think> itself: completions are trained on and read from within it"
            )
        if name == BASE and (early := unaligned(config)):
            lines.append(
                f"  {'':<24} its projector is random, and {', '.join(early)} would train more than that from it: align it "
                "first, in a stage0_align of freeze: [vision, language], and start from there"
            )
        if name == COT:
            lines += [f"  {'':<24} {line}" for line in source_lines(config, run)]
        if name == COT and (pictures := cot_pictures(config, run)):
            told = (*pictures.problems(), *pictures.notes(), *slice_lines(config, run))
            lines += [f"  {'':<24} {line}" for line in told]
    looked = [*picture_lines(config, run, opened.task, quick=True), *shared_lines(config, run, opened.task)]
    for heading, under in ((config.task.name, opened.told), ("pictures", looked), ("splits", opened.notes)):
        lines += [f"  {'' if place else heading:<24} {line}" for place, line in enumerate(under)]
    lines += _side_by_side(config)
    evaluation = f"{config.evaluation.split} after every phase, greedy and {config.evaluation.samples} sampled"
    lines.append(f"  {'evaluation':<24} {'':<10} {evaluation}")
    return "\n".join(lines)


def _side_by_side(config: RunConfig) -> list[str]:
    """Lines of a plan that say which phases may be worked on at once; none where they go one after the other."""
    if (at_once := parallel_phases(config)) == 1:
        return []
    found = beside(requirements(config, phase_names(config)))
    heads = [f"up to {at_once} at once", *[""] * len(found)]
    return [
        f"  {head:<24} {name} beside {', '.join(later)}"
        for head, (name, later) in zip(heads, found.items(), strict=False)
    ]


def idle_gpus(config: RunConfig) -> list[str]:
    """Return a line that says which GPUs a run leaves idle and how to use them; none where all are used."""
    gpus, processes, kept = visible_gpus(), processes_per_node(config), config.launch.rollout_gpus
    if gpus <= processes + kept:
        return []
    return [
        f"  uses {processes + kept} of {gpus} visible GPUs ({', '.join(trainer_gpus(config))}), the others idle: "
        f"launch.num_processes={gpus - kept} uses them all (batch sizes are per process), CUDA_VISIBLE_DEVICES chooses others"
    ]


def _what(config: RunConfig, name: str) -> str:
    if name == COT:
        assert config.cot is not None
        if config.cot.from_ is not None:
            return f"{config.cot.split} taken over from {config.cot.from_}"
        return f"{config.cot.split} asked of {', '.join(config.cot.teachers)}"
    if name == BASE:
        return config.model.described
    stage = config.stage(name)
    clip = clip_range(stage)
    words = [f"{stage.algorithm} from {parent_of(config, name)} on {rows_of(stage)}"]
    if stage.distill:
        held = teacher_bytes(config, stage)
        words.append(
            f"{distilled(stage.distill)} ({f'{size(held)} ' if held else ''}in every process beside the student)"
        )
    if stage.reward_funcs:
        words.append("rewards " + "+".join(stage.reward_funcs))
    if clip:
        words.append(f"clip {clip[0]}/{clip[1]}")
    if stage.algorithm == "grpo" and (reason := unshared(config, stage)):
        words.append(f"prompts not shared: {reason}")
    return ", ".join(words)


def report(config: RunConfig, run: RunDir) -> str:
    """Write the run's report; returns the stage table, how far the forecast was off, and where the page is."""
    from pipeline.conductor.forecast_table import forecast_errors
    from pipeline.reports.markdown import summary_table
    from pipeline.reports.write import write_run_report

    phases, doubted = trained_phases(config), changed_settings(config, run)
    labels = load_task(config.task, run.cache).labels
    page = write_run_report(run.root, phases, labels, config.name, doubted)
    told = forecast_errors(config, run)
    return f"{summary_table(run.root, phases, doubted)}\n" + (f"{told}\n" if told else "") + f"report: {page}"


def changed_settings(config: RunConfig, run: RunDir) -> dict[str, list[str]]:
    """Return phase: what the configuration says otherwise than the phase was made with. How it was launched is no part of it."""
    found = {}
    for name in trained_phases(config):
        if (run.record(name) or {}).get("inputs"):
            reasons = [one for one in stale_reasons(config, run, name) or [] if not one.startswith("launch.")]
            if reasons:
                found[name] = reasons
    return found


def changed_settings_of(run_root: Path) -> dict[str, list[str]]:
    """Return the same of any run's folder, by its own config.yaml; nothing where that cannot be read."""
    try:
        config = load(run_root / "config.yaml")
    except UserError:
        return {}
    return changed_settings(config, RunDir(run_root.parent, run_root.name))


def contamination(config: RunConfig, run: RunDir, lab: str | None = None) -> str:
    """Return what the run's training rows share with its held-out sets, or with the tasks of a lab, in lines.

    Raises:
        UserError: when there is nothing to compare with, or a picture is in both.
    """
    from pipeline.conductor.contamination import check_run, held_out_of

    if lab is None and not config.held_out:
        raise UserError("there is nothing to compare with; set held_out: in the run, or give --against LAB.yaml")
    return "\n".join(str(found) for found in check_run(config, run, held_out_of(lab) if lab else None))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
