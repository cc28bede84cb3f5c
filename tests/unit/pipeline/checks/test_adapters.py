"""What a run is told of the soft prompt of the model it starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.checks.adapters import soft_prompt_problems
from pipeline.config.schema import ModelConfig, RunConfig


@pytest.mark.parametrize(("there", "told"), [(0, False), (4, True), (6, False)])
def test_a_soft_prompt_of_another_length_than_the_models_is_refused(tmp_path: Path, there: int, told: bool) -> None:
    tokens = "".join(f"<|soft_prompt_{number}|>" for number in range(there))
    (tmp_path / "chat_template.jinja").write_text(tokens + "{{ messages }}")
    peft = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 6}
    problems = list(soft_prompt_problems(RunConfig(model=ModelConfig(name_or_path="m", peft=peft)), tmp_path))
    assert bool(problems) == told
    assert all(
        "num_virtual_tokens: 6" in one and "a soft prompt of 4" in one and "set it to 4" in one for one in problems
    )


@pytest.mark.parametrize(("there", "told"), [(0, False), (2, True)])
def test_a_text_that_a_soft_prompt_which_is_there_would_not_begin_with_is_refused(
    tmp_path: Path, there: int, told: bool
) -> None:
    tokens = "".join(f"<|soft_prompt_{number}|>" for number in range(there))
    (tmp_path / "chat_template.jinja").write_text(tokens + "{{ messages }}")
    peft = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2, "prompt_tuning_init_text": "Look closely."}
    problems = list(soft_prompt_problems(RunConfig(model=ModelConfig(name_or_path="m", peft=peft)), tmp_path))
    assert [one.partition(":")[0] for one in problems] == ["model.peft.prompt_tuning_init_text"] * told


def test_a_model_with_a_soft_prompt_may_train_otherwise(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("<|soft_prompt_0|>{{ messages }}")
    lora = ModelConfig(name_or_path="m", peft={"target_modules": ["q_proj"]})
    assert list(soft_prompt_problems(RunConfig(model=lora), tmp_path)) == []


@pytest.mark.parametrize(("written", "told"), [(4, False), (0, True), (3, True)])
def test_a_template_that_does_not_write_the_soft_prompt_of_its_tokenizer_is_refused(
    tmp_path: Path, written: int, told: bool
) -> None:
    tokens = [f"<|soft_prompt_{number}|>" for number in range(4)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": token} for token in tokens]}))
    (tmp_path / "chat_template.jinja").write_text("".join(tokens[:written]) + "{{ messages }}")
    peft = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}
    problems = list(soft_prompt_problems(RunConfig(model=ModelConfig(name_or_path="m", peft=peft)), tmp_path))
    assert len(problems) == told
    assert all(f"knows 4 tokens of a soft prompt and its chat template writes {written}" in one for one in problems)
