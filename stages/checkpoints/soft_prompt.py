"""Prompt tuning (arXiv 2104.08691) that a plain checkpoint holds: a soft prompt made of tokens of its own.

A stage with ``model.peft: {peft_type: PROMPT_TUNING, num_virtual_tokens: N}`` starts from its parent with N tokens more,
`<|soft_prompt_0|>` and so on, which the chat template writes at the head of every prompt. Their rows of the input embedding are
all that trains, so rollouts, evaluation and servers read the soft prompt as they read any text. In peft's own layout, vectors
before the embedded prompt, it is in no plain checkpoint, and the Qwen-VLs cannot generate with it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, AutoModelForImageTextToText

from pipeline.config.derived import tunes_prompt
from pipeline.config.special_tokens import soft_prompt_token
from pipeline.data.conversations import user_turn
from pipeline.errors import UserError
from pipeline.runs.checkpoint_folders import make_durable
from stages.checkpoints.accept import START
from stages.models.chat import prompt_text, rollout_tokens, tokens_of
from stages.models.loading import load_processor, soft_prompt_ids, whole_weights
from stages.processes.work import Work

log = logging.getLogger(__name__)

COMMON = 5_000
"""First ids of a vocabulary, from which a soft prompt begins: a byte-pair tokenizer numbers its tokens by frequency."""
BEGINNING = re.compile(r"\{\{-?\s*bos_token\s*-?\}\}")


def starting_point(work: Work, parent: Path) -> Path:
    """Return the checkpoint that a stage's training starts from: its parent, given a soft prompt where one is tuned.

    Called on all ranks; rank 0 writes. Once written it stays, for the same parent and settings give the same bytes.
    """
    if not tunes_prompt(work.config) or soft_prompt_ids(load_processor(parent, work.config).tokenizer):
        return parent
    folder = work.folder / START
    if os.environ.get("RANK", "0") == "0" and not folder.exists():
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        _write(parent, unfinished, work.config)
        make_durable(unfinished)
        unfinished.rename(folder)
    while not folder.exists():
        time.sleep(0.1)
    return folder


def _write(parent: Path, folder: Path, config: Any) -> None:
    """Write a checkpoint with a soft prompt. On the parent's own text it computes as the parent does."""
    processor = load_processor(parent, config)
    count, text = config.model.peft["num_virtual_tokens"], config.model.peft.get("prompt_tuning_init_text")
    first = _first_rows(processor.tokenizer, text, count, config.seed)
    with whole_weights():
        model = AutoModelForImageTextToText.from_pretrained(
            parent, dtype=torch.float32, trust_remote_code=config.model.trust_remote_code
        )
    names = [soft_prompt_token(number) for number in range(count)]
    processor.tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    _write_at_the_head(processor, "".join(names))
    ids = soft_prompt_ids(processor.tokenizer)
    _check_prompt(processor, ids)
    known = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= known:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    _untie(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[ids] = model.get_input_embeddings().weight[first]
        # A logit that is the mean of V others has a probability of 1/V at most: no soft token is ever sampled in earnest.
        head = model.get_output_embeddings()
        for values in (head.weight, *([] if head.bias is None else [head.bias])):
            values[ids] = values[: min(known, min(ids))].mean(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _first_rows(tokenizer: Any, text: str | None, count: int, seed: int) -> list[int]:
    """Ids whose embeddings a soft prompt begins with: those of a text, again and again, or drawn from the commonest."""
    if text:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise UserError(
                f"model.peft.prompt_tuning_init_text: {text!r} has no token in the model's tokenizer; leave it out"
            )
        if len(ids) > count:
            log.info(
                f"  model.peft.prompt_tuning_init_text has {len(ids)} tokens; num_virtual_tokens {count} takes the first"
            )
        return [ids[number % len(ids)] for number in range(count)]
    special = set(tokenizer.added_tokens_decoder)
    common = [number for number in range(min(COMMON, len(tokenizer))) if number not in special]
    drawn = torch.randint(len(common), (count,), generator=torch.Generator().manual_seed(seed))
    return [common[number] for number in drawn.tolist()]


def _untie(model: Any) -> None:
    """Give the output layer a matrix of its own: what is trained as an input must not become an output."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())


def _check_prompt(processor: Any, soft: list[int]) -> None:
    """Check that a prompt has the soft prompt once, and is the same to rollouts as to SFT and evaluation.

    Raises:
        UserError: when it is not, as where a template writes the beginning of the sequence in a way that is not seen here.
    """
    turns = user_turn("What does it show?", 0)
    asked = list(tokens_of(processor, prompt_text(processor, turns), []))
    if [number for number in asked if number in soft] != soft or asked != rollout_tokens(processor, turns, []):
        raise UserError(
            "model.peft: PROMPT_TUNING: no place for the soft prompt is found in the model's chat template, which has the "
            "beginning of a sequence in a way of its own; let the template begin with {{ bos_token }} (chat_template.jinja)"
        )


def _write_at_the_head(processor: Any, text: str) -> None:
    """Let the chat template write a text at the head of a prompt, behind the beginning of the sequence where it writes one."""

    def headed(template: str) -> str:
        begun = BEGINNING.search(template)
        place = begun.end() if begun else 0
        return template[:place] + text + template[place:]

    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        # A checkpoint may have several, by name.
        if isinstance(template, dict):
            owner.chat_template = {name: headed(one) for name, one in template.items()}
        elif template is not None:
            owner.chat_template = headed(template)
