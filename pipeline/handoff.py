"""The contract a checkpoint meets before the next stage starts from it."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.phases import parent_of
from pipeline.run import BASE, RunDir, weights_digest
from pipeline.schema import BEST, FINAL, RunConfig, split_parent

NEEDED = ("config.json", "generation_config.json")
"""Files without which a stage cannot start, beside weights and a processor."""


def checkpoint(run: RunDir, name: str, *, which: str = FINAL, verify: bool = True) -> Path:
    """The folder a finished phase hands over.

    Args:
        run: the run.
        name: the phase.
        which: final, or best for the weights of its best validation.
        verify: whether to read all weights and compare their digest; launchers do, their N workers need not again.

    Raises:
        UserError: when the phase is not complete, or its files are not the ones its record names.
    """
    record = run.record(name)
    if record is None or record.get("status") != "complete":
        state = "has not been run" if record is None else f"is {record.get('status')}"
        raise UserError(f"{name} {state}; finish it first: python -m pipeline run, or python -m stages.<its algorithm>")
    if which == BEST:
        if not record.get(BEST):
            raise UserError(
                f"{name} has no best checkpoint: it was trained without validation; name it without :{BEST}, or give it a "
                f"validation: block and start it anew with --clean {name}"
            )
        record = {"checkpoint": BEST, **record[BEST]}
    folder = run.phase(name) / record["checkpoint"]  # A hub model is recorded by its absolute folder.
    problems = [f"{folder / file} is missing" for file in NEEDED if name != BASE and not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("processor_config.json", "preprocessor_config.json")):
        problems.append(f"{folder} holds no processor_config.json or preprocessor_config.json")
    found = weights_digest(folder) if verify else record["weights"]
    if found is None:
        problems.append(f"{folder} holds no *.safetensors; only safetensors are read")
    elif found != record["weights"]:
        problems.append(
            f"{folder}: weights changed since {name} finished (recorded {record['weights'][:12]}, found {found[:12]})"
        )
    if problems:
        raise UserError(
            [f"{name} cannot be handed over: {problem}; restore it or redo it with --clean" for problem in problems]
        )
    return folder


def parent_checkpoint(config: RunConfig, run: RunDir, name: str, *, verify: bool = True) -> tuple[str, Path]:
    """(parent phase, its checkpoint folder) that a stage starts from, proven by the parent's record.

    Raises:
        UserError: see `checkpoint`.
    """
    parent = parent_of(config, name)
    assert parent is not None, f"{name} has no parent"
    which = split_parent(config.stage(name).init_from)[1]
    return parent, checkpoint(run, parent, which=which, verify=verify)
