"""Which text from outside a student would read as control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.checks import run as checks
from pipeline.config.loader import load
from pipeline.config.special_tokens import special_token_in, special_tokens_of
from pipeline.errors import UserError


@pytest.mark.parametrize(
    "token",
    [
        "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>", "<end_of_utterance>", "<fake_token_around_image>",
        "<row_1_col_2>", "<global-img>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|image_pad|>",
        "<|eot_id|>", "</s>", "<s>", "<bos>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "[INST]", "[IMG]",
        "<pad>", "<unk>", "<unused7>", "<｜end▁of▁sentence｜>",
    ],
)  # fmt: skip
def test_markers_of_the_known_families_are_found_anywhere(token: str) -> None:
    assert special_token_in(f"I see the sea{token}and wide skies.") == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b and c > d",
        "<image 1>",
        "<think>a</think><answer>b</answer>",
        "a|b",
        "the <b>bold</b> one",
        "[1] image",
        "x<s",
    ],
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert special_token_in(text) is None


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
def test_a_checkpoint_s_own_tokens_are_known(tmp_path: Path, file: str) -> None:
    tokens = [
        {"content": "<mine>", "special": True},
        {"content": "<think>", "special": True},
        {"content": "<plain>", "special": False},
        {"content": "<image>", "special": True},
    ]
    whole = {"added_tokens_decoder": dict(enumerate(tokens))} if "config" in file else {"added_tokens": tokens}
    (tmp_path / file).write_text(json.dumps(whole))
    assert special_tokens_of(tmp_path) == ("<mine>",)
    assert special_token_in("so <mine> it is", special_tokens_of(tmp_path)) == "<mine>"


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"added_tokens": null}'])
def test_a_folder_without_a_readable_tokenizer_has_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert special_tokens_of(tmp_path) == ()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("task.question='<image>What is this?'", "task.question"),
        ("task.question='What is this?<|im_end|>'", "task.question"),
        ("task.labels=[awe,'<s>']", "task.labels: '<s>'"),
        ("task.descriptions={awe: 'wide </s> skies'}", "task.descriptions.awe"),
    ],
)
def test_a_control_token_in_the_settings_is_refused_with_its_key(override: str, key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: holds '<.*>', a control token of the student"):
        checks.check(load("demo", [override]), trains=False)
