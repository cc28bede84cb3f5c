"""Which completions are well formed: the one grammar behind filters, rewards and reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.markup import answer_part
from pipeline.scoring.response import (
    REASONS,
    Malformed,
    Response,
    completed,
    continuation,
    opens_thought,
    parse,
    render,
)

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
GOOD = "<think>a park, smiling faces</think>\n<answer>awe</answer>"

part = st.text().filter(lambda text: text.strip() and not any(tag in text for tag in TAGS))


@given(part, part)
def test_what_is_rendered_parses_back(think: str, answer: str) -> None:
    assert parse(render(think, answer)) == Response(think.strip(), answer.strip())


@given(st.lists(st.sampled_from([*TAGS, "awe", "x", " ", "\n", "<", ">", "/", "think", "answer"]), max_size=12))
def test_any_mix_of_tags_is_well_formed_only_if_it_is_the_canonical_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    result = parse(text)
    if isinstance(result, Malformed):
        assert result.reason in REASONS
    else:
        # Nothing but white space may be lost on the way there and back.
        assert "".join(render(result.think, result.answer).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        " " + GOOD,
        "\n\n" + GOOD + " \n",
        GOOD.replace("\n", ""),
        GOOD.replace("\n", " \t\r\n\u00a0"),
        "<think>\n a park, smiling faces \n</think><answer>\n awe \n</answer>",
    ],
)
def test_white_space_around_the_blocks_does_not_matter(text: str) -> None:
    assert parse(text) == Response("a park, smiling faces", "awe")


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>恐怖</think><answer>café 😀</answer>", "恐怖", "café 😀"),
        (
            "<think>is 3 < 4 > 2? <b>yes</b> </ think></think><answer>awe</answer>",
            "is 3 < 4 > 2? <b>yes</b> </ think>",
            "awe",
        ),
        ("<think>line\n\nline</think><answer>A or B</answer>", "line\n\nline", "A or B"),
    ],
)
def test_the_parts_are_kept_as_written(text: str, think: str, answer: str) -> None:
    assert parse(text) == Response(think, answer)


BROKEN = [
    ("", "empty"),
    (" \n\t\u00a0", "empty"),
    ("awe", "no_think"),
    ("<answer>awe</answer>", "no_think"),
    ("reasoning…</think><answer>awe</answer>", "no_think"),
    ("<THINK>t</THINK><ANSWER>awe</ANSWER>", "no_think"),
    ("<think >t</think ><answer>awe</answer>", "no_think"),
    ("＜think＞t＜/think＞<answer>awe</answer>", "no_think"),
    ("<think>surely awe</think>", "no_answer"),
    ("<think>surely awe</think> awe", "no_answer"),
    ("<think>t</think><Answer>awe</Answer>", "no_answer"),
    ("<think>t</think></answer>", "no_answer"),
    ("<think>on and on", "unclosed_think"),
    ("<think>t<answer>awe</answer>", "unclosed_think"),
    ("<think>t</think><answer>awe", "unclosed_answer"),
    ("<think>t</think><answer>awe<answer/>", "unclosed_answer"),
    ("<think>t</think><think>u</think><answer>awe</answer>", "several_thinks"),
    ("<think><think>t</think></think><answer>awe</answer>", "several_thinks"),
    ("<think>t</think></think><answer>awe</answer>", "several_thinks"),
    ("<think>t</think><answer>awe</answer><answer>fear</answer>", "several_answers"),
    ("<think>t</think><answer>awe</answer><answer>awe</answer>", "several_answers"),
    ("<think>t</think><answer><answer>awe</answer></answer>", "several_answers"),
    ("<think>is it <answer>awe</answer>?</think><answer>fear</answer>", "several_answers"),
    (GOOD + GOOD, "several_thinks"),
    ("<answer>awe</answer><think>t</think>", "wrong_order"),
    ("<think>t<answer>awe</answer></think>", "wrong_order"),
    ("<answer><think>t</think>awe</answer>", "wrong_order"),
    ("</think>t<think><answer>awe</answer>", "wrong_order"),
    (GOOD + " I hope this helps!", "text_outside"),
    (GOOD + ".", "text_outside"),
    (GOOD + "\u200b", "text_outside"),
    ("Sure! " + GOOD, "text_outside"),
    ("<think>t</think> So: <answer>awe</answer>", "text_outside"),
    ("<think></think><answer>awe</answer>", "empty_think"),
    ("<think> \n</think><answer>awe</answer>", "empty_think"),
    ("<think>t</think><answer></answer>", "empty_answer"),
    ("<think>t</think><answer> \n </answer>", "empty_answer"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_broken_completions_are_refused_for_the_right_reason(text: str, reason: str) -> None:
    assert parse(text) == Malformed(reason)


def test_every_reason_has_a_completion_that_earns_it() -> None:
    assert {reason for _, reason in BROKEN} == set(REASONS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>" * 15_000, "several_thinks"),
        ("<think>t</think>" + "<answer>" * 15_000, "several_answers"),
        ("<" * 100_000, "no_think"),
        ("<think>" + "<thin" * 20_000, "unclosed_think"),
        ("<think>" + "</" * 50_000 + "</think>", "no_answer"),
        ("<think>t</think>" + " " * 100_000 + "x<answer>awe</answer>", "text_outside"),
        (" " * 100_000, "empty"),
    ],
)
def test_a_hostile_100_kb_completion_is_judged(text: str, reason: str) -> None:
    assert parse(text) == Malformed(reason)


def test_a_long_honest_completion_is_well_formed() -> None:
    think = "word " * 20_000
    assert parse(f"<think>{think}</think><answer>awe</answer>") == Response(think.strip(), "awe")


@pytest.mark.parametrize(
    ("think", "answer"),
    [("", "awe"), ("t", " "), ("t</think>", "awe"), ("t", "awe</answer><answer>fear"), ("<answer>", "awe")],
)
def test_text_that_would_not_parse_back_is_not_rendered(think: str, answer: str) -> None:
    with pytest.raises(ValueError, match="part"):
        render(think, answer)


OPENED = ("<|im_start|>assistant\n<think>\n", "Assistant: <think>", "<think></think><think>\n\n ")
NOT_OPENED = ("", "assistant\n", "<think>\n\n</think>\n\n", "Reason inside <think> </think>.\nassistant:", "<think>:")


@given(part, part, st.sampled_from((*OPENED, *NOT_OPENED)))
def test_what_is_written_behind_a_prompt_is_read_as_the_response(think: str, answer: str, prompt: str) -> None:
    text = render(think, answer)
    assert opens_thought(prompt) == (prompt in OPENED)
    written = continuation(prompt, text)
    assert completed(prompt, written) == text
    assert ("<think>" + written == text) == (prompt in OPENED)


@pytest.mark.parametrize("prompt", [*OPENED, *NOT_OPENED])
def test_a_direct_answer_closes_a_thought_that_was_opened_for_it(prompt: str) -> None:
    written = continuation(prompt, "awe")
    assert written == ("</think>\nawe" if prompt in OPENED else "awe")
    assert (answer_part(completed(prompt, written)) or "").strip() == "awe"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "unclosed_think"),
        ("on and on", "unclosed_think"),
        ("</think><answer>awe</answer>", "empty_think"),
        ("peaks</think> awe", "no_answer"),
        ("peaks</think><answer>awe", "unclosed_answer"),
        ("peaks</think><answer>awe</answer> so", "text_outside"),
        (GOOD, "several_thinks"),
        ("\n" + GOOD, "several_thinks"),
    ],
)
def test_an_opened_thought_is_judged_as_strictly(text: str, reason: str) -> None:
    assert parse(completed("<think>", text)) == Malformed(reason)
