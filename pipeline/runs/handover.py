"""The contract a checkpoint meets before the next stage starts from it.

A stage's record says ``trained`` when its final/ is written, and ``complete`` once a fresh process has verified it; from then
on it names the digest of every file a loader reads.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.evaluation import LabModel
from pipeline.config.schema import BEST, FINAL, RunConfig, match_stage, split_parent
from pipeline.errors import UserError, did_you_mean
from pipeline.files import digest, file_digest
from pipeline.run_dir import BASE, RunDir
from pipeline.runs import gates
from pipeline.runs.phases import parent_of, stale_reasons

TRAINED, COMPLETE = "trained", "complete"
LOADED = (".json", ".safetensors", ".jinja", ".txt", ".model", ".py")
"""Endings of the files that decide what a checkpoint does; its README.md is for people and may be edited."""


def checkpoint(run: RunDir, name: str, *, which: str = FINAL, verify: bool = True) -> Path:
    """Return the folder a finished phase hands over.

    Args:
        run: the run.
        name: the phase.
        which: final, or best for the weights of its best validation.
        verify: whether to read all files and compare their digests; launchers do, their N workers need not again.

    Raises:
        UserError: when the phase is not complete, or its files are not the ones its record names.
    """
    record = run.record(name)
    if record is None or record.get("status") != COMPLETE:
        raise UserError(_not_complete(name, record))
    if which == BEST and not record.get(BEST):
        raise UserError(
            f"{name} has no best checkpoint: it was trained without validation; name it without :{BEST}, or give it a "
            f"validation: block and start it anew with --clean {name}"
        )
    folder = run.phase(name) / BEST if which == BEST else checkpoint_folder(run, name)
    handed = record[BEST] if which == BEST else record
    problems = []
    if verify and "files" not in handed:
        problems = ["its record holds no digests of files, as before they were verified"]
    elif verify:
        problems = changes(handed["files"], file_digests(folder))
    if problems:
        raise UserError(
            [f"{name} cannot be handed over: {folder}: {problem}" for problem in problems]
            + [f"restore the files, or redo {name} with --clean"]
        )
    return folder


def checkpoint_folder(run: RunDir, name: str) -> Path:
    """Return where the checkpoint of a phase lies, whatever its state; a hub model is recorded by its absolute folder."""
    return run.phase(name) / (run.record(name) or {})["checkpoint"]


def parent_checkpoint(config: RunConfig, run: RunDir, name: str, *, verify: bool = True) -> tuple[str, Path]:
    """Return (parent phase, its checkpoint folder) that a stage starts from, proven by the parent's record.

    Raises:
        UserError: see `checkpoint`; and when the parent missed a gate that stops.
    """
    parent = parent_of(config, name)
    assert parent is not None, f"{name} has no parent"
    which = split_parent(config.stage(name).init_from)[1]
    folder = checkpoint(run, parent, which=which, verify=verify)
    if verify:
        gates.enforce(parent, gates.judge(config, run, parent))
    return parent, folder


def file_digests(folder: Path) -> dict[str, str]:
    """Return sha256 of every file of a checkpoint that a loader may read, by its name in the folder."""
    paths = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    files = [path for path in paths if path.suffix in LOADED and path.is_file()]
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(files)}


def weights_of(files: dict[str, str]) -> str | None:
    """Return the digest of the weights alone, from that of every file: what `pipeline.files.weights_digest` gives."""
    weights = {name: found for name, found in files.items() if name.endswith(".safetensors")}
    return digest(weights) if weights else None


def changes(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return what differs between the files a record names and those that are there, one sentence per file."""
    told = []
    for name in sorted(recorded | found):
        if name not in found:
            told.append(f"{name} is missing")
        elif name not in recorded:
            told.append(f"{name} was added since it was recorded")
        elif recorded[name] != found[name]:
            told.append(f"{name} changed since it was recorded ({recorded[name][:12]}, now {found[name][:12]})")
    return told


def _not_complete(name: str, record: dict[str, object] | None) -> list[str]:
    if record is None:
        state = "has not been run"
    elif record.get("status") == TRAINED:
        state = "is trained, but its final/ has not passed verification"
    else:
        state = f"is {record.get('status')}"
    verification = (record or {}).get("verification")
    problems = verification.get("problems", []) if isinstance(verification, dict) else []
    cure = f"finish it first: python -m pipeline run --to {name}, with the same --config and settings"
    return [f"{name} {state}; {cure}", *(f"{name}: {problem}" for problem in problems)]


def model_folder(model: LabModel, verify: bool = False) -> Path | None:
    """Return the folder of a model's weights; None for one that a hub or a server has.

    Args:
        model: of the lab.
        verify: whether to read a run's files and compare their digests with its record.

    Raises:
        UserError: when the run has no such phase, or the phase did not finish.
    """
    if model.run is None:
        folder = Path(model.name_or_path or "").expanduser()
        return folder if model.backend != "openai" and folder.is_dir() else None
    root = Path(model.run).expanduser()
    run = RunDir(root.parent, root.name)
    phase, which = split_parent(model.phase)
    there = sorted(path.parent.name for path in root.glob("*/stage.json"))
    found = [phase] if phase == BASE in there else match_stage(phase, there)
    if len(found) != 1:
        what = f"phase {model.phase!r} is not a phase of it; {did_you_mean(phase, there)}" if there else "holds no run"
        raise UserError(f"run {model.run!r}: {what}")
    return checkpoint(run, found[0], which=which, verify=verify)


def has_checkpoint(config: RunConfig, run: RunDir, name: str) -> bool:
    """Check whether a phase has a checkpoint: it is trained, or complete because that has been verified too.

    Raises:
        UserError: when it was begun or finished under another configuration, parent or data.
    """
    reasons = stale_reasons(config, run, name)
    if reasons:
        raise UserError(
            [f"{name} was made under other settings: {reason}" for reason in reasons]
            + [f"give the run another name, restore the setting, or start it anew with --clean ({run.phase(name)})"]
        )
    return reasons is not None and is_trained(run, name)


def is_trained(run: RunDir, name: str) -> bool:
    """Check whether a phase's record says that it has a checkpoint, under whatever configuration."""
    return (run.record(name) or {}).get("status") in (TRAINED, COMPLETE)
