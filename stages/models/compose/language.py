"""The language model of a composed model: its weights from safetensors, GGUF or ONNX, its tokenizer, end token and template."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checks.parts import GGUF, ONNX, language_format, missing_package, onnx_file
from pipeline.data.chat import ANSWER
from pipeline.errors import UserError
from stages.models.compose.source import refusing

WHAT = "language model"
IMAGE_TOKEN = "<image>"
PREAMBLE = """\
{%- set ns = namespace(turns=[]) -%}
{%- for message in messages -%}
{%- if message.content is string or message.content is not iterable -%}
{%- set ns.turns = ns.turns + [message] -%}
{%- else -%}
{%- set said = namespace(text='') -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{%- set said.text = said.text + '<image>\\n' -%}
{%- elif part.type == 'text' -%}{%- set said.text = said.text + part.text -%}
{%- else -%}{{- raise_exception('this model reads pictures and texts, no ' ~ part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- set ns.turns = ns.turns + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = ns.turns -%}
"""
"""What stands before a language model's own template: contents given as lists of parts become the strings it expects."""
PLAIN = """\
{%- for message in messages -%}
{{- message.role ~ ': ' ~ message.content ~ (eos_token ~ '\\n' if message.role == 'assistant' else '\\n') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"""
"""The template of a language model that has none of its own."""


@dataclass(frozen=True)
class Language:
    """A causal language model as its source has it, in float32, with a tokenizer that knows a picture's place."""

    source: str
    kind: str
    """How its weights lay: safetensors, gguf or onnx."""
    model: Any
    tokenizer: Any
    template: str
    """Its chat template behind `PREAMBLE`."""
    has_template: bool
    image_token_id: int
    own_end: str | None
    """The end token its files name, which need not be the one that ends a turn."""

    @property
    def rows(self) -> int:
        """Tokens the model needs embeddings for: at least as many as its source has."""
        return max(self.model.get_input_embeddings().weight.shape[0], len(self.tokenizer))

    @property
    def special_ids(self) -> dict[str, int | None]:
        """The ids of begin, end and padding."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(self.tokenizer, name) for name in names}


def load_language(source: str, path: Path) -> Language:
    """Return a causal language model of a folder or GGUF file, with `<image>` in its tokenizer.

    Args:
        source: as the user names it.
        path: where that lies.

    Raises:
        UserError: when it is no causal language model that transformers have, a reader is missing, or it knows no end token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = language_format(path)
    if kind in (GGUF, ONNX) and (missing := missing_package(kind)):
        raise UserError(f"{WHAT}: {source!r} {missing}")
    folder = path if path.is_dir() else path.parent
    how: dict[str, Any] = {"trust_remote_code": False}
    if kind == GGUF:
        how["gguf_file"] = path.name if path.is_file() else next(path.glob("*.gguf")).name
    with refusing(source, WHAT):
        tokenizer = AutoTokenizer.from_pretrained(folder, **how)
        if kind == ONNX:
            from stages.models.compose.onnx_weights import load_onnx

            file = onnx_file(path)
            assert file is not None
            model = load_onnx(folder, file)
        else:
            more = how if kind == GGUF else {**how, "use_safetensors": True}
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **more
            )
            if lost := sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]})):
                raise ValueError(f"no value for {', '.join(lost[:3])}{f' and {len(lost) - 3} more' * (len(lost) > 3)}")
    model.eval().requires_grad_(False)
    _check_parts(model, source)
    own = tokenizer.get_chat_template() if tokenizer.chat_template else None
    own_end = tokenizer.eos_token
    _prepare(tokenizer, own, source)
    return Language(
        source,
        str(kind),
        model,
        tokenizer,
        PREAMBLE + (own or PLAIN),
        own is not None,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        own_end,
    )


def _check_parts(model: Any, source: str) -> None:
    """Refuse a language model that is more than a base model with `embed_tokens` and a plain head."""
    kind = model.config.model_type
    base, head = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if head is None or not hasattr(base, "embed_tokens"):
        raise UserError(
            f"{WHAT}: {source!r} ({kind}) has no base model with embed_tokens and a head, as LLaVA and FastVLM expect; take "
            "another, for example a llama, qwen2, qwen3 or smollm3"
        )
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"{WHAT}: the head of {source!r} ({kind}) has a bias, for which a composed model has no place; take another"
        )


def _prepare(tokenizer: Any, template: str | None, source: str) -> None:
    """Give a tokenizer the end of an assistant's turn as its end token, a padding token and a picture's place."""
    if template is not None and (end := turn_end(tokenizer, template)):
        tokenizer.eos_token = end
    if tokenizer.eos_token is None:
        raise UserError(f"{WHAT}: {source!r} has no end token; name one as eos_token in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)


def turn_end(tokenizer: Any, template: str) -> str | None:
    """Return the special token with which a template ends what an assistant said; None where it ends in none."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    behind = tokenizer(text.rpartition(ANSWER)[2], add_special_tokens=False)["input_ids"]
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((special[number] for number in behind if number in special), None)


def text_config(language: Language) -> Any:
    """Return the language model's configuration as a part of a composed one: larger by the new tokens, with its true end."""
    config = copy.deepcopy(language.model.config.get_text_config(decoder=True))
    if hasattr(config, "quantization_config"):
        # The weights are whole numbers no more.
        del config.quantization_config
    config.vocab_size = language.rows
    for name, value in language.special_ids.items():
        setattr(config, name, value)
    return config


def with_rows(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Return embeddings with rows added that are the mean of the others: such a token is never the likeliest."""
    more = rows - weight.shape[0]
    return torch.cat([weight, weight.mean(0, keepdim=True).expand(more, -1)]) if more else weight
