"""How a verified stage becomes complete: its verification is read, its record written, its checkpoints deleted. No torch."""

from __future__ import annotations

import logging
import shutil
from typing import Any

from pipeline.errors import UserError
from pipeline.files import folder_bytes, read_json, write_json
from pipeline.formatting import size
from pipeline.runs import gates
from pipeline.runs.handover import COMPLETE, TRAINED
from stages.processes.work import Work

log = logging.getLogger(__name__)

REFERENCE = "reference.safetensors"
"""What the trainer's model said, beside final/."""
VERIFICATION = "verification.json"
"""What a fresh process found when it loaded final/."""
START = "start"
"""The parent with an untrained soft prompt, which prompt tuning starts from (`stages.checkpoints.soft_prompt`)."""
FIGURES = "validation.json"
"""The figures of best/, in it."""


def is_trained(work: Work) -> bool:
    """Check whether the stage has handed over a final/ that is not yet complete."""
    return (work.run.record(work.name) or {}).get("status") == TRAINED


def verification(work: Work) -> dict[str, Any]:
    """Return what the verifying process wrote down, with `problems`, `files`, `logits` and `answers`; empty when it has not."""
    return read_json(work.folder / VERIFICATION)


def few_parsed(work: Work, found: dict[str, Any]) -> str | None:
    """Return why the answers of a verification cannot pass the stage's gate, before the whole evaluation is paid for; or None."""
    return gates.too_few_parsed(work.config, work.name, found["answers"]["parsed"], found["answers"]["asked"])


def accept(work: Work) -> bool:
    """Make a trained stage complete if its verification has passed.

    Returns:
        Whether it is complete now; False while it has not been verified.

    Raises:
        UserError: naming everything that differs, when it has been verified and has failed.
    """
    found, record = verification(work), work.run.record(work.name) or {}
    if not found:
        return False
    told = {key: value for key, value in found.items() if key != "files"}
    if found["problems"]:
        write_json(work.run.record_path(work.name), {**record, "verification": told})
        raise UserError(
            [f"{work.name}: final/ is not what was trained: {problem}" for problem in found["problems"]]
            + [f"the same command verifies it again, --clean {work.name} trains it anew; it is not handed over"]
        )
    if few := few_parsed(work, found):
        raise UserError(f"{work.name}: {few}")
    complete = {**record, "status": COMPLETE, "files": found["files"], "verification": told}
    write_json(work.run.record_path(work.name), complete)
    return True


def delete_checkpoints(work: Work) -> None:
    """Delete the checkpoints of a complete stage, and say how much that freed.

    A deletion that is killed leaves parts of them, which nothing resumes from; the next start deletes the rest.
    """
    folders = [path for path in work.folder.glob("checkpoint-*") if path.is_dir()]
    start = work.folder / START
    if not (folders or start.exists()):
        return
    freed = sum(map(folder_bytes, (*folders, start)))
    for folder in folders:
        shutil.rmtree(folder)
    shutil.rmtree(start, ignore_errors=True)
    record = work.run.record(work.name) or {}
    write_json(work.run.record_path(work.name), {**record, "freed_bytes": record.get("freed_bytes", 0) + freed})
    log.info(f"  {work.name}: {len(folders)} checkpoints deleted, {size(freed)} (keep_checkpoints: true keeps them)")
