"""Prompts and answers as a checkpoint's chat template and tokenizer make them, and whether the grammar survives that.

A prompt is the template's own, with its generation prompt. What is trained on is the answer behind that very prompt and the
template's end of a turn, so SFT, rollouts and evaluation read the same prompt whatever a template does to a finished turn: some
take the thought out of it, write it otherwise, or have other white space before it than before a generated answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from pipeline.config.special_tokens import TAGS
from pipeline.data.chat import ANSWER, answer_behind, lost_response, without_question
from pipeline.data.conversations import assistant_turn, user_turn
from pipeline.data.questions.prompting import PROMPT_STYLES
from pipeline.data.task import Task
from pipeline.errors import UserError
from pipeline.scoring.response import completed, render
from pipeline.types import Question

_TAIL = 32
"""Last tokens of a prompt in which an opened tag is looked for."""
Turn = Mapping[str, Any]


def prompt_text(processor: Any, turns: Sequence[Turn]) -> str:
    """Return a prompt as the model reads it, up to where its answer begins."""
    return str(processor.apply_chat_template(list(turns), add_generation_prompt=True))


def answer_text(processor: Any, turns: Sequence[Turn], response: str) -> str:
    """Return what is trained on behind `prompt_text` of the same turns: a response and the end of its turn.

    Raises:
        UserError: when the template does not write an answer as it is.
    """
    ended = processor.apply_chat_template([*turns, *assistant_turn(ANSWER)])
    return answer_behind(prompt_text(processor, turns), str(ended), response)


def read_completions(
    tokenizer: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[str]:
    """Return completions as text: without special tokens but for the grammar's tags, which a tokenizer may count among them.

    Args:
        tokenizer: of the model.
        prompts: tokens of each prompt, at least its last ones. A thought that a prompt opens is part of the completion.
        completions: tokens of each.
    """
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if any(tag in special.values() for tag in TAGS):
        hidden = {number for number, content in special.items() if content not in TAGS}
        shown = [[number for number in one if number not in hidden] for one in completions]
        texts = tokenizer.batch_decode(shown, skip_special_tokens=False)
    else:
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    tails = [tuple(prompt[-_TAIL:]) for prompt in prompts]
    ends = {tail: tokenizer.decode(list(tail)) for tail in set(tails)}
    return [completed(ends[tail], text) for tail, text in zip(tails, texts, strict=True)]


def chat_problems(processor: Any, task: Task, rows: Sequence[Question]) -> list[str]:
    """Return why no student can learn the task with a processor's chat template and tokenizer, each with the cure.

    One response per style and row goes the way of a completion, from text to tokens, back, and to the judge. A prompt is made
    into tokens as TRL's rollouts make it and as training and evaluation do.

    Args:
        processor: of the student.
        task: how rows are asked and judged.
        rows: some that stand for all (`Task.stand_ins`).
    """
    told: list[str] = []
    try:
        told.extend(_problems(processor, task, rows))
    except UserError as error:
        told.extend(error.problems)
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        told.append(
            f"a prompt of one picture and one question cannot be made with its chat template and processor ({error}); take "
            "the template of the model's family (chat_template.jinja)"
        )
    return told


def _problems(processor: Any, task: Task, rows: Sequence[Question]) -> Iterator[str]:
    for style in PROMPT_STYLES:
        turns = user_turn(task.prompt(rows[0], style), len(rows[0].images))
        text = prompt_text(processor, turns)
        if any(part["text"] not in text for part in turns[0]["content"] if part["type"] == "text"):
            yield without_question(text)
            return
        yield from _misplaced(processor, [task.prompt(row, style) for row in rows], rows)
        pictures = [Image.new("RGB", (128, 128), "gray") for _ in rows[0].images]
        asked = [int(number) for number in tokens_of(processor, text, pictures)]
        sampled = rollout_tokens(processor, turns, pictures)
        if asked != sampled:
            place = next((at for at, pair in enumerate(zip(asked, sampled, strict=False)) if len(set(pair)) > 1), 0)
            one, other = (processor.tokenizer.decode(ids[place : place + 8]) for ids in (asked, sampled))
            yield (
                f"SFT and evaluation would read another prompt than the rollouts of GRPO, from token {place} on ({one!r} and "
                f"{other!r}): the tokenizer adds tokens that the chat template does not write; let the template begin with "
                "{{ bos_token }}"
            )
        image_token = getattr(processor, "image_token_id", None)
        if pictures and isinstance(image_token, int) and image_token not in asked:
            yield f"its chat template leaves the picture out of the prompt: {text[:200]!r}; mend chat_template.jinja"
        yield from _lost_responses(processor, task, style, rows, asked)


def _misplaced(processor: Any, prompts: Sequence[str], rows: Sequence[Question]) -> Iterator[str]:
    """Whether a template takes pictures out of their places in the text, by the first of the prompts that has such places."""
    for prompt, row in zip(prompts, rows, strict=True):
        (turn,) = user_turn(prompt, len(row.images))
        pictures, texts = ([part for part in turn["content"] if part["type"] == kind] for kind in ("image", "text"))
        if turn["content"] != [*pictures, *texts]:
            if prompt_text(processor, [turn]) == prompt_text(processor, [{**turn, "content": [*pictures, *texts]}]):
                yield (
                    f"its chat template writes pictures before the text, wherever they stand in it (row {row.id}: "
                    f"{prompt[:80]!r}); take one that writes each part of a turn in its place (chat_template.jinja)"
                )
            return


def _lost_responses(
    processor: Any, task: Task, style: str, rows: Sequence[Question], asked: list[int]
) -> Iterator[str]:
    """The first response whose answer the judge no longer finds once it has been tokens."""
    tokenizer = processor.tokenizer
    for row in rows:
        if row.answer is None:
            continue
        response = render("The picture shows it.", row.answer) if style == "think" else row.answer
        written = answer_text(processor, user_turn(task.prompt(row, style), len(row.images)), response)
        (ids,) = processor(text=[written], add_special_tokens=False)["input_ids"]
        (back,) = read_completions(tokenizer, [asked], [ids])
        verdict = task.judge(row, back, style)
        if not verdict.correct:
            yield lost_response(response, back, verdict.reason or "another answer")
            return


def tokens_of(processor: Any, text: str, pictures: Sequence[Any]) -> Sequence[int]:
    """Return the tokens of a prompt's text and its pictures, as SFT and the evaluation make them."""
    images = [list(pictures)] if pictures else None
    ids: Sequence[int] = processor(text=[text], images=images, add_special_tokens=False)["input_ids"][0]
    return ids


def rollout_tokens(processor: Any, turns: Sequence[Turn], pictures: Sequence[Any]) -> list[int]:
    """Return the tokens of a prompt and its pictures as trl.GRPOTrainer makes them."""
    left = iter(pictures)
    shown = [
        {
            **turn,
            "content": [{**one, "image": next(left)} if one["type"] == "image" else one for one in turn["content"]],
        }
        for turn in turns
    ]
    made = processor.apply_chat_template([shown], add_generation_prompt=True, tokenize=True, return_dict=True)
    return [int(number) for number in made["input_ids"][0]]
