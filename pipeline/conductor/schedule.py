"""Which phases of a run are worked on at once: what each waits for, which goes first, and whether the memory holds one more."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.config.derived import processes_per_node, trainer_gpus
from pipeline.config.schema import RunConfig, StageConfig
from pipeline.data.student import student_folder
from pipeline.files import differences, digest, read_json
from pipeline.formatting import size
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.runs import gates
from pipeline.runs.handover import COMPLETE
from pipeline.runs.phases import evaluated_from, parent_of, phase_inputs
from pipeline.sweeps.memory import count_bytes, tensor_shapes, weight_files
from pipeline.system import multinode
from pipeline.system.hardware import free_memory, usable_cores, visible_gpus

LIBRARIES = 3 * 2**29
"""Bytes a process takes beside its model: torch, transformers, TRL, pictures, a step's activations at small sizes."""
COPIES = 10
"""Times the files of its weights that a process takes: in float32 twice those of bfloat16, with gradients, Adam's two moments,
and the activations of a step."""
BUILDER = 2**30
"""Bytes the builder takes on a CPU, which imports no torch."""


def parallel_phases(config: RunConfig) -> int:
    """Return how many phases may be worked on at once, as asked for, or by default.

    One on GPUs, of which a phase takes all memory, on several nodes, and beside a rollout server, which takes all cores; else as
    many as there are cores for their processes.
    """
    if multinode.count() > 1:
        return 1
    if config.launch.parallel_phases is not None:
        return config.launch.parallel_phases
    if visible_gpus() or any(stage.rollouts == "vllm" for stage in config.all_stages.values()):
        return 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    each = processes_per_node(config) * max(1, int(threads) if threads.isdigit() else 1)
    return max(1, usable_cores() // each)


def requirements(config: RunConfig, names: Collection[str]) -> dict[str, set[str]]:
    """Return what each of these phases waits for, as far as that is one of them: its parent, and the rows it is made from."""
    found: dict[str, set[str]] = {}
    for name in names:
        wanted = {parent_of(config, name)}
        # A tiny model's tokenizer is made from these rows.
        if (name == BASE and config.model.is_tiny) or (name not in (COT, BASE) and config.stage(name).data == COT):
            wanted.add(COT)
        found[name] = {one for one in wanted if one in names and one is not None}
    return found


def by_urgency(needs: Mapping[str, Collection[str]]) -> list[str]:
    """Return the phases, those first on which the longest chain of others waits, for it decides when the run ends.

    Args:
        needs: of `requirements`, each phase after what it waits for.
    """
    below: dict[str, int] = {}
    for name in reversed(list(needs)):
        below[name] = 1 + max((below[other] for other in needs if name in needs[other]), default=0)
    return sorted(needs, key=lambda name: -below[name])


def beside(needs: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return, for each phase, the later ones that may be worked on beside it: neither waits for the other."""
    above: dict[str, set[str]] = {}
    for name, wanted in needs.items():
        above[name] = set(wanted).union(*(above[one] for one in wanted))
    names = list(needs)
    return {
        name: later
        for place, name in enumerate(names)
        if (later := [other for other in names[place + 1 :] if name not in above[other] and other not in above[name]])
    }


def hands_on(config: RunConfig, run: RunDir, name: str) -> bool:
    """Check whether a stage may start from a phase whose process still writes its report: verified, evaluated, and let through
    its gate. What is built is read once the builder has ended.
    """
    record, evaluation = run.record(name) or {}, read_json(run.phase(name) / "evaluation.json")
    if name == COT or record.get("status") != COMPLETE or evaluation.get("status") != "complete":
        return False
    if differences(evaluation.get("inputs"), evaluated_from(config, record.get("weights"))):
        return False
    judged = gates.judge(config, run, name)
    return record.get("gate") == judged and not (judged and judged["missed"] and judged["action"] == "stop")


def memory_needed(config: RunConfig, run: RunDir, name: str) -> int | None:
    """Return the bytes a phase takes at most of the machine's memory, or of each GPU's; None where nothing is known of its model.

    What a preflight measured of a stage under these settings, where there is a forecast, else `LIBRARIES`, `COPIES` times the
    files of the weights, and a teacher's weights, for each process.
    """
    gpus = visible_gpus()
    if name == COT:
        return 0 if gpus else BUILDER
    if hands_on(config, run, name):
        # What is left to do of it is its report.
        return 0
    processes = 1 if gpus else processes_per_node(config)
    forecast = read_json(run.root / "forecast.json").get("stages", {}).get(name, {})
    if (peak := forecast.get("peak_memory_bytes")) and forecast.get("inputs") == digest(phase_inputs(config, name)):
        return int(peak) * processes
    folder, stage = student_folder(config.model, run), config.all_stages.get(name)
    taught = teacher_bytes(config, stage) if stage is not None and stage.distill else 0
    if taught is None or (folder is None and not config.model.is_tiny):
        return None
    files = [path for ending in ("safetensors", "bin") for path in (folder.glob(f"*.{ending}") if folder else ())]
    weights = sum(path.stat().st_size for path in files)
    return (LIBRARIES + COPIES * weights + taught) * processes


def teacher_bytes(config: RunConfig, stage: StageConfig) -> int | None:
    """Return the bytes of a stage's teacher of logits in every process, in the precision it computes in; None where its weights
    are not here.
    """
    assert stage.distill is not None
    files = weight_files(Path(stage.distill.teacher).expanduser())
    each = number_bytes(config)
    return round(sum(count_bytes(tensor_shapes(file), each) for file in files)) if files else None


def number_bytes(config: RunConfig) -> int:
    """Return the bytes of a weight in the precision that a run computes in."""
    half = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and visible_gpus() > 0)
    return 2 if half else 4


def lacks_room(config: RunConfig, run: RunDir, name: str, running: Sequence[str], at_start: int) -> str | None:
    """Return why the memory would not hold a phase beside those that run; None where it does.

    What those that run take now says little of what they will, so all that was free before any of them is shared out by what
    each may take; and what is free now has to be enough too, for others use the machine.

    Args:
        config: of the run.
        run: its folder.
        name: the phase.
        running: those that run; none is no reason to wait.
        at_start: bytes that were free before any phase ran.
    """
    if not running:
        return None
    # The builder is not on the GPUs, and what only writes a report takes nothing of them.
    there = [one for one in (*running, name) if one != COT and not hands_on(config, run, one)]
    served = [one for one in there if (stage := config.all_stages.get(one)) and stage.rollouts == "vllm"]
    if served and len(there) > 1 and visible_gpus():
        return f"{served[0]} has a rollout server, which takes its share of what is free on its GPUs when it starts"
    needed = {one: memory_needed(config, run, one) for one in (*running, name)}
    if unknown := [one for one, count in needed.items() if count is None]:
        return f"nothing is known of the memory that {unknown[0]} takes before its weights are here"
    own, total = needed[name] or 0, sum(count or 0 for count in needed.values())
    if total > at_start:
        return f"together they may take {size(total)}, and {size(at_start)} of memory were free at the start"
    now = min(free_memory(trainer_gpus(config)), default=0)
    return f"it may take {size(own)}, and {size(now)} of memory are free" if own > now else None
