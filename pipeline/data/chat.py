"""What a chat template and a tokenizer have to do for an answer to be right: the rules, whoever renders and encodes."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.scoring.response import continuation

ANSWER = "AN ANSWER"
"""Stands for an answer where a template is asked what it writes behind one."""


def answer_behind(prompt: str, ended: str, response: str) -> str:
    """Return what is trained on behind a prompt: a response and the end of its turn.

    Args:
        prompt: as the template writes it, up to where the answer begins.
        ended: the same conversation, in which the assistant has said `ANSWER`.
        response: what is to be said.

    Raises:
        UserError: when the template does not write an answer as it is.
    """
    before, found, end = ended.rpartition(ANSWER)
    if not found:
        raise UserError(
            f"its chat template does not write what the assistant says: {ANSWER!r} became {ended[-120:]!r}; take a template "
            "that writes the assistant's turns as they are"
        )
    # A model that was taught so begins its answers with that white space (SmolVLM: "Assistant:", then " ").
    gap = before.removeprefix(prompt) if before.startswith(prompt) else ""
    return ("" if gap.strip() else gap) + continuation(prompt, response) + end


def without_question(prompt: str) -> str:
    """Say that a prompt has no question in it."""
    return f"its chat template leaves the question out of the prompt: {prompt[:200]!r}; mend chat_template.jinja"


def lost_response(response: str, back: str, reason: str) -> str:
    """Say that a right response counts as wrong once it has been tokens.

    Args:
        response: before. back: after.
        reason: the judge's.
    """
    return (
        f"a right answer does not survive its tokenizer: {response!r} comes back as {back!r} ({reason}), so every answer would "
        "count as wrong; its tokens have to write the tags <think> </think> <answer> </answer>, the labels, and an end of the "
        "turn that is a special token: take another tokenizer, or mend chat_template.jinja and tokenizer.json"
    )
