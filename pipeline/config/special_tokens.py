"""Text from outside that a student's tokenizer would read as control tokens: an image's place, the end of a turn.

A reply that mentions ``<image>`` asks for a picture there is none of, and one with an end token in its reasoning teaches the
student to stop in mid-thought. Markers of the known families need no tokenizer; a checkpoint in a folder adds its own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Ours to write, also where a tokenizer counts them among its special tokens."""
_SOFT_PROMPT = re.compile(r"<\|soft_prompt_\d+\|>")
_KNOWN = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|<｜[^｜<>]{1,60}｜>|<unused\d+>|<row_\d+_col_\d+>|<(?:start|end)_of_[a-z_]{2,20}>|"
    r"</?(?:s|unk|pad|bos|eos|mask|cls|sep|img|image|video|audio|quad|IMG_CONTEXT|global-img|image_soft_token|"
    r"fake_token_around_image|image_newline)>|\[/?(?:INST|IMG|IMG_BREAK|IMG_END|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
)


def soft_prompt_token(number: int) -> str:
    """Return the name of a token of a soft prompt, counted from 0."""
    return f"<|soft_prompt_{number}|>"


def soft_prompt_length(text: str) -> int:
    """Return how many tokens of a soft prompt are named in a chat template, or in the text of a tokenizer's file."""
    return len(set(_SOFT_PROMPT.findall(text)))


def special_token_in(text: str, own: Iterable[str] = ()) -> str | None:
    """Return the first control token within a text, or None.

    Args:
        text: from outside: a reply, a question, a label.
        own: further tokens, of `special_tokens_of`.
    """
    if found := _KNOWN.search(text):
        return found.group()
    return next((token for token in own if token in text), None)


@functools.lru_cache(maxsize=8)
def special_tokens_of(folder: Path | None) -> tuple[str, ...]:
    """Return the special tokens of a checkpoint's tokenizer that are not known anyway; none without a folder or its files."""
    if folder is None:
        return ()
    config, whole = _read(folder / "tokenizer_config.json"), {}
    entries = list((config.get("added_tokens_decoder") or {}).values())
    if not entries:
        whole = _read(folder / "tokenizer.json")
        entries = list(whole.get("added_tokens") or ())
    found = [entry["content"] for entry in entries if entry.get("special") and isinstance(entry.get("content"), str)]
    return tuple(token for token in found if len(token) > 1 and token not in TAGS and not _KNOWN.fullmatch(token))


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
