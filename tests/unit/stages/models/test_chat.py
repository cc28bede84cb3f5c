"""Chat templates and tokenizers as checkpoints have them: what is trained on is what is asked and read, or it is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import normalizers

from pipeline.checks import chat_files
from pipeline.checks.model_folder import folder_problems
from pipeline.config.schema import ModelConfig, RunConfig, TaskConfig, TinyConfig
from pipeline.data.conversations import user_turn
from pipeline.data.load import load_task
from pipeline.data.questions.prompting import PROMPT_STYLES
from pipeline.data.task import Task
from pipeline.scoring.response import TAGS, render
from pipeline.types import Question, labelled_image
from stages.models.chat import answer_text, chat_problems, prompt_text, read_completions, rollout_tokens, tokens_of
from stages.models.loading import load_processor
from stages.models.tiny import build_tiny

CONFIG = RunConfig(name="run", model=ModelConfig())
SMALL = {"hidden_size": 64, "layers": 1, "intermediate_size": 32, "vision_hidden_size": 64, "vision_layers": 1}
FAMILIES = ("idefics3", "qwen3_vl")
PICTURE = Image.new("RGB", (64, 64), "red")
RESPONSE = render("A red patch.", "awe")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load_task(TaskConfig(name="scenes"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("made") / request.param
    texts = [task.prompt(task.stand_ins("")[0], "think"), RESPONSE, *task.labels.names] * 3
    build_tiny(folder, TinyConfig(family=request.param, vocab_size=400, **SMALL), texts, seed=0)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def retemplate(folder: Path, change: Callable[[str], str]) -> Any:
    file = folder / "chat_template.jinja"
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    return load_processor(folder, CONFIG)


def begun(text: str) -> Callable[[str], str]:
    """Write more at the end of the generation prompt alone."""
    return lambda template: template + "{% if add_generation_prompt %}{{ " + json.dumps(text) + " }}{% endif %}"


def strips_thought(template: str) -> str:
    """Take the thought out of finished turns, as templates of thinking models do."""
    for part in ("line['text']", "content.text"):
        if part in template:
            stripped = f"({part}.split('</think>')[-1].strip() if message.role == 'assistant' else {part})"
            return template.replace(part, stripped)
    raise AssertionError(template)


TEMPLATES = {
    "opened": (begun("<think>\n"), "A red patch.</think>\n<answer>awe</answer>", "</think>\nawe"),
    "opened_at_once": (begun("<think>"), "A red patch.</think>\n<answer>awe</answer>", "</think>\nawe"),
    "opened_in_two_lines": (
        begun("\n<think>\n\n"),
        "A red patch.</think>\n<answer>awe</answer>",
        "</think>\nawe",
    ),
    "closed": (begun("<think>\n\n</think>\n\n"), RESPONSE, "awe"),
    "more_white_space": (begun("\n\n"), RESPONSE, "awe"),
    "stripped": (strips_thought, RESPONSE, "awe"),
    "stripped_and_opened": (
        lambda template: begun("<think>\n")(strips_thought(template)),
        "A red patch.</think>\n<answer>awe</answer>",
        "</think>\nawe",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_a_template_does_to_a_turn_the_answer_stands_behind_the_rollouts_prompt(
    folder: Path, task: Task, name: str
) -> None:
    change, *expected = TEMPLATES[name]
    processor = retemplate(folder, change)
    for style, response, wanted in zip(PROMPT_STYLES, (RESPONSE, "awe"), expected, strict=True):
        turns = user_turn(task.prompt(task.stand_ins("")[0], style))
        prompt, answer = prompt_text(processor, turns), answer_text(processor, turns, response)
        assert answer.lstrip(" ").startswith(wanted)
        asked = list(tokens_of(processor, prompt, [PICTURE]))
        assert asked == rollout_tokens(processor, turns, [PICTURE])
        (ids,) = processor(text=[answer], add_special_tokens=False)["input_ids"]
        (read,) = read_completions(processor.tokenizer, [asked], [ids])
        verdict = task.judge(labelled_image("", Path(), "awe"), read, style)
        assert (verdict.correct, verdict.think) == (True, "A red patch." if style == "think" else None)
        # The model writes a thought of its own in place of the one that was closed for it.
        if "opened" in name:
            (ids,) = processor(text=["a square</think>\n\nawe"], add_special_tokens=False)["input_ids"]
            (read,) = read_completions(processor.tokenizer, [asked], [ids])
            assert task.judge(labelled_image("", Path(), "awe"), read, "direct").correct
            assert task.judge(labelled_image("", Path(), "awe"), read.partition("</think>")[0], "direct").answer is None
    assert chat_problems(processor, task, task.stand_ins("")) == []
    assert chat_files.chat_problems(folder) == []
    assert chat_files.opens_think(folder) == ("opened" in name)


def test_tags_that_are_special_tokens_are_read(folder: Path, task: Task) -> None:
    processor = load_processor(folder, CONFIG)
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": tags}, replace_extra_special_tokens=False)
    processor.save_pretrained(folder)
    processor = load_processor(folder, CONFIG)
    turns = user_turn(task.prompt(task.stand_ins("")[0], "think"))
    (ids,) = processor(text=[answer_text(processor, turns, RESPONSE)], add_special_tokens=False)["input_ids"]
    assert "think" not in processor.tokenizer.decode(ids, skip_special_tokens=True)
    asked = list(tokens_of(processor, prompt_text(processor, turns), [PICTURE]))
    (read,) = read_completions(processor.tokenizer, [asked], [[*ids, processor.tokenizer.pad_token_id]])
    assert read.strip() == RESPONSE
    assert chat_problems(processor, task, task.stand_ins("")) == chat_files.chat_problems(folder) == []
    processor = retemplate(folder, begun("<think>\n"))
    assert chat_problems(processor, task, task.stand_ins("")) == chat_files.chat_problems(folder) == []


def normalised(processor: Any, *steps: Any) -> None:
    backend = processor.tokenizer.backend_tokenizer
    before = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([*before, *steps])


@pytest.mark.parametrize(
    ("steps", "survives"),
    [
        ((normalizers.Lowercase(),), True),
        ((normalizers.NFKC(),), True),
        ((normalizers.StripAccents(),), True),
        ((normalizers.Replace("<", "‹"),), False),
        ((normalizers.Replace("/", ""),), False),
        ((normalizers.Replace("answer", "reply"),), False),
        ((normalizers.Replace("think>", "think >"),), False),
    ],
    ids=str,
)
def test_a_grammar_that_a_tokenizer_writes_otherwise_is_refused(
    folder: Path, task: Task, steps: tuple[Any, ...], survives: bool
) -> None:
    # A tag that is one token is found before anything is normalised.
    written = json.loads((folder / "tokenizer.json").read_text())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in TAGS]
    (folder / "tokenizer.json").write_text(json.dumps(written))
    processor = load_processor(folder, CONFIG)
    normalised(processor, *steps)
    processor.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    chat_files._tokenizer.cache_clear()
    for told in (chat_problems(processor, task, task.stand_ins("")), chat_files.chat_problems(folder)):
        if survives:
            assert told == []
        else:
            assert told[0].startswith(
                "a right answer does not survive its tokenizer: '<think>The picture shows it.</think>"
            )
            assert "take another tokenizer" in told[0]


def test_labels_that_a_tokenizer_writes_otherwise_are_refused(folder: Path, task: Task) -> None:
    processor = load_processor(folder, CONFIG)
    normalised(processor, normalizers.Replace(task.labels.names[-1], "it"))
    told = chat_problems(processor, task, task.stand_ins(""))
    assert len(told) == len(PROMPT_STYLES)
    assert all("(not_a_label)" in one for one in told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda template: "<image>{% if add_generation_prompt %}A:{% endif %}", "leaves the question out"),
        (lambda template: begun("")(template).replace("message", "{{ raise_exception('no') }}"), "cannot be made"),
        (lambda template: "{{ messages[0]['content'][1]['text'] }}", "picture"),
        (lambda template: "{% if messages[-1].role == 'user' %}" + template + "{% else %}done{% endif %}", "'done'"),
        (lambda template: template + "{% if not add_generation_prompt %}###{% endif %}", "text_outside"),
    ],
    ids=["no_question", "broken", "no_picture", "no_answer", "end_of_turn_in_words"],
)
def test_a_template_in_which_nothing_can_be_right_is_refused(
    folder: Path, task: Task, change: Callable[[str], str], words: str
) -> None:
    told = chat_problems(retemplate(folder, change), task, task.stand_ins(""))
    assert told
    assert words in told[0]
    assert len(set(told)) == len(told)


def test_a_tokenizer_that_begins_prompts_by_itself_is_refused_unless_the_template_does(
    folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = load_processor(folder, CONFIG)
    call = type(processor).__call__

    def begins(self: Any, *args: Any, add_special_tokens: bool = True, **how: Any) -> Any:
        made = call(self, *args, add_special_tokens=False, **how)
        if add_special_tokens:
            made["input_ids"] = [[0, *ids] for ids in made["input_ids"]]
        return made

    monkeypatch.setattr(type(processor), "__call__", begins)
    told = chat_problems(processor, task, task.stand_ins(""))
    # Its template begins with bos_token, and then TRL adds none.
    if folder.name == "idefics3":
        assert told == []
        return
    assert len(told) == len(PROMPT_STYLES)
    assert all("another prompt than the rollouts of GRPO, from token 0 on" in one for one in told)
    assert "{{ bos_token }}" in told[0]


def test_a_template_that_lies_with_the_tokenizer_alone_is_used(folder: Path, task: Task) -> None:
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": file.read_text()}))
    file.unlink()
    assert folder_problems(folder) == []
    assert chat_problems(load_processor(folder, CONFIG), task, task.stand_ins("")) == []


def test_a_template_that_takes_pictures_out_of_their_places_is_refused(folder: Path, task: Task) -> None:
    first = "{% for p in messages[0].content if p.type == 'image' %}<image>{% endfor %}"
    rest = "{% for p in messages[0].content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    rows = [Question("7", (Path("a"), Path("b")), "Is <image 1> like <image 2>?", answer="awe")]
    asks = dataclasses.replace(task, prompt=lambda row, style: row.text)
    assert not [one for one in chat_problems(load_processor(folder, CONFIG), asks, rows) if "before the text" in one]
    processor = retemplate(folder, lambda template: first + rest)
    assert [
        one
        for one in chat_problems(processor, asks, rows)
        if "writes pictures before the text" in one and "row 7" in one
    ]
