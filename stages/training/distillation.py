"""Distillation from logits: at each supervised token the student learns the row's token and a larger model's probabilities.

The loss of a token is (1 - weight) times its cross entropy plus weight times T² times KL(teacher, student), where both models'
logits are divided by the temperature T (Hinton, Vinyals and Dean 2015, arXiv 1503.02531; forward KL over the rows' own tokens is
our reading). It takes the place of the token's cross entropy in trl.SFTTrainer, which sums and normalises it as ever. TRL 1.16's
own DistillationTrainer samples completions from the student instead.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from trl.trainer.utils import FusedCausalLMOutput

from pipeline.checks.distill import TOKENS_CURE, mismatches, token_mismatch, width_mismatch
from pipeline.config.schema import DistillConfig, stage_key
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.files import differences
from stages.checkpoints.reference_logits import inputs_of
from stages.models.hub import find_teacher
from stages.models.loading import compute_dtype, load_model, load_processor, whole_weights
from stages.processes.work import Work


class LogitsTeacher:
    """A frozen model on the student's device, whole in every process, and how much of the loss it is.

    Args:
        model: of the student's family, with its tokens.
        weight: of the divergence in the loss.
        temperature: of both models in it.
    """

    def __init__(self, model: Any, weight: float, temperature: float) -> None:
        self.model = model.requires_grad_(False).eval()
        self.weight, self.temperature = weight, temperature
        self.sums = torch.zeros(3)
        """Of the last batch of this process: cross entropy and KL over all tokens, in nats, and how many these are."""

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return what the teacher holds of each supervised token of a batch: (supervised tokens, vocabulary)."""
        fields = {name: value for name, value in inputs.items() if name != "labels"}
        # Only the pixels are floats.
        fields |= {
            name: value.to(self.model.dtype)
            for name, value in fields.items()
            if torch.is_tensor(value) and value.is_floating_point()
        }
        return supervised_logits(self.model, inputs["labels"], fields | {"use_cache": False})

    def mix(self, logits: torch.Tensor, taught: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the loss of each token, (tokens,), and keep the sums of its two parts.

        Args:
            logits: of the student, (tokens, vocabulary).
            taught: of the teacher, likewise.
            tokens: of the rows, (tokens,).
        """
        cross_entropy, kl = token_losses(logits, taught, tokens, self.temperature)
        self.sums = torch.stack([cross_entropy.sum(), kl.sum(), kl.new_tensor(len(kl))]).detach()
        return (1 - self.weight) * cross_entropy + self.weight * self.temperature**2 * kl


def token_losses(
    logits: torch.Tensor, taught: torch.Tensor, tokens: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return of each token cross entropy at temperature 1 and KL(teacher, student) at `temperature`: (tokens,) each, in nats.

    The divergence is over the logits that both have: beyond them are no tokens (`pipeline.checks.distill.width_mismatch`).
    """
    cross_entropy = torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
    width = min(logits.shape[-1], taught.shape[-1])
    student, teacher = ((one[:, :width].float() / temperature).log_softmax(dim=-1) for one in (logits, taught))
    kl = torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return cross_entropy, kl


def supervised_logits(forward: Any, labels: torch.Tensor, fields: Mapping[str, Any]) -> torch.Tensor:
    """Return the logits that foretell the labels of a batch, (supervised tokens, vocabulary), row after row.

    Args:
        forward: a model, or its forward.
        labels: (rows, tokens), -100 where nothing is learned.
        fields: all else of the batch.
    """
    supervised = labels[:, 1:] != -100
    # The head is spared the prompts: a vocabulary of 150,000 makes 0.6 MB of each token.
    at = supervised.any(dim=0).nonzero()[:, 0]
    logits: torch.Tensor = forward(**fields, logits_to_keep=at).logits[supervised[:, at]]
    return logits


def add_distilled_loss(model: Any, teacher: LogitsTeacher) -> None:
    """Let a model that trl.SFTTrainer has prepared give the loss of `LogitsTeacher.mix` where it is called with `teacher_logits`.

    The model then returns what TRL's fused head does, in which a token's log-probability is its loss, negative.
    """
    scored = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, teacher_logits: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if teacher_logits is None:
            return scored(*args, **kwargs)
        labels = kwargs.pop("labels")
        logits = supervised_logits(functools.partial(scored, *args), labels, {**kwargs, "fused_lm_head": False}).float()
        supervised = labels[:, 1:] != -100
        tokens = labels[:, 1:][supervised]
        found = logits.detach().log_softmax(dim=-1)
        figures = {
            "log_probs": -teacher.mix(logits, teacher_logits, tokens),
            "entropy": -(found.exp() * found).sum(dim=-1),
            "is_top1": found.argmax(dim=-1) == tokens,
        }
        # As TRL's: a batch without a label stays part of the graph.
        placed = {
            name: one.new_zeros(supervised.shape).masked_scatter(supervised, one) for name, one in figures.items()
        }
        return FusedCausalLMOutput(label_mask=supervised, **placed)

    model.forward = types.MethodType(forward, model)


def load_teacher(work: Work, parent: Path, processor: Any, task: Task) -> LogitsTeacher | None:
    """Return the teacher of a stage, whole on this process's device in the precision the student computes in; None without one.

    Args:
        work: the stage.
        parent: the checkpoint it starts from.
        processor: of the student.
        task: whose first rows of the evaluation split both must make the same tensors of.

    Raises:
        UserError: when its weights or its files are not what can teach this student.
    """
    block, key = work.stage.distill, f"{stage_key(work.name)}.distill.teacher"
    if block is None:
        return None
    folder = find_teacher(block, work.config.model, key)
    with _naming(block, key):
        _refuse(list(mismatches(folder, parent)))
        _refuse(list(_other_inputs(work, folder, parent, processor, task)))
        with whole_weights():
            model, problems = load_model(
                folder, work.config, compute_dtype(work.config), int(os.environ.get("LOCAL_RANK", "0"))
            )
        problems = [f"has {one}; take a whole checkpoint" for one in problems if not one.startswith("unexpected")]
        if "logits_to_keep" not in inspect.signature(type(model).forward).parameters:
            problems.append(
                f"is a {type(model).__name__}, whose forward takes no logits_to_keep; take one of docs/families.md"
            )
        _refuse(problems)
    return LogitsTeacher(model, block.weight, block.temperature)


@contextlib.contextmanager
def _naming(block: DistillConfig, key: str) -> Iterator[None]:
    """Name the teacher in what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError([f"{key}: {block.teacher!r} {problem}" for problem in error.problems]) from error


def _refuse(problems: list[str]) -> None:
    if problems:
        raise UserError(problems)


def _other_inputs(work: Work, folder: Path, parent: Path, processor: Any, task: Task) -> Iterator[str]:
    """What of vocabulary, width of logits, and tensors of rows is another in the teacher's folder."""
    theirs = load_processor(folder, work.config)
    if other := token_mismatch(theirs.tokenizer.get_vocab(), processor.tokenizer.get_vocab()):
        yield f"{other}; {TOKENS_CURE}"
        return
    remote = work.config.model.trust_remote_code
    configs = [AutoConfig.from_pretrained(one, trust_remote_code=remote) for one in (folder, parent)]
    taught, student = (one.get_text_config().vocab_size for one in configs)
    if narrow := width_mismatch(taught, student, processor.tokenizer.get_vocab()):
        yield narrow
    asked = task, work.config.evaluation.split, work.stage.prompt
    for (own, _), (made, _) in zip(inputs_of(processor, *asked), inputs_of(theirs, *asked), strict=True):
        if changed := differences(own["tensors"], made["tensors"]):
            fields = ", ".join(one.split(":")[0] for one in changed)
            yield (
                f"is shown row {own['id']} as another {fields} than the student: its chat template or its image processor is "
                "another; take a teacher with the student's, or set model.processor so that both make the same"
            )
            # The other rows would say the same.
            return
