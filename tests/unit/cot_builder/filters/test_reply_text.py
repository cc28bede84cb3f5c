"""Where a thinking teacher's thought stands, and what is around a reply, must not cost the reply."""

from __future__ import annotations

import pytest

from cot_builder.filters.reply_text import plain_text, reasoned_text, unfenced
from cot_builder.teachers.base import Reply
from pipeline.scoring.response import Response, parse

GOOD = "<think>It is red all over.</think><answer>red</answer>"
WANTED = Response("It is red all over.", "red")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(GOOD),
        Reply("<answer>red</answer>", thought="It is red all over."),
        Reply("<answer>red</answer>", thought="\n<think>It is red all over.</think>\n"),
        Reply("\n\n<answer>red</answer>\n", thought="It is red all over.\n"),
        Reply("```\n<answer>red</answer>\n```", thought="It is red all over."),
        Reply("It is red all over.</think>\n\n<answer>red</answer>"),
        Reply("Let me see, red or blue.</think>\n\n" + GOOD),
        Reply(GOOD, thought="Let me see, red or blue."),
        Reply(f"```\n{GOOD}\n```"),
        Reply(f"```xml\n{GOOD}\n```\n"),
        Reply(f"~~~\n{GOOD}\n~~~"),
        Reply(f"Hm.</think>\n```xml\n{GOOD}\n```"),
    ],
)
def test_the_thought_is_read_wherever_it_stands(reply):
    assert parse(reasoned_text(reply)) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red",
        "<answer>red</answer>",
        f"Sure! ```\n{GOOD}\n```",
        f"```\na\n```\n{GOOD}\n```\nb\n```",
        "<think>a</think>",
    ],
)
def test_what_is_not_there_is_not_made_up(text):
    assert not isinstance(parse(reasoned_text(Reply(text))), Response)


def test_a_reply_that_was_cut_off_in_its_thought_stays_empty():
    assert reasoned_text(Reply("", thought="It is all")) == ""


def test_free_text_loses_its_thought_and_its_fence():
    assert plain_text(Reply("Hm.</think>\n\nA red square.")) == "A red square."
    assert plain_text(Reply("<think>Hm.</think>A red square.")) == "A red square."
    assert plain_text(Reply("```text\nA red square.\n```")) == "A red square."
    assert plain_text(Reply("Use `x` and ```y```.")) == "Use `x` and ```y```."
    assert unfenced("```\none\n```\n\n```\ntwo\n```") == "```\none\n```\n\n```\ntwo\n```"
