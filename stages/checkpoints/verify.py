"""Whether final/ is what was trained: loaded anew by plain transformers, it is compared with its reference and its parent."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, GenerationConfig

from pipeline.config.derived import answer_tokens
from pipeline.config.schema import BEST
from pipeline.data.task import Task
from pipeline.files import differences, write_json
from pipeline.metrics.classification import well_formed
from pipeline.runs.handover import changes, checkpoint_folder, file_digests, weights_of
from pipeline.runs.phases import parent_of
from stages.checkpoints.accept import FIGURES, REFERENCE, VERIFICATION, few_parsed
from stages.checkpoints.reference_logits import Reference, examples, inputs_of, measure
from stages.checkpoints.soft_prompt import starting_point
from stages.models.chat import chat_problems
from stages.models.generate import Answerer
from stages.models.loading import load_model, load_processor
from stages.models.row_logits import computed_in
from stages.processes.work import Work

log = logging.getLogger(__name__)

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference of two logits, as a share of the largest logit, by the precision of the weights both came from."""


def verify(work: Work, task: Task, answer: Callable[[], Answerer]) -> bool:
    """Verify the final/ of a trained stage and write verification.json; whether nothing stands against its acceptance.

    Args:
        work: the stage.
        task: of its images.
        answer: loads the model that answers; called only when final/ is what was trained.
    """
    began = time.monotonic()
    found = compare(work, task)
    if not found["problems"]:
        found["answers"] = _answers(answer(), work, task)
    found["seconds"] = round(time.monotonic() - began, 2)
    write_json(work.folder / VERIFICATION, found)
    if not found["problems"]:
        logits, answers = found["logits"], found["answers"]
        log.info(
            f"  {work.name} final/ verified in {found['seconds']:.0f} s: logits within {logits['difference']:.1e} of "
            f"{logits['largest']:.1f}, {answers['parsed']} of {answers['asked']} answers well formed"
        )
    return not found["problems"] and not few_parsed(work, found)


def compare(work: Work, task: Task) -> dict[str, Any]:
    """Return what a trained stage's final/ is, loaded by this process: `problems`, `files` and, where those are as
    saved, `logits`.
    """
    final, record = work.run.final(work.name), work.run.record(work.name) or {}
    files = file_digests(final)
    found: dict[str, Any] = {"problems": [], "files": files}
    if weights_of(files) != record["weights"]:
        found["problems"].append("the weights are other ones than the trainer saved")
    parent = starting_point(work, checkpoint_folder(work.run, parent_of(work.config, work.name) or ""))
    found["problems"] += diff_from_parent(final, parent, work.config)
    if record.get(BEST):
        found["problems"] += [f"{BEST}/: {problem}" for problem in _best_problems(work, record[BEST], parent)]
    if not found["problems"]:
        found |= _compare_logits(final, Reference.read(work.folder / REFERENCE), work, task)
    return found


def _best_problems(work: Work, record: dict[str, Any], parent: Path) -> list[str]:
    """Why no stage could start from best/. It is not asked for the trainer's logits: the trainer went on from there."""
    best = work.folder / BEST
    told = changes(record["files"], file_digests(best))
    told += [
        difference for difference in diff_from_parent(best, parent, work.config) if not difference.startswith(FIGURES)
    ]
    model, problems = load_model(best, work.config, "float32")
    del model
    return told + problems


def base_model_problems(folder: Path, config: Any, task: Task) -> list[str]:
    """Return why a run cannot start from a model.

    Weights that would be random, a chat template or tokenizer in which no answer is right, a processor final/ could not carry.
    `model.processor` is declared once and has to survive being saved, since whoever loads a final/ does not repeat it.
    """
    model, problems = load_model(folder, config, "float32")
    del model
    # Models on the hub have some; none is used.
    problems = [one for one in problems if not one.startswith("unexpected")]
    processor = load_processor(folder, config)
    if told := chat_problems(processor, task, task.stand_ins(config.evaluation.split)):
        # Rows cannot be made into tensors either.
        return [*problems, *told]
    with tempfile.TemporaryDirectory() as saved:
        processor.save_pretrained(saved)
        again = AutoProcessor.from_pretrained(saved, trust_remote_code=config.model.trust_remote_code)
        split = config.evaluation.split
        rows = [[row for row, _ in inputs_of(one, task, split, "think")] for one in (processor, again)]
    if rows[0] != rows[1]:
        problems.append(
            f"its processor gives other tensors once it is saved and loaded again; model.processor {config.model.processor}"
        )
    return problems


