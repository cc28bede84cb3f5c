"""Whether the grammar survives the chat template and the tokenizer of a folder, without the libraries that train.

The base phase asks the same of the processor itself; what cannot be rendered here is left to it.
"""

from __future__ import annotations

import functools
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.checks.model_folder import chat_template
from pipeline.config.special_tokens import TAGS
from pipeline.data.chat import ANSWER, answer_behind, lost_response, without_question
from pipeline.data.conversations import assistant_turn, user_turn
from pipeline.errors import UserError
from pipeline.scoring.response import Malformed, completed, opens_thought, parse, render

_QUESTION = "What does the picture show?"


def chat_problems(folder: Path) -> list[str]:
    """Return why no answer could be right with the chat template and tokenizer of a folder."""
    template = chat_template(folder)
    prompt = None if template is None else _render(folder, template)
    if prompt is None or template is None:
        return []
    if _QUESTION not in prompt:
        return [without_question(prompt)]
    response = render("The picture shows it.", "joy")
    try:
        written = answer_behind(prompt, _render(folder, template, answered=True) or "", response)
    except UserError as error:
        return list(error.problems)
    back = _there_and_back(folder, written)
    if back is None:
        return []
    parsed = parse(completed(prompt, back))
    return [lost_response(response, completed(prompt, back), parsed.reason)] if isinstance(parsed, Malformed) else []


def opens_think(folder: Path) -> bool:
    """Check whether the prompts of a folder's chat template end with ``<think>``."""
    template = chat_template(folder)
    return template is not None and opens_thought(_render(folder, template) or "")


class _Generation(Extension):
    """The block {% generation %}, by which templates mark what the assistant said; here it only holds text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a plain set.

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _render(folder: Path, template: str, *, answered: bool = False) -> str | None:
    """A conversation as the template writes it; None for a template that only transformers can render."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, indent=how.get("indent"))
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    turns = [*user_turn(_QUESTION), *(assistant_turn(ANSWER) if answered else ())]
    try:
        return environment.from_string(template).render(
            messages=turns, tools=None, documents=None, add_generation_prompt=not answered, **_named_tokens(folder)
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and others that a template may write."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _mapping(folder / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def _mapping(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _there_and_back(folder: Path, text: str) -> str | None:
    """A text once it has been tokens, without special ones but for the tags; None without a tokenizer.json."""
    tokenizer = _tokenizer(folder / "tokenizer.json")
    if tokenizer is None:
        return None
    special = {
        number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and token.content not in TAGS
    }
    declared = _mapping(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    special |= {
        int(number) for number, one in declared.items() if one.get("special") and one.get("content") not in TAGS
    }
    named = set(_named_tokens(folder).values())
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    shown = [number for number in ids if number not in special and tokenizer.id_to_token(number) not in named]
    back: str = tokenizer.decode(shown, skip_special_tokens=False)
    return back


@functools.lru_cache(maxsize=2)
def _tokenizer(file: Path) -> Any:
    """What tokenizer.json describes; None where the library cannot read it, which the base phase will tell."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    # It has no exception of its own.
    except Exception:
        return None
