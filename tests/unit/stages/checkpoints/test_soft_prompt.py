"""A checkpoint that is given a soft prompt: what it says to its own prompts, to others, and what a killed start leaves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText, AutoTokenizer

from pipeline.config.families import tiny_families
from pipeline.config.schema import ModelConfig, RunConfig, StageConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from stages.checkpoints import soft_prompt
from stages.checkpoints.accept import START
from stages.models import chat
from stages.models.loading import load_processor, soft_prompt_ids
from stages.models.tiny import build_tiny
from stages.processes.work import Work

COUNT, TEXT = 5, "Which emotion"
TURNS = user_turn("Which emotion?", 1)
PICTURES = [Image.new("RGB", (64, 64), "orange")]
SIZES = {"hidden_size": 64, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 64, "vision_layers": 1}


def work_in(folder: Path, **fields: Any) -> Work:
    model = ModelConfig(peft={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": COUNT, **fields})
    stages = {"stage1_sft": StageConfig(algorithm="sft", init_from="base", data="labels")}
    work = Work(RunConfig(name="run", model=model, stages=stages), "stage1_sft", RunDir(folder, "run"))
    work.folder.mkdir(parents=True)
    return work


def tiny(folder: Path, family: str) -> Path:
    build_tiny(
        folder, TinyConfig(family=family, vocab_size=330, **SIZES), ["Which emotion? It's bright: joy."] * 3, seed=0
    )
    return folder


def model_in(folder: Path) -> Any:
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def embeddings(folder: Path) -> torch.Tensor:
    rows: torch.Tensor = model_in(folder).get_input_embeddings().weight.detach()
    return rows


@pytest.fixture(scope="module", params=tiny_families())
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("parent"), request.param)


@pytest.fixture(scope="module")
def start(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soft_prompt.starting_point(work_in(tmp_path_factory.mktemp("start")), parent)


def test_every_prompt_begins_with_the_soft_prompt_and_goes_on_as_the_parents(parent: Path, start: Path) -> None:
    before, after = (load_processor(folder, RunConfig()) for folder in (parent, start))
    texts = [chat.prompt_text(processor, TURNS) for processor in (before, after)]
    was, now = (chat.tokens_of(one, text, PICTURES) for one, text in zip((before, after), texts, strict=True))
    ids = soft_prompt_ids(after.tokenizer)
    assert len(ids) == COUNT
    assert list(now) == [*ids, *was] == chat.rollout_tokens(after, TURNS, PICTURES)
    assert after.tokenizer.decode(ids, skip_special_tokens=True) == ""
    # A server of text alone reads it so.
    assert AutoTokenizer.from_pretrained(start)(texts[1], add_special_tokens=False)["input_ids"][:COUNT] == ids


@torch.no_grad()
def test_on_the_parents_own_prompt_it_says_what_the_parent_says_and_hardly_a_soft_token(
    parent: Path, start: Path
) -> None:
    processor = load_processor(parent, RunConfig())
    inputs = processor(text=[chat.prompt_text(processor, TURNS)], images=[PICTURES], return_tensors="pt")
    was, now = (model_in(folder)(**inputs).logits for folder in (parent, start))
    known = len(processor.tokenizer)
    assert torch.equal(was[..., :known], now[..., :known])
    ids = soft_prompt_ids(load_processor(start, RunConfig()).tokenizer)
    assert float(now.softmax(-1)[..., ids].max()) <= 1 / known


def test_a_soft_prompt_begins_with_common_tokens_or_those_of_a_text(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    tokenizer, rows = load_processor(folder, RunConfig()).tokenizer, embeddings(folder)
    written = soft_prompt.starting_point(work_in(tmp_path / "text", prompt_tuning_init_text=TEXT), folder)
    ids = tokenizer(TEXT)["input_ids"]
    assert torch.equal(embeddings(written)[-COUNT:], rows[(ids * COUNT)[:COUNT]])
    drawn = embeddings(soft_prompt.starting_point(work_in(tmp_path / "drawn"), folder))[-COUNT:]
    assert all(any(torch.equal(row, one) for one in rows) for row in drawn)


def test_a_text_that_is_cut_is_told_and_one_without_tokens_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def tokenizer(text: str, **how: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text.replace("\u200b", "")]}

    with caplog.at_level("INFO"):
        assert soft_prompt._first_rows(tokenizer, "abc", 3, 0) == [97, 98, 99]
        assert not caplog.messages
        assert soft_prompt._first_rows(tokenizer, "abc", 2, 0) == [97, 98]
    assert "has 3 tokens; num_virtual_tokens 2 takes the first" in caplog.messages[0]
    with pytest.raises(UserError, match="has no token in the model's tokenizer"):
        soft_prompt._first_rows(tokenizer, "\u200b", 2, 0)


def test_it_takes_the_rows_that_an_embedding_has_to_spare(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    count = len(model.get_input_embeddings().weight) + COUNT + 2
    model.resize_token_embeddings(count)
    model.save_pretrained(folder)
    assert len(embeddings(soft_prompt.starting_point(work_in(tmp_path), folder))) == count


def test_a_parent_that_has_one_is_started_from_as_it_is(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    first = soft_prompt.starting_point(work_in(tmp_path / "one"), folder)
    work = work_in(tmp_path / "two")
    assert soft_prompt.starting_point(work, first) == first
    assert not (work.folder / START).exists()


def test_what_a_killed_start_left_is_written_anew_and_to_the_same_bytes(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    work, other = work_in(tmp_path / "one"), work_in(tmp_path / "two")
    (work.folder / f"{START}.partial").mkdir()
    (work.folder / f"{START}.partial" / "left.safetensors").touch()
    written, again = (soft_prompt.starting_point(one, folder) for one in (work, other))
    assert {path.name for path in written.iterdir()} == {path.name for path in again.iterdir()}
    assert all(path.read_bytes() == (again / path.name).read_bytes() for path in written.iterdir())
    assert [path.name for path in work.folder.iterdir()] == [START]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for message in messages %}", "<A>{% for message in messages %}"),
        ("{{ bos_token }}{% for", "{{ bos_token }}<A>{% for"),
        ("{{- bos_token -}}\n{% for", "{{- bos_token -}}<A>\n{% for"),
        ("{% set x = 1 %}{{ bos_token }}{% for", "{% set x = 1 %}{{ bos_token }}<A>{% for"),
    ],
)
def test_it_stands_behind_the_beginning_of_a_sequence_where_a_template_writes_one(template: str, expected: str) -> None:
    processor = SimpleNamespace(chat_template=template, tokenizer=SimpleNamespace(chat_template=None))
    soft_prompt._write_at_the_head(processor, "<A>")
    assert processor.chat_template == expected


@pytest.mark.parametrize("beginning", ["{{ '' ~ bos_token }}", "{% if no_such %}{{ bos_token }}{% endif %}"])
def test_a_template_whose_beginning_is_not_found_is_refused(beginning: str, tmp_path: Path) -> None:
    """The soft prompt would stand before it in SFT and behind it in rollouts, or not at all."""
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    processor = load_processor(folder, RunConfig())
    processor.tokenizer.bos_token = token = processor.tokenizer.convert_ids_to_tokens(7)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        f"{token} $A", special_tokens=[(token, 7)]
    )
    processor.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    template.write_text(beginning + template.read_text())
    with pytest.raises(UserError, match="no place for the soft prompt is found"):
        soft_prompt.starting_point(work_in(tmp_path), folder)


def test_it_is_written_to_each_of_several_templates(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "parent", "qwen2_5_vl")
    template = folder / "chat_template.jinja"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(template.read_text())
    processor = load_processor(soft_prompt.starting_point(work_in(tmp_path), folder), RunConfig())
    assert set(processor.chat_template) == {"default", "tool_use"}
    assert all(one.startswith("<|soft_prompt_0|>") for one in processor.chat_template.values())
    assert chat.rollout_tokens(processor, TURNS, PICTURES)[:COUNT] == soft_prompt_ids(processor.tokenizer)