def diff_from_parent(final: Path, parent: Path, config: Any) -> list[str]:
    """Return what of tokenizer, chat template, image processor, configuration and generation settings differs from the parent's.

    The parent's are written anew, with `model.processor` as the declared change, so that files can be compared.
    """
    remote = config.model.trust_remote_code
    with tempfile.TemporaryDirectory() as name:
        expected = Path(name)
        load_processor(parent, config).save_pretrained(expected)
        AutoConfig.from_pretrained(parent, trust_remote_code=remote).save_pretrained(expected)
        if (parent / "generation_config.json").is_file():
            GenerationConfig.from_pretrained(parent).save_pretrained(expected)
        wanted, there = file_digests(expected), file_digests(final)
        told = []
        for file in sorted(wanted):
            if file not in there or wanted[file] != there[file]:
                told += _file_differences(file, expected / file, final / file)
        extra = {file for file in there if file not in wanted and not _is_of_model(file)}
    return told + [f"{file}: the parent has none" for file in sorted(extra)]


def _is_of_model(file: str) -> bool:
    return file.endswith((".safetensors", ".safetensors.index.json", ".py")) or file == "generation_config.json"


def _file_differences(name: str, expected: Path, found: Path) -> list[str]:
    if not found.exists():
        return [f"{name} is missing"]
    if not name.endswith(".json"):
        return [f"{name} differs from the parent's"]
    try:
        fields = differences(json.loads(expected.read_text()), json.loads(found.read_text()))
    except ValueError:
        return [f"{name} is not JSON"]
    if name == "config.json":
        fields = [field for field in fields if field.split(":")[0].split(".")[-1] not in PRECISION]
    return [f"{name}: {field[:200]}" for field in fields]


PRECISION = ("dtype", "torch_dtype", "architectures")
"""Fields of config.json in which a stage may differ from its parent: it hands over float32 weights."""


def _compare_logits(final: Path, reference: Reference, work: Work, task: Task) -> dict[str, Any]:
    """Load final/ with nothing but its own files; compare what its processor makes of the inputs, and its model of that."""
    model, problems = load_model(final, work.config, reference.dtype)
    processor = AutoProcessor.from_pretrained(final, trust_remote_code=work.config.model.trust_remote_code)
    now = measure(model, processor, task, reference.asked["split"], reference.asked["style"])
    for was, row in zip(reference.rows, now.rows, strict=True):
        if other := differences(was, row):
            fields = ", ".join(field.split(":")[0].removeprefix("tensors.") for field in other)
            problems.append(f"its processor makes another {fields} of row {was['id']} than the trainer's did")
            # The other rows would say the same.
            break
    precision = reference.dtype
    if work.config.model.peft is not None or work.config.model.quantization is not None:
        # Adapters beside their layers, and merged: two ways to one value, which flash attention takes in bfloat16.
        precision = str(computed_in(model)).removeprefix("torch.")
    logits: dict[str, Any] = {"dtype": precision, "tolerance": TOLERANCE.get(precision, TOLERANCE["bfloat16"])}
    logits["rows"] = len(now.rows)
    logits["largest"] = max(float(one.abs().max()) for one in reference.logits)
    if [one.shape for one in reference.logits] != [one.shape for one in now.logits]:
        problems.append("its logits have another shape")
    else:
        pairs = zip(reference.logits, now.logits, strict=True)
        logits["difference"] = max(float((one - other).abs().max()) for one, other in pairs)
        # NaN is not either.
        if not logits["difference"] <= logits["tolerance"] * logits["largest"]:
            problems.append(
                f"its logits differ from the trainer's by up to {logits['difference']:.3g}; {logits['tolerance']:.0e} of the "
                f"largest ({logits['largest']:.3g}) is allowed in {precision}: other weights were saved than were trained"
            )
    return {"problems": problems, "logits": logits}


def _answers(answer: Answerer, work: Work, task: Task) -> dict[str, int]:
    """Greedy answers to the first rows of the evaluation, and how many of them are well formed."""
    rows, style = examples(task, work.config.evaluation.split), work.stage.prompt
    prompts = [task.prompt(row, style) for row in rows]
    said = answer(prompts, rows, answer_tokens(work.config, style), sample=False, seed=0)
    verdicts = [task.judge(row, text, style) for (text, _), row in zip(said, rows, strict=True)]
    formed = [well_formed({"label": one.answer, "think": one.think, "style": style}) for one in verdicts]
    return {"asked": len(rows), "parsed": sum(formed)}
