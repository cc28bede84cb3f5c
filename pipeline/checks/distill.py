"""The rules of a stage's `distill:` block, and what two models must have in common for logits to be compared, read from files."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.checks.model_folder import folder_problems
from pipeline.config.schema import RunConfig, StageConfig, stage_key
from pipeline.files import is_path, read_json
from pipeline.run_dir import RunDir
from pipeline.runs.handover import COMPLETE, is_trained


def distill_problems(where: str, stage: StageConfig) -> Iterator[str]:
    """Yield every broken rule of a stage's distill block; `where` is the stage's key."""
    block, key = stage.distill, f"{where}.distill"
    if block is None:
        return
    if stage.algorithm != "sft":
        yield f"{key}: a {stage.algorithm} stage learns from rewards; remove it, or distil in an sft stage before this one"
        return
    if not 0 < block.weight <= 1:
        yield f"{key}.weight: {block.weight} must be above 0 and at most 1; leave distill out to train on the rows alone"
    if not 0 < block.temperature < math.inf:
        yield f"{key}.temperature: {block.temperature} must be finite and above 0; 1 takes the teacher's probabilities as is"
    if smoothing := stage.trainer.get("label_smoothing_factor"):
        yield (
            f"{where}.trainer.label_smoothing_factor: {smoothing} makes targets soft in the place of the teacher (distill); "
            "remove one of the two"
        )
    if (loss := stage.trainer.get("loss_type", "nll")) not in ("nll", "chunked_nll"):
        yield f"{where}.trainer.loss_type: {loss} is not the cross entropy that distill adds to; remove one of the two"


def teacher_problems(config: RunConfig, anew: Collection[str] = ()) -> Iterator[str]:
    """Yield why stages cannot learn from their teachers, as far as files that are here tell it.

    Args:
        config: of the run.
        anew: stages that are trained again; others that are trained need their teacher no more.
    """
    student = Path(config.model.name_or_path or "").expanduser()
    run = RunDir(config.output_dir, config.name)
    for name, stage in config.all_stages.items():
        if stage.distill is None or stage.algorithm != "sft":
            continue
        if name not in anew and is_trained(run, name):
            continue
        source = stage.distill.teacher
        folder, told = Path(source).expanduser(), f"{stage_key(name)}.distill.teacher: {source!r}"
        if folder.is_dir():
            problems = [*_unfinished(folder), *folder_problems(folder)]
            if not problems and config.model.name_or_path and student.is_dir():
                problems = list(mismatches(folder, student))
            yield from (f"{told} {problem}" for problem in problems)
        elif folder.resolve().is_relative_to(run.root.resolve()):
            yield f"{told} is of this run, which does not wait for its own phases; train the teacher in a run of its own"
        elif is_path(source):
            yield f"{told} does not exist; name a folder or a hub id, and where it is a phase of another run, run that first"


def _unfinished(folder: Path) -> Iterator[str]:
    phase = folder.resolve().parent
    record = RunDir(phase.parent.parent, phase.parent.name).record(phase.name)
    if record and record.get("status") != COMPLETE:
        yield f"is of {phase.name}, which is {record.get('status')}; finish its run first, with the command that began it"


def mismatches(teacher: Path, student: Path) -> Iterator[str]:
    """Yield why a model cannot teach another by its logits: its family, its tokens, the width of its logits.

    Args:
        teacher: its folder.
        student: the folder of the model that learns; it is named in what is told.
    """
    theirs, own = read_json(teacher / "config.json"), read_json(student / "config.json")
    if theirs.get("model_type") != own.get("model_type"):
        yield (
            f"is a {theirs.get('model_type')}, and the student ({student}) a {own.get('model_type')}: another family is shown a "
            "picture as other tensors and tokens; take a larger model of the student's family"
        )
        return
    tokens = _tokens(student)
    if other := token_mismatch(_tokens(teacher), tokens):
        yield f"{other} ({student}); {TOKENS_CURE}"
    elif narrow := width_mismatch(_width(theirs), _width(own), tokens):
        yield narrow


TOKENS_CURE = "logits are compared token by token: take a teacher with the student's tokenizer"


def token_mismatch(teacher: Mapping[str, int], student: Mapping[str, int]) -> str | None:
    """Return how two vocabularies differ, each a token: its number; None where they are the same or one is not known."""
    other = sorted({token for token, _ in teacher.items() ^ student.items()})
    if not other or not teacher or not student:
        return None
    numbers = [tokens.get(other[0], "no token") for tokens in (teacher, student)]
    return (
        f"has other tokens than the student: {len(other):,} differ (first: {other[0]!r} is {numbers[0]} there and {numbers[1]} "
        f"of the student), {len(teacher):,} there and {len(student):,} here"
    )


def width_mismatch(teacher: int | None, student: int | None, tokens: Mapping[str, int]) -> str | None:
    """Return which of two models' logits do not reach to the last token; None where both do, or too little is known.

    Widths may differ beyond it: there Qwen2.5-VL's sizes are filled up to different numbers.

    Args:
        teacher: how many logits it gives for a token.
        student: likewise.
        tokens: a token: its number.
    """
    needed = max(tokens.values(), default=-1) + 1
    widths = [width for width in (teacher, student) if width is not None]
    if len(widths) < 2 or min(widths) >= needed:
        return None
    return (
        f"gives {teacher:,} logits for a token and the student {student:,}, and the tokens are numbered up to {needed - 1:,}; "
        f"{TOKENS_CURE}, and a logit of each"
    )


def _tokens(folder: Path) -> dict[str, int]:
    """Token: its number, of a folder's tokenizer.json; empty where that does not say."""
    tokenizer = read_json(folder / "tokenizer.json")
    vocabulary: Any = (tokenizer.get("model") or {}).get("vocab") or {}
    # A unigram model lists pairs of a token and its score.
    tokens = {one[0]: number for number, one in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    return {**tokens, **{one["content"]: one["id"] for one in tokenizer.get("added_tokens") or ()}}


def _width(config: Mapping[str, Any]) -> int | None:
    return (config.get("text_config") or {}).get("vocab_size") or config.get("vocab_size")
