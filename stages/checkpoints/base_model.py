"""The model a run starts from: a checkpoint, found or downloaded, one composed of parts or a tiny random one; and its record."""

from __future__ import annotations

import logging

from pipeline.checks.adapters import soft_prompt_problems
from pipeline.checks.model_folder import folder_problems
from pipeline.config.families import model_type, tiny_families
from pipeline.config.special_tokens import special_tokens_of
from pipeline.data.load import load_task
from pipeline.data.student import fit_task, task_text_problems
from pipeline.data.training_rows import asked_rows
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.run_dir import BASE, COT
from pipeline.runs.handover import file_digests, weights_of
from pipeline.runs.phases import phase_inputs
from pipeline.runs.provenance import provenance
from stages.models.hub import find_model
from stages.processes.work import Work

log = logging.getLogger(__name__)


def make_base_model(work: Work) -> None:
    """Build or locate the model in this process and write its record."""
    config, run = work.config, work.run
    made = config.model.name_or_path is None
    if config.model.compose is not None:
        from stages.models.compose import compose

        folder = run.final(BASE)
        compose(folder, config.model.compose, config.seed)
    elif made:
        from pipeline.data.conversations import tokenizer_texts
        from stages.models.tiny import build_tiny

        folder = run.final(BASE)
        drafted = load_task(config.task, run.cache)
        texts = tokenizer_texts(drafted, asked_rows(config, drafted), run.cot if config.cot else None)
        build_tiny(folder, config.model.tiny, texts, config.seed)
    else:
        folder = find_model(config.model)
        told = [f"model.name_or_path: {config.model.name_or_path!r} {problem}" for problem in folder_problems(folder)]
        if told := told or list(soft_prompt_problems(config, folder)):
            raise UserError(told)
        family = model_type(folder)
        if family not in tiny_families():
            log.info(f"base: no test trains the family {family}; docs/families.md lists those that are trained")
    files = file_digests(folder)
    weights = weights_of(files)
    assert weights is not None
    from stages.checkpoints.verify import base_model_problems

    task = load_task(config.task, run.cache)
    family = model_type(folder)
    problems = [*task_text_problems(task, asked_rows(config, task), special_tokens_of(folder))]
    problems += base_model_problems(folder, config, fit_task(task, family, run.cache))
    if problems:
        raise UserError([f"base: {folder}: {problem}" for problem in problems])
    record = {
        "status": "complete",
        "phase": BASE,
        "checkpoint": "final" if made else str(folder.resolve()),
        "weights": weights,
        "files": files,
        "inputs": phase_inputs(config, BASE),
        "data_digest": (run.record(COT) or {}).get("data_digest") if config.model.is_tiny and config.cot else None,
        "seed": config.seed,
        **provenance(),
    }
    write_json(run.record_path(BASE), record)
