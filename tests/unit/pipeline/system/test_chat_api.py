"""Servers of the chat API differ: where the thought stands, what an error looks like, which fields are taken."""

from __future__ import annotations

import pytest

from pipeline.system.chat_api import ErrorReply, adapted, address_hint, fields_not_taken, read_choice

SENT = ("model", "temperature", "top_p", "max_tokens", "seed")
PART = {"content": "<think>Tall peaks rise over"}


def of(**message):
    return read_choice({"choices": [{"message": message}]})[:2]


def test_the_thought_is_found_beside_or_within_the_text():
    assert of(content="red", reasoning_content="I see.") == ("red", "I see.")
    assert of(content="red", reasoning="I see.") == ("red", "I see.")
    assert of(content="red", reasoning=None, reasoning_content=None) == ("red", "")
    assert of(content=None, reasoning="I see") == ("", "I see")
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "I see."}]}, {"type": "text", "text": "red"}]
    assert of(content=parts) == ("red", "I see.")
    assert of(content=[{"type": "thinking", "thinking": "I see."}, {"type": "text", "text": "red"}]) == (
        "red",
        "I see.",
    )
    assert of(content="red \ud800", reasoning={"effort": 1}) == ("red ?", "")


@pytest.mark.parametrize(
    ("body", "words", "status"),
    [
        ({"error": {"message": "no such model", "code": 404}}, "no such model", 404),
        ({"error": {"message": "quota", "code": "insufficient_quota"}}, "quota", 0),
        ({"error": "overloaded"}, "overloaded", 0),
        ({"object": "error", "message": "too long", "code": 400}, "too long", 400),
        ({"choices": [], "error": {"message": "gone", "status": "503"}}, "gone", 503),
        ({"choices": [{"error": {"message": "upstream", "code": 502}, "message": {"content": ""}}]}, "upstream", 502),
        (
            {"choices": [{"error": {"message": "upstream", "code": 502}, "finish_reason": "error", "message": PART}]},
            "upstream",
            502,
        ),
        ({"choices": [{"finish_reason": "abort", "message": PART}]}, "broke its reply off", 0),
    ],
)
def test_an_error_with_status_200_is_told_in_its_own_words(body, words, status):
    with pytest.raises(ErrorReply, match=words) as caught:
        read_choice(body)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.", {"max_tokens"}),
        ("Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported.", {"temperature"}),
        ('[{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]', {"seed"}),
        ("`temperature` and `top_p` cannot both be specified; top_p is deprecated", {"temperature", "top_p"}),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", {"top_p"}),
        ("seed and stop are mutually exclusive", set()),
        ("Unrecognized request argument supplied: seed", {"seed"}),
        ("'max_tokens' or 'max_completion_tokens' is too large: 512. The maximum context length is 256 tokens", set()),
        ("temperature must be at most 1", set()),
        ("unsupported image type", set()),
        ("unknown field max_tokens_per_image", set()),
    ],
)  # fmt: skip
def test_fields_a_server_does_not_take_are_known_by_its_words(words, fields):
    assert fields_not_taken(words, SENT) == fields


def test_a_request_is_adapted_to_what_is_taken():
    body = {"temperature": 0.7, "max_tokens": 9, "seed": 1}
    assert adapted(body, {"max_tokens", "temperature"}) == {"max_completion_tokens": 9, "seed": 1}
    assert adapted(body, ()) == body


def test_a_missing_v1_is_hinted_at():
    assert "http://host:8000/v1" in address_hint("http://host:8000", 404)
    assert "http://host/v1" in address_hint("http://host/", 200)
    assert address_hint("http://host/openai/v1", 404) == ""
    assert address_hint("http://host/v1beta/openai", 404) == ""
    assert address_hint("http://host", 500) == ""


@pytest.mark.parametrize("before", ["", "\ufeff", "\u200b", "\ufeff\u2060"])
@pytest.mark.parametrize("behind", ["", "\u200b", "\ufeff"])
def test_signs_that_no_one_sees_are_taken_off_the_ends_of_a_reply_alone(before: str, behind: str) -> None:
    said = "<think>A\u200bB</think><answer>awe</answer>"
    completion = {"choices": [{"message": {"content": before + said + behind, "reasoning": before + "x" + behind}}]}
    assert read_choice(completion)[:2] == (said, "x")
